"""Where is a soft mask that a model predicted cut? By usable mixtures.

    python benchmarks/soft_cuts.py outputs/cutouts/domain outputs/isnet

`domain` is made by benchmarks/cutouts.py with 3 poses, `outputs/isnet` by benchmarks/onnx_masks.py.
Reads only the objects whose name has an even CRC-32, in three poses. Writes `soft_cuts.json` and
`.md` to `--results`.

Rules, set before any cut but .5 was tried on these images:

- A cut is judged by the share of usable mixtures if every image is mixed (as in
  benchmarks/masks.py), the mean of the sets `ordinary` and `hard`.
- No cut is taken whose failures (IoU below .5, both sets together) are more than those at .5 by
  over one photograph.
- Of the others, those within .01 of the best are alike. The first of these in the order of `CUTS`
  is taken, plain before dilated: so .5, as it was, wins every tie.
- Each is judged with the dilation of `consensus` too.

Otsu's threshold was taken. The package bounds it: it is not above .5, and a mask that is nowhere
above .5 shows nothing. The line `the package's` came after the
rules, which do not judge it.

The confidence is fitted to the masks of the cut that is taken by benchmarks/soft_confidence.py,
whose `--half told` looks at the other half, once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from parts.masks.photographs import Photograph, photographs
from parts.masks.scores import FAILURE, good_masks, interval, usable_mixtures

from sgdmix_hub.files import write_json
from sgdmix_hub.method.masks import CUT, centred, threshold
from sgdmix_hub.method.outlines import widen
from sgdmix_hub.method.saliency.consensus import DILATION
from sgdmix_hub.metrics.mask_quality import mask_iou

SETS = ("ordinary", "hard")
ALIKE = 0.01  # usable mixtures, in which two cuts are alike
MORE_FAILURES = 1  # photographs


def touching(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    """Hysteresis: the parts above `low` that reach above `high` somewhere."""

    def cut(alpha: np.ndarray) -> np.ndarray:
        _, parts = cv2.connectedComponents((alpha > low).astype(np.uint8), connectivity=8)
        return np.isin(parts, np.unique(parts[alpha > high]))

    return cut


# Name -> alpha, float32 (size, size) in [0, 1], to mask. The plainest first.
CUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0.5": lambda alpha: alpha > 0.5,
    "0.4": lambda alpha: alpha > 0.4,
    "0.3": lambda alpha: alpha > 0.3,
    "0.2": lambda alpha: alpha > 0.2,
    "Otsu": lambda alpha: alpha > threshold(alpha),
    "Otsu, at most 0.5": lambda alpha: alpha > min(threshold(alpha), 0.5),
    "0.3 where it touches 0.5": touching(0.3, 0.5),
    "0.2 where it touches 0.5": touching(0.2, 0.5),
}
BEFORE, PACKAGES = "0.5", "the package's"


def figures(rows: list[Photograph], masks: np.ndarray) -> dict:
    """What the masks of one set are worth, if every image is mixed."""
    true, objects = np.stack([row.true for row in rows]), np.array([row.obj for row in rows])
    iou = mask_iou(masks, true)
    return {
        "usable": interval(usable_mixtures(rows, masks), objects),
        "failures": int((iou < FAILURE).sum()),
        "good": interval(good_masks(masks, true).astype(float), objects),
        "iou": interval(iou, objects),
    }


def mean_usable(of: dict) -> float:
    return float(np.mean([of[kind]["usable"][0] for kind in SETS]))


def taken(compared: dict) -> str:
    """The cut that the rules take."""

    def failures(name: str) -> int:
        return sum(compared[name][kind]["failures"] for kind in SETS)

    most = failures(BEFORE) + MORE_FAILURES
    judged = [name for name in compared if name != PACKAGES]
    allowed = [name for name in judged if failures(name) <= most]
    best = max(mean_usable(compared[name]) for name in allowed)
    return next(name for name in allowed if mean_usable(compared[name]) >= best - ALIKE)


def table(results: dict) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in results["images"].items())
    lines = [
        f"{counts} images of the even half.",
        "",
        "Usable mixtures, failures, good masks, IoU:",
        "",
        f"| Cut | mean usable | {' | '.join(SETS)} |",
        "|---|---|---|---|",
    ]
    for name, of in results["compared"].items():
        cells = (
            f"{one['usable'][0]:.3f} ({one['usable'][1]:.2f} to {one['usable'][2]:.2f}), "
            f"{one['failures']}, {one['good'][0]:.3f}, {one['iou'][0]:.3f}"
            for one in (of[kind] for kind in SETS)
        )
        lines.append(f"| {name} | {mean_usable(of):.3f} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Taken: {results['taken']}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("segmenter_masks", type=Path, help="folder of a segmenter's masks")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = photographs(arguments.domain, arguments.segmenter_masks, 3)
    sets = {kind: [row for row in rows if row.chosen_on and row.kind == kind] for kind in SETS}
    compared: dict = {}
    for ending, dilated in (("", False), (", dilated", True)):
        for name, cut in CUTS.items():
            compared[name + ending] = {}
            for kind, of in sets.items():
                masks = [cut(row.alpha) for row in of]
                masks = [widen(mask, DILATION) for mask in masks] if dilated else masks
                compared[name + ending][kind] = figures(of, np.stack(masks))
    cut = {kind: np.stack([centred(row.alpha) > CUT for row in of]) for kind, of in sets.items()}
    compared[PACKAGES] = {kind: figures(of, cut[kind]) for kind, of in sets.items()}
    results = {
        "images": {kind: len(of) for kind, of in sets.items()},
        "compared": compared,
        "taken": taken(compared),
    }
    path = arguments.results / "soft_cuts"
    write_json(path.with_suffix(".json"), results)
    text = table(results)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
