"""Fits the confidence of model-free masks, and compares what it could be made of.

    python benchmarks/mask_confidence.py outputs/cutouts/domain --cache outputs/mask_evidence.jsonl

`domain` is made by benchmarks/cutouts.py with at least 3 poses. Reads only the objects whose name
has an even CRC-32, and birds of other seeds than those that docs quote. Everything here is judged
out of fold, in six folds over objects. The candidates and the evidence were chosen in trials on
these objects, for few failures (IoU < .5) among the most trusted, and for little evidence where two
choices were alike: only the other half says what they are worth. The floor's rule was set before
its table was seen: the lowest multiple of .05 at which at most .05 of the trusted photographs fail,
and in each set at most a quarter of what failed before. An object is judged with a chance of
foreground that was fitted without it (`mask_foreground.json` in `--results`, by
benchmarks/mask_foreground.py). Writes `mask_confidence.json` and `.md` to `--results`.

Rule for evidence of clutter (`clutter`), set before its lines of the table were seen: it is used
only if the failures of the hard photographs, on average over all shares, fall by at least .03, and
those among the .8 most trusted rise in no set by more than .01.

`--grey` does the same with grey copies, and writes `mask_confidence_grey.json` and `.md`. Rule for
them, set before their table and any mask of the other half was seen: images without colours get
weights of their own if at `consensus`' floor, .45, the rule of the floor holds out of fold, and at
least .30 of the ordinary photographs are trusted there (the weights fitted with colours: .15). If
the rule holds at a higher floor alone, the bias is lowered so that this floor is .45. Otherwise
they are left out as before. The other half is looked at once, and told whatever it says. (The rule
does not hold: the package has no such weights.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from parts.masks.fit_tables import compared_lines, floor_lines
from parts.masks.grey import textured
from parts.masks.photographs import BIRD_SEEDS, Photograph, birds, photographs, resized
from parts.masks.scores import FAILURE, GOOD_IOU, GOOD_RECALL
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from sgdmix_hub.files import write_json
from sgdmix_hub.method.confidence import CONSENSUS, evidence
from sgdmix_hub.method.outlines import contrast, narrow, sharpness, small_lab, widen
from sgdmix_hub.method.saliency.consensus import (
    DILATION,
    MASK_SIZE,
    candidates,
    chance_map,
    small_map,
)
from sgdmix_hub.method.saliency.foreground import Weights

FOLDS = 6
STEP = 0.02  # share of the image size on both sides of an outline
PENALTY = 2.0  # scikit-learn's C
SET_WEIGHTS = {"ordinary": 1.0, "hard": 1.0, "birds": 0.5}
BEFORE = {"ordinary": 0.447, "hard": 0.886}  # failures of `minimum barrier, GrabCut as before`
USED = tuple(CONSENSUS.weights)
COMPARED = {
    "used": USED,
    **{f"without {name}": tuple(one for one in USED if one != name) for name in USED},
    "with contrast and sharpness": (*USED, "contrast", "sharpness"),
    "with unsure": (*USED, "unsure"),
    "with entropy": (*USED, "entropy"),
    "with step": (*USED, "step"),
    "with unsure and step": (*USED, "unsure", "step"),
}


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool masks."""
    return float((mask & other).sum() / (mask | other).sum())


def judged(row: Photograph, weights: Weights) -> list[dict]:
    """Every candidate of an image: what is seen of it, its IoU and the share of the object kept."""
    pixels = np.ascontiguousarray(resized(row.image, MASK_SIZE))
    chance, lab = chance_map(pixels, weights), small_lab(pixels)
    true = resized(row.true.astype(np.uint8) * 255, MASK_SIZE) > 127
    found = []
    for mask in candidates(pixels, chance).values():
        kept = widen(mask, DILATION)
        found.append(
            {
                **evidence(lab, mask, small_map(chance)),
                **clutter(chance, mask),
                "contrast": float(np.log(contrast(lab, mask) + 1)),
                "sharpness": float(np.log(sharpness(lab, mask) + 0.1)),
                "iou": overlap(kept, true),
                "kept": float((kept & true).sum() / true.sum()),
            }
        )
    return found


