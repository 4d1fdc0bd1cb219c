"""What a fit of a confidence was compared with, and what its floors would keep, in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterator

HOW = "Failures among all, among the .8 most trusted, and the mean over all shares:"


def compared_lines(results: dict, folds: int, kinds: Collection[str]) -> Iterator[str]:
    """The images, and the failures by what the confidence is made of. `kinds`: the sets."""
    counts = ", ".join(f"{count} {name}" for name, count in results["images"].items())
    yield f"{counts} images of {results['objects']} objects, in {folds} folds of objects."
    yield from ("", HOW, "", f"| Evidence | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|")
    for name, of in results["compared"].items():
        cells = (
            f"{of[kind]['all']:.3f}, {of[kind]['most trusted']:.3f}, {of[kind]['mean']:.3f}"
            for kind in kinds
        )
        yield f"| {name} | {' | '.join(cells)} |"


def floor_lines(results: dict, kinds: Collection[str]) -> Iterator[str]:
    """What was fitted, and what every floor keeps."""
    first, *others = kinds
    yield f"Weights {results['weights']}, bias {results['bias']}, floor {results['floor']}."
    yield from ("", f"| Floor | {' | '.join([f'{first}: kept, failed', *others])} |")
    yield "|---" * (1 + len(kinds)) + "|"
    for line in results["floors"]:
        cells = (
            f"{line[kind]['kept']:.2f}, {line[kind]['failed']} of {line[kind]['masks']}"
            for kind in kinds
        )
        yield f"| {line['floor']:.2f} | {' | '.join(cells)} |"
