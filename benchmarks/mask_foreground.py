"""Fits the chance of foreground that `consensus` cuts its masks from.

    python benchmarks/mask_foreground.py outputs/cutouts/domain --poses 3

`domain` is made by benchmarks/cutouts.py. Reads only the objects whose name has an even CRC-32, and
birds of other seeds than those that docs quote. The features were chosen in trials on these
objects, by the squared error on objects and backgrounds that were both left out. Writes
`mask_foreground.json` to `--results`: the weights, which `sgdmix_hub/method/saliency/foreground.py`
holds, and those fitted without each of six folds of objects, with which
benchmarks/mask_confidence.py judges the objects of that fold. `--grey` does the same with grey
copies in which texture takes the place of colour, and writes `mask_foreground_grey.json`: a trial,
which docs/masks.md tells of, and no weights of the package.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from parts.masks.grey import textured
from parts.masks.logistic import logistic_weights
from parts.masks.photographs import BIRD_SEEDS, Photograph, birds, photographs, resized
from sklearn.model_selection import GroupKFold

from sgdmix_hub.files import write_json
from sgdmix_hub.method.outlines import small_lab
from sgdmix_hub.method.saliency.foreground import SIZE, Weights, pixel_evidence, region_chance
from sgdmix_hub.method.saliency.region_features import region_features
from sgdmix_hub.method.saliency.regions import Regions, superpixels

FOLDS = 6
SET_WEIGHTS = {"ordinary": 1.0, "hard": 1.0, "birds": 0.5}
ROWS = 100.0  # that an image counts as, against the ridge
EVERY = 11  # pixels, of which one is fitted on
IMAGE_SIZE = 256


@dataclass(frozen=True)
class Image:
    """An image, uint8 (256, 256, 3), its true foreground as shares, float32 (128, 128), its
    superpixels and their features.
    """

    kind: str
    obj: str
    pixels: np.ndarray
    true: np.ndarray
    regions: Regions
    seen: dict[str, np.ndarray]


def image_of(row: Photograph) -> Image:
    pixels = np.ascontiguousarray(resized(row.image, IMAGE_SIZE))
    true = resized(row.true.astype(np.float32), SIZE)
    regions = superpixels(cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return Image(row.kind, row.obj, pixels, true, regions, region_features(pixels, regions))


def fitted_regions(images: list[Image]) -> tuple[dict[str, float], float]:
    """Weights and bias of the first model."""
    seen = np.vstack([np.stack(list(image.seen.values()), axis=1) for image in images])
    share = np.concatenate([image.regions.mean(image.true) for image in images])
    weight = np.concatenate(
        [ROWS * SET_WEIGHTS[image.kind] * image.regions.areas for image in images]
    )
    weights, bias = logistic_weights(seen, share, weight)
    return named(images[0].seen, weights), round(bias, 3)


def fitted_pixels(images: list[Image], chances: list[np.ndarray]) -> tuple[dict[str, float], float]:
    """Weights and bias of the second model on what the first one gives."""
    found = [
        pixel_evidence(small_lab(image.pixels), chance)
        for image, chance in zip(images, chances, strict=True)
    ]
    seen = np.vstack(
        [np.stack([value.ravel()[::EVERY] for value in of.values()], axis=1) for of in found]
    )
    share = np.concatenate([image.true.ravel()[::EVERY] for image in images])
    pixels = len(share) // len(images)
    weight = np.repeat([ROWS * SET_WEIGHTS[image.kind] / pixels for image in images], pixels)
    weights, bias = logistic_weights(seen, share, weight)
    return named(found[0], weights), round(bias, 3)


def named(seen: dict, weights: np.ndarray) -> dict[str, float]:
    return dict(zip(seen, weights.round(3).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("--poses", type=int, default=3, help="images per object and set")
    parser.add_argument("--birds", type=int, default=5, help="birds per species and seed")
    parser.add_argument("--grey", action="store_true", help="fit on grey copies, texture as colour")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = [row for row in photographs(arguments.domain, None, arguments.poses) if row.chosen_on]
    rows += birds(BIRD_SEEDS[True], arguments.birds)
    images = [image_of(textured(row) if arguments.grey else row) for row in rows]
    objects = [image.obj for image in images]
    chances: list[np.ndarray] = [np.empty(0)] * len(images)
    folds = []
    for fit, test in GroupKFold(FOLDS).split(images, groups=objects):
        weights, bias = fitted_regions([images[place] for place in fit])
        folds.append({"objects": sorted({objects[place] for place in test})})
        folds[-1] |= {"regions": weights, "regions_bias": bias}
        for place in test:
            first = Weights(weights, bias, {}, 0.0)
            chances[place] = region_chance(images[place].pixels, first)
    pixels, pixels_bias = fitted_pixels(images, chances)
    weights = Weights(*fitted_regions(images), pixels, pixels_bias)
    results = {"images": len(images), "objects": len(set(objects)), "weights": asdict(weights)}
    name = "mask_foreground_grey.json" if arguments.grey else "mask_foreground.json"
    write_json(arguments.results / name, results | {"folds": folds})
    print(weights)


if __name__ == "__main__":
    main()
