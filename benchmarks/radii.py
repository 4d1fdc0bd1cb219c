"""GrabCut's radii: which seeds find the object in photographs and in drawn birds?

    python benchmarks/radii.py outputs/cutouts/domain

`domain` is made by benchmarks/cutouts.py. Measured on the half of the objects that constants are
chosen on, with masks of minimum barrier, and with true ones, which no refinement may spoil. Writes
`radii.json` and prints the table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
from parts.masks.arms import barrier, truth
from parts.masks.photographs import BIRD_SEEDS, birds, photographs
from parts.masks.scores import FAILURE, interval

from sgdmix_hub.method.masks import GrabCut, grabcut_mask
from sgdmix_hub.metrics.mask_quality import mask_iou

# (grabcut_radius, grabcut_background_radius), as shares of the image size
RADII = ((0.01, 0.05), (0.02, 0.05), (0.02, 0.1), (0.02, 0.2), (0.05, 0.15), (0.1, 0.3))
REFINED_BY = {
    f"{near:g} / {far:g}": GrabCut(probable_radius=near, background_radius=far)
    for near, far in RADII
} | {"0.02 / 0.1 at 256 pixels": GrabCut(size=256)}
SOURCES = {"minimum barrier": barrier, "true masks": truth}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    rows = [row for row in photographs(arguments.domain, None, 1) if row.chosen_on]
    sets = {kind: [row for row in rows if row.kind == kind] for kind in ("ordinary", "hard")}
    sets["birds"] = birds(BIRD_SEEDS[True], 5)
    cv2.setNumThreads(1)
    results: list[dict] = []
    for kind, of in sets.items():
        true, objects = np.stack([row.true for row in of]), np.array([row.obj for row in of])
        for source, find in SOURCES.items():
            found = [find(row) for row in of]
            spent: dict[str, float] = {}
            masks = {"no GrabCut": np.stack([coarse for _, coarse in found])}
            for name, grabcut in REFINED_BY.items():
                started = time.thread_time()
                masks[name] = np.stack(
                    [
                        grabcut_mask(row.image, scores, coarse, grabcut)
                        for row, (scores, coarse) in zip(of, found, strict=True)
                    ]
                )
                spent[name] = 1000 * (time.thread_time() - started) / len(of)
            for radii, made in masks.items():
                iou = mask_iou(made, true)
                figures = {"iou": interval(iou, objects)}
                figures["failures"] = interval((iou < FAILURE).astype(float), objects)
                figures["ms"] = round(spent.get(radii, 0.0), 1)
                results.append({"set": kind, "source": source, "radii": radii} | figures)
    path = arguments.results / "radii.json"
    path.write_text(json.dumps(results, sort_keys=True), encoding="utf-8")
    for line in results:
        iou, low, high = line["iou"]
        print(
            f"| {line['set']} | {line['source']} | {line['radii']} | {iou:.3f} ({low:.2f} to "
            f"{high:.2f}) | {line['failures'][0]:.2f} | {line['ms']:g} |"
        )


if __name__ == "__main__":
    main()
