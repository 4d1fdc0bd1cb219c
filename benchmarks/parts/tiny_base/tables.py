"""The figures of benchmarks/tiny_base.py as one Markdown table."""

from __future__ import annotations

from parts.tiny_base.scenes import ATTRIBUTES

ALL = "all"


def percent(figure: dict) -> str:
    """`81.2 ± 2.1`."""
    return f"{100 * figure['mean']:.1f} ± {100 * figure['half_width']:.1f}"


def columns_of(figures: dict) -> dict[str, dict]:
    """Title -> the figures of one set of images."""
    columns = {"real birds": figures["real"]}
    for name, base in figures["bases"].items():
        columns |= {
            f"{name}: through its autoencoder": base["reconstructions"],
            f"{name}: from captions": base["samples"],
        }
    return columns


def row(title: str, *cells: str) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def table(figures: dict) -> str:
    """One column for each set of images, one row for each figure."""
    columns = columns_of(figures)
    sets = list(columns.values())
    lines = [row("", "chance", *columns), "|---" * (len(columns) + 2) + "|"]
    for title, key in {"PSNR, dB": "psnr", "PSNR on the bird, dB": "psnr_on_bird"}.items():
        lines.append(row(title, "", *(f"{base[key]:.1f}" if key in base else "" for base in sets)))
    distances = [base["frechet"] for base in sets]
    lines.append(
        row(
            "Fréchet distance to other real birds",
            "",
            *(f"{d['distance']:.2f} ± {d['half_width']:.2f}" for d in distances),
        )
    )
    for name in (ALL, *ATTRIBUTES):
        title = "shown of what the caption says, %" if name == ALL else name.replace("_", " ")
        lines.append(
            row(
                title,
                f"{100 * figures['chance'][name]:.1f}",
                *(percent(base["shown"][name]) for base in sets),
            )
        )
    return "\n".join(lines)


def report(figures: dict) -> str:
    """How it was measured, in words, and the table."""
    judge, steps, guidance = (
        figures["judge"],
        figures["sampler"]["num_inference_steps"],
        figures["sampler"]["guidance_scale"],
    )
    head = (
        f"{figures['images']} held-out scenes with their captions; samples with {steps} steps at "
        f"guidance {guidance:g}. A ResNet trained "
        f"on {judge['images']} rendered birds for {judge['epochs']} epochs tells what an image "
        "shows: its answers on real birds are the "
        "ceiling, chance is the best constant answer. Fréchet distances are between its features "
        "and those of as many other real birds. "
        "± are 95 % intervals over images."
    )
    return f"{head}\n\n{table(figures)}\n"
