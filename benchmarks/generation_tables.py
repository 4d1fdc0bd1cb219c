"""The generation's figures as Markdown."""

from __future__ import annotations

NOT_MEASURED = "not measured"


def render(figures: dict) -> str:
    """All parts; what was not measured says so."""
    parts = {"speed": speed, "time": time_shares, "scaling": scaling, "memory": memory, "size": size, "gpu": gpu}
    lines = ["# Generation", "", "`python benchmarks/generation.py`", ""]
    for name, table in parts.items():
        lines += [f"## {TITLES[name]}", ""]
        if name not in figures:
            lines += [NOT_MEASURED, ""]
            continue
        lines += [f"Measured on {figures[name]['measured_on']}.", "", *table(figures[name]["figures"]), ""]
    return "\n".join(lines).rstrip() + "\n"


TITLES = {
    "speed": "Beside a sampler written the peers' way",
    "time": "Where the time goes",
    "scaling": "Two processes against one",
    "memory": "Anonymous memory",
    "size": "50,000 images, S = 0",
    "gpu": "On a GPU, in the shape of Stable Diffusion 1.5",
}


def speed(found: dict) -> list[str]:
    rows = ["| | ours, rows/s | reference, rows/s | ratio, median of turns | turns |", "|---|---|---|---|---|"]
    for place in ("one core", "all cores"):
        turns = found[place]["turns"]
        ours, reference = (sum(turn[kind] for turn in turns) / len(turns) for kind in ("ours", "reference"))
        ratios = ", ".join(f"{turn['ratio']:.2f}" for turn in turns)
        rows.append(f"| {place} | {ours:.2f} | {reference:.2f} | **{found[place]['ratio']:.2f}** | {ratios} |")
    note = f"Tiny base, 64x64, S = 0.7 of 25 steps, guidance 7.5, DPM-Solver++, {found['rows']} rows a turn, one thread, batch 8 or 1. "
    return [note + "`one core`: everything on one core, ours with its helper threads and processes.", "", *rows]


def time_shares(found: dict) -> list[str]:
    names = list(dict.fromkeys(name for shares in found.values() for name in shares))
    rows = [f"| preset, place | {' | '.join(names)} | outside UNet and VAE |", "|---|" + "---|" * (len(names) + 1)]
    for place, shares in found.items():
        outside = 1 - shares["UNet"] - shares["VAE"]
        rows.append(f"| {place} | {' | '.join(f'{shares[name]:.1%}' for name in names)} | **{outside:.1%}** |")
    return ["Shares of the main thread's wall time, in the setting of the first table.", "", *rows]


def scaling(found: dict) -> list[str]:
    rows = ["| pair | convolution, 2 over 1 | ours, 2 over 1 |", "|---|---|---|"]
    rows += [f"| {number} | {pair['convolution']:.2f} | {pair['ours']:.2f} |" for number, pair in enumerate(found["pairs"], start=1)]
    medians = found["medians"]
    rows.append(f"| median | {medians['convolution']:.2f} | {medians['ours']:.2f} |")
    return [f"Ours over the plain convolution's: **{found['ratio']:.2f}**. One core a process, all helpers included.", "", *rows]


def memory(found: dict) -> list[str]:
    rows = ["| run | rows | peak, MB | ratio |", "|---|---|---|---|"]
    for title, part in found.items():
        for number, (size_, peak) in enumerate(part["peaks"].items()):
            ratio = f"**{part['ratio']:.2f}**" if number else ""
            rows.append(f"| {title} | {int(size_):,} | {peak:.0f} | {ratio} |")
    return ["All processes of a run together, encoders included.", "", *rows]


def size(found: dict) -> list[str]:
    rows = ["| stage | seconds |", "|---|---|"]
    rows += [f"| {name} | {seconds:.0f} |" for name, seconds in found["stages"].items()]
    rows += [f"| whole run | {found['seconds']:.0f} |", f"| the same command again | {found['again_seconds']:.0f} |"]
    rate = 50_000 / found["stages"]["shards"]
    return [f"32x32, one process: {rate:.0f} rows/s in the shards, peak {found['peak_mb']:.0f} MB of anonymous memory.", "", *rows]


def gpu(found: dict) -> list[str]:
    rows = ["| batch | compiled | rows/s | over the reference | UNet TFLOP/s | of the matrix product's | UNet, share of time |"]
    rows.append("|---|---|---|---|---|---|---|")
    for one in found["ours"]:
        shares = [f"{one['unet_tflops']:.0f}", f"{one['share']:.0%}", f"{one['shares']['UNet']:.0%}"]
        compiled = "yes" if one["compiled"] else "no"
        rows.append(f"| {one['batch_size']} | {compiled} | {one['rate']:.2f} | **{one['ratio']:.2f}** | {' | '.join(shares)} |")
    return [f"{found['device']}, 512x512, float16; reference {found['reference']['rate']:.2f} rows/s.", "", *rows]
