"""The generation's figures as Markdown: what was wanted and found, then every part."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

NOT_MEASURED = "not measured"
MODEL = ("UNet", "VAE encode", "VAE decode")


def render(figures: dict) -> str:
    """All parts, as they were read from the JSON; what was not measured says so."""
    parts = {
        "Beside a sampler written the peers' way": ("speed", speed),
        "Where the time goes": ("time", time_shares),
        "Two processes against one": ("scaling", scaling),
        "Anonymous memory": ("memory", memory),
        "50,000 images, S = 0": ("size", size),
        "On a GPU, in the shape of Stable Diffusion 1.5": ("gpu", gpu),
        "The same, compiled": ("gpu-compiled", gpu),
        "On a GPU, in the shape of Stable Diffusion XL": ("gpu-sdxl", gpu),
        "On a GPU, in the shape of Z-Image": ("gpu-z-image", gpu),
        "The UNet of that shape alone": ("unet", unet),
    }
    lines = ["# Generation", "", "`python benchmarks/generation.py`", "", *summary(figures), ""]
    for title, (name, table) in parts.items():
        lines += [f"## {title}", ""]
        if name in figures:
            lines += [
                measured_on(figures[name]["machine"]),
                "",
                *table(figures[name]["figures"]),
                "",
            ]
        else:
            lines += [NOT_MEASURED, ""]
    return "\n".join(lines).rstrip() + "\n"


def measured_on(machine: dict) -> str:
    shared = f"shared with other work (load {machine['load']:.1f} when it began)"
    return (
        f"{machine['date']}, torch {machine['torch']}, {machine['cores']} {machine['processor']} "
        f"cores, {shared}."
    )


def table(*rows: tuple) -> list[str]:
    """Rows of cells; the first is the header."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


# ---- what was wanted ----


def summary(figures: dict) -> list[str]:
    """One line a target."""

    def found(part: str, show: Callable[[dict], str]) -> str:
        return show(figures[part]["figures"]) if part in figures else NOT_MEASURED

    def ratio_in(name: str) -> Callable[[dict], str]:
        return lambda speed: next(
            (f"{one['ratio']:.2f}" for one in speed["places"] if one["place"] == name), NOT_MEASURED
        )

    return table(
        ("", "wanted", "found"),
        (
            "rows/s over the reference's, all on one core",
            "at least 1.3",
            found("speed", ratio_in("one core")),
        ),
        ("the same, all cores free", "", found("speed", ratio_in("all cores"))),
        ("share of the time outside UNet and VAE", "at most 10 %", found("time", largest_outside)),
        (
            "two processes over one, over the same of a plain convolution",
            "at least 0.90",
            found("scaling", lambda f: f"{f['ratio']:.2f}"),
        ),
        (
            "anonymous memory, 20,000 rows over 1,000, S = 0",
            "at most 1.15",
            found("memory", lambda f: f"{f['runs'][0]['ratio']:.2f}"),
        ),
        (
            "the same, 2,000 over 200, one diffusion step",
            "at most 1.15",
            found("memory", lambda f: f"{f['runs'][1]['ratio']:.2f}"),
        ),
        (
            "on a GPU: rows/s over the reference's",
            "at least 5",
            found("gpu", lambda f: f"{f['ratio']:.2f}"),
        ),
        ("the same, compiled", "", found("gpu-compiled", lambda f: f"{f['ratio']:.2f}")),
        ("the same, SDXL's shape", "", found("gpu-sdxl", lambda f: f"{f['ratio']:.2f}")),
        ("the same, Z-Image's shape", "", found("gpu-z-image", lambda f: f"{f['ratio']:.2f}")),
        (
            "on a GPU: UNet FLOP/s over the matrix product's",
            "at least 40 %",
            found("unet", unet_shares),
        ),
    )


def largest_outside(found: dict) -> str:
    shares = [(outside(run), f"{run['preset']}, {run['place']}") for run in found["runs"]]
    return ", ".join(f"{share:.1%} ({name})" for share, name in shares)


def outside(run: dict) -> float:
    """The share of time outside UNet and VAE.

    On one core, the helpers' work also fills wall time while the main thread is inside the UNet, so
    there it is the share of all CPU time.
    """
    seconds = run["cpu"] if run["place"] == "one core" else run["wall"]
    return 1 - sum(seconds[name] for name in MODEL) / sum(seconds.values())


def unet_shares(found: dict) -> str:
    return ", ".join(
        f"{run['share']:.0%} ({'compiled' if run['compiled'] else 'eager'})"
        for run in found["runs"]
    )


# ---- the parts ----


def speed(found: dict) -> list[str]:
    rows = [
        (
            "",
            "ours, rows/s",
            "reference, rows/s",
            "ratio of the turns, median",
            "of CPU seconds",
            "turns",
        )
    ]
    for one in found["places"]:
        rates = [f"{rate(one['turns'], kind):.2f}" for kind in ("ours", "reference")]
        turns = ", ".join(f"{turn_ratio(turn):.2f}" for turn in one["turns"])
        rows.append(
            (one["place"], *rates, f"**{one['ratio']:.2f}**", f"{one['cpu_ratio']:.2f}", turns)
        )
    return [
        "Tiny base, 64x64, preset paper with spectral residual, S = 0.7 of 25 steps, guidance "
        f"7.5, DPM-Solver++, {found['rows']} rows a "
        "turn; one process, one thread in the model, batch 8 or, of the reference, 1. Ours has "
        "threads that mix ahead and processes that "
        "encode: `one core` keeps them and everything else on one, the reference as well. Rates "
        "are medians.",
        "",
        *table(*rows),
    ]


