"""Do legs, bills and antennae survive at 512 pixels? True masks, stored as sources store them.

    python benchmarks/cutouts.py outputs/cutouts_512 --size 512
    python benchmarks/thin_parts.py outputs/cutouts_512/domain

`outputs/cutouts_512` holds the unpacked packages of benchmarks/cutouts.py. A thin part is where a
disc of `WIDTH` pixels does not fit into the object, further than half of that from where it does.
Parts of less than `LEAST` pixels (hair, corners) do not count. Measured on every object that has
some. Writes `thin_parts.json` and prints it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from parts.masks.photographs import photographs
from parts.masks.scores import interval

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.method.masks import CUT, share_of_frame, threshold_mask
from sgdmix_hub.method.saliency.consensus import MASK_SIZE
from sgdmix_hub.method.saliency.model_free import MAP_SIZE

WIDTH, LEAST = 14, 100  # pixels


def thin_parts(mask: np.ndarray) -> np.ndarray:
    """What of a mask, bool (h, w), is thinner than `WIDTH` and not the edge of something thicker,
    in parts of at least `LEAST` pixels.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (WIDTH, WIDTH))
    thick = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc)
    thin = mask & ~cv2.dilate(thick, disc).astype(bool)
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(thin.astype(np.uint8))
    large = facts[:, cv2.CC_STAT_AREA] >= LEAST
    large[0] = False  # what is not thin
    return large[numbers]


def stored(mask: np.ndarray) -> dict[str, np.ndarray]:
    """The mask as it is cut after a source has stored it, bool (h, w)."""
    size = len(mask)
    share = share_of_frame(resize_mask(mask, MASK_SIZE), (size, size), None, size)
    cells = (MAP_SIZE, MAP_SIZE)
    coarse = cv2.resize(mask.astype(np.float32), cells, interpolation=cv2.INTER_AREA)
    return {"mask of 256x256": share > CUT, "map of 64x64, Otsu": threshold_mask(coarse, size)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json, at 512 pixels")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    kept: dict[str, list[float]] = {}
    objects = []
    for row in photographs(arguments.domain, None, 1):
        thin = thin_parts(row.true)
        if row.obj in objects or not thin.any():
            continue
        objects.append(row.obj)
        for name, mask in stored(row.true).items():
            kept.setdefault(name, []).append(float(mask[thin].mean()))
    results = {"objects": len(objects)} | {
        name: interval(np.array(shares), np.array(objects)) for name, shares in kept.items()
    }
    path = arguments.results / "thin_parts.json"
    path.write_text(json.dumps(results, sort_keys=True), encoding="utf-8")
    print(results)


if __name__ == "__main__":
    main()