def clutter(chance: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """What is seen of clutter: the share of pixels whose chance of foreground is `unsure`, the mean
    `entropy` of the chances, and the `step` of the chance across the mask's outline.
    """
    within = np.clip(chance, 1e-3, 1 - 1e-3)
    entropy = -within * np.log(within) - (1 - within) * np.log(1 - within)
    inner, outer = mask & ~narrow(mask, STEP), widen(mask, STEP) & ~mask
    step = chance[inner].mean() - chance[outer].mean() if inner.any() and outer.any() else 0.0
    return {
        "unsure": float(((chance > 0.3) & (chance < 0.7)).mean()),
        "entropy": float(entropy.mean()),
        "step": float(step),
    }


def without(path: Path) -> dict[str, Weights]:
    """Object -> the weights of the chance of foreground that were fitted without it."""
    results = json.loads(path.read_text())
    weights = Weights(**results["weights"])
    return {
        name: replace(weights, regions=fold["regions"], regions_bias=fold["regions_bias"])
        for fold in results["folds"]
        for name in fold["objects"]
    }


def images(rows: list[Photograph], cache: Path, weights: dict[str, Weights]) -> Iterator[dict]:
    """Set, object and candidates of every image; those in the cache are not made again."""
    known = {}
    if cache.exists():
        known = {line["name"]: line for line in map(json.loads, cache.read_text().splitlines())}
    with cache.open("a", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            name = f"{number} {row.kind} {row.obj}"
            if name not in known:
                known[name] = {
                    "name": name,
                    "set": row.kind,
                    "object": row.obj,
                    "candidates": judged(row, weights[row.obj]),
                }
                file.write(json.dumps(known[name]) + "\n")
                file.flush()
            yield known[name]


class Masks:
    """The candidates of all images that have any, as arrays with one row a candidate."""

    def __init__(self, found: list[dict]):
        found = [image for image in found if image["candidates"]]
        self.image = np.repeat(range(len(found)), [len(image["candidates"]) for image in found])
        self.of = [one for image in found for one in image["candidates"]]
        self.kind = np.array([image["set"] for image in found])
        self.object = np.array([image["object"] for image in found])
        self.iou = np.array([one["iou"] for one in self.of])
        self.good = (self.iou >= GOOD_IOU) & (
            np.array([one["kept"] for one in self.of]) >= GOOD_RECALL
        )
        weight = np.array([SET_WEIGHTS[kind] for kind in self.kind])
        self.weight = (weight / np.bincount(self.image))[self.image]

    def seen(self, names: tuple[str, ...]) -> np.ndarray:
        """float (candidates, names)"""
        return np.array([[one[name] for name in names] for one in self.of])

    def best(self, odds: np.ndarray) -> np.ndarray:
        """The position of each image's candidate of the highest odds."""
        order = np.lexsort((-odds, self.image))
        return order[np.unique(self.image[order], return_index=True)[1]]


def fitted(seen: np.ndarray, masks: Masks, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of a logistic model of good masks on some candidates."""
    mean, deviation = seen[rows].mean(axis=0), seen[rows].std(axis=0) + 1e-9
    model = LogisticRegression(C=PENALTY, max_iter=2000).fit(
        (seen[rows] - mean) / deviation, masks.good[rows], sample_weight=masks.weight[rows]
    )
    weights = model.coef_[0] / deviation
    return weights, float(model.intercept_[0] - weights @ mean)


def out_of_fold(masks: Masks, names: tuple[str, ...]) -> np.ndarray:
    """The log-odds of every candidate by a model of other objects."""
    seen, odds = masks.seen(names), np.zeros(len(masks.image))
    for fit, test in GroupKFold(FOLDS).split(seen, groups=masks.object[masks.image]):
        weights, bias = fitted(seen, masks, fit)
        odds[test] = seen[test] @ weights + bias
    return odds


def order_figures(masks: Masks, odds: np.ndarray) -> dict:
    """Of each set's best masks: failures among all, among the .8 most trusted, and on average."""
    best, figures = masks.best(odds), {}
    for kind in SET_WEIGHTS:
        own = best[masks.kind[masks.image[best]] == kind]
        failed = (masks.iou[own] < FAILURE)[np.argsort(-odds[own], kind="stable")]
        running = np.cumsum(failed) / np.arange(1, len(own) + 1)
        least = max(0, failed.sum() - len(own) // 5) / np.ceil(0.8 * len(own))
        figures[kind] = {
            "all": float(failed.mean()),
            "most trusted": float(running[int(np.ceil(0.8 * len(own))) - 1]),
            "most trusted, at best": float(least),
            "mean": float(running.mean()),
        }
    return figures


def floors(masks: Masks, trust: np.ndarray, best: np.ndarray) -> list[dict]:
    """What is kept at every multiple of .05, by set."""
    table = []
    for twentieths in range(1, 20):
        line: dict = {"floor": twentieths / 20}
        for kind in SET_WEIGHTS:
            own = masks.kind[masks.image[best]] == kind
            kept = best[own & (trust >= twentieths / 20)]
            line[kind] = {
                "kept": len(kept) / int(own.sum()),
                "failed": int((masks.iou[kept] < FAILURE).sum()),
                "masks": len(kept),
            }
        table.append(line)
    return table


def is_floor(line: dict) -> bool:
    """Whether a line of `floors` holds to the rule."""
    of = [line[kind] for kind in BEFORE]
    failed, kept = (sum(one[key] for one in of) for key in ("failed", "masks"))
    quarters = (
        line[kind]["failed"] <= line[kind]["masks"] * before / 4 for kind, before in BEFORE.items()
    )
    return failed <= 0.05 * kept and all(quarters)


def results_of(found: list[dict]) -> dict:
    masks = Masks(found)
    compared = {
        name: order_figures(masks, out_of_fold(masks, names)) for name, names in COMPARED.items()
    }
    odds = out_of_fold(masks, USED)
    best = masks.best(odds)
    # The chosen candidate is the one whose odds are most overrated: scaled to what was seen of it.
    scale = LogisticRegression(C=10).fit(
        odds[best][:, None],
        masks.good[best],
        sample_weight=[SET_WEIGHTS[kind] for kind in masks.kind[masks.image[best]]],
    )
    trust = scale.predict_proba(odds[best][:, None])[:, 1]
    slope, shift = float(scale.coef_[0, 0]), float(scale.intercept_[0])
    weights, bias = fitted(masks.seen(USED), masks, np.arange(len(masks.image)))
    kept = floors(masks, trust, best)
    return {
        "images": {kind: int((masks.kind == kind).sum()) for kind in SET_WEIGHTS},
        "objects": len(set(masks.object)),
        "compared": compared,
        "weights": dict(zip(USED, (weights * slope).round(2).tolist(), strict=True)),
        "bias": round(bias * slope + shift, 2),
        "floors": kept,
        "floor": next((line["floor"] for line in kept if is_floor(line)), None),
    }


def table(results: dict) -> str:
    least = ", ".join(
        f"{kind} {of['most trusted, at best']:.3f}"
        for kind, of in results["compared"]["used"].items()
    )
    lines = [
        *compared_lines(results, FOLDS, SET_WEIGHTS),
        "",
        f"The best possible order fails among the .8 most trusted at: {least}.",
        "",
        *floor_lines(results, SET_WEIGHTS),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("--cache", type=Path, required=True, help="file of what was seen so far")
    parser.add_argument("--poses", type=int, default=3, help="images per object and set")
    parser.add_argument("--birds", type=int, default=5, help="birds per species and seed")
    parser.add_argument("--grey", action="store_true", help="fit on grey copies, texture as colour")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    ending = "_grey" if arguments.grey else ""
    weights = without(arguments.results / f"mask_foreground{ending}.json")
    rows = [row for row in photographs(arguments.domain, None, arguments.poses) if row.chosen_on]
    rows += birds(BIRD_SEEDS[True], arguments.birds)
    if arguments.grey:
        rows = [textured(row) for row in rows]
    results = results_of(list(images(rows, arguments.cache, weights)))
    path = arguments.results / f"mask_confidence{ending}"
    write_json(path.with_suffix(".json"), results)
    text = table(results)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