def rate(turns: list[dict], kind: str) -> float:
    return median(turn[kind]["rows"] / turn[kind]["seconds"] for turn in turns)


def turn_ratio(turn: dict) -> float:
    return rate([turn], "ours") / rate([turn], "reference")


def time_shares(found: dict) -> list[str]:
    return [
        f"As above, {found['rows']} rows. The main thread's time by the clock:",
        "",
        *shares_table(found["runs"], "wall"),
        "",
        "CPU time of all threads and processes, which other work on the cores disturbs less:",
        "",
        *shares_table(found["runs"], "cpu"),
    ]


def shares_table(runs: list[dict], kind: str) -> list[str]:
    names = [
        *MODEL,
        *dict.fromkeys(name for run in runs for name in run[kind] if name not in MODEL),
    ]
    rows = [("preset, place", *names, "outside UNet and VAE")]
    for run in runs:
        total = sum(run[kind].values())
        shares = {name: run[kind].get(name, 0) / total for name in names}
        rows.append(
            (
                f"{run['preset']}, {run['place']}",
                *map(percent, shares.values()),
                f"**{percent(1 - sum(map(shares.get, MODEL)))}**",
            )
        )
    return table(*rows)


def percent(share: float) -> str:
    return f"{share:.1%}"


def scaling(found: dict) -> list[str]:
    rows = [("pair", "convolution, 2 over 1", "ours, 2 over 1")]
    rows += [
        (number, f"{pair['convolution']:.2f}", f"{pair['ours']:.2f}")
        for number, pair in enumerate(found["pairs"], start=1)
    ]
    rows.append(("median", *(f"{found['medians'][kind]:.2f}" for kind in ("convolution", "ours"))))
    note = (
        f"{found['rows']} rows a process; a core of its own for each process with all its "
        "helpers. Ours over the convolution's: "
    )
    return [f"{note}**{found['ratio']:.2f}**.", "", *table(*rows)]


def memory(found: dict) -> list[str]:
    rows = [("run", "rows", "peak, MB", "ratio")]
    for part in found["runs"]:
        for run, shown in zip(part["runs"], ("", f"**{part['ratio']:.2f}**"), strict=True):
            rows.append((part["title"], f"{run['rows']:,}", f"{run['peak_mb']:.0f}", shown))
    return [
        "All processes of a run together, encoders included; images of 32x32 before mixing.",
        "",
        *table(*rows),
    ]


def size(found: dict) -> list[str]:
    rows = [("stage", "seconds", "rows/s")]
    for name, seconds in [*found["stages"], ("whole run", found["seconds"])]:
        rows.append((name, f"{seconds:.1f}", f"{found['rows'] / seconds:,.0f}"))
    rows.append(("the same command again", f"{found['again_seconds']:.1f}", ""))
    note = (
        f"{found['rows']:,} rows of 32x32, one process; peak of the anonymous memory: "
        f"{found['peak_mb']:.0f} MB."
    )
    return [note, "", *table(*rows)]


def gpu(found: dict) -> list[str]:
    wall = found["timed"]["wall"]
    beyond = 1 - sum(wall[name] for name in MODEL) / sum(wall.values())
    kinds = ("ours", "reference")
    rates = [rate(found["turns"], kind) for kind in kinds]
    turns = ", ".join(f"{turn_ratio(turn):.2f}" for turn in found["turns"])
    peaks = [max(turn[kind]["peak_gb"] for turn in found["turns"]) for kind in kinds]
    return [
        f"{found['device']}, {found['resolution']}x{found['resolution']}, batch "
        f"{found['batch_size']}, {found['dtype']}; the reference in "
        f"{found['reference_dtype']}. Settings as above, sampler {found['scheduler']}. Loading "
        f"both, and compiling where it is, took {found['loading_seconds']:.0f} s.",
        "",
        *table(
            (
                "",
                "rows/s",
                "denoising steps/s",
                "peak memory, GB",
                "ratio of the turns, median",
                "turns",
                "outside denoiser and VAE",
            ),
            *(
                (kind, f"{of_kind:.2f}", f"{of_kind * found['steps']:.1f}", f"{peak:.1f}", *beside)
                for kind, of_kind, peak, beside in zip(
                    kinds,
                    rates,
                    peaks,
                    ((f"**{found['ratio']:.2f}**", turns, percent(beyond)), ("", "", "")),
                    strict=True,
                )
            ),
        ),
    ]


def unet(found: dict) -> list[str]:
    names = list(dict.fromkeys(name for run in found["runs"] for name in run["kernels"]))
    rows = [("", "TFLOP/s", "of the matrix product's", *names)]
    for run in found["runs"]:
        shares = (percent(run["kernels"].get(name, 0)) for name in names)
        rows.append(
            (
                "compiled" if run["compiled"] else "eager",
                f"{run['tflops']:.0f}",
                f"**{run['share']:.0%}**",
                *shares,
            )
        )
    return [
        f"{found['device']}, {found['resolution']}x{found['resolution']}, {found['dtype']}, "
        f"{found['batch']} images a call; a large matrix "
        f"product runs at {found['product_tflops']:.0f} TFLOP/s. The last columns: what a call "
        "spends its time on.",
        "",
        *table(*rows),
    ]
