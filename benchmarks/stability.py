"""Does a mask's stability under a flip and a scale make its confidence better?

    python benchmarks/stability.py outputs/cutouts/domain --work_dir outputs/benchmarks/stability

`domain` is made by benchmarks/cutouts.py. Measured on the half of the objects that constants are
chosen on. Every image gets its `consensus` mask, that of the mirrored image, and that of the image
at .7 of its size; their IoU with the first, undone, is its stability. Two logistic models of a good
mask (as in `method.confidence`) are compared, cross-validated in ten parts that divide no object:
one of the stated confidence alone, one of it and both stabilities. Finished sets are kept in
`--work_dir`, so the same command resumes. Writes `stability.json` and prints the table.

The rule, written down before the run: stability becomes part of the confidence if it lowers the
cross-validated Brier score on the photographs, with an interval over objects that excludes zero.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from parts.masks.photographs import BIRD_SEEDS, Photograph, birds, photographs, resized
from parts.masks.scores import DRAWS, FAILURE, good_masks
from sklearn.linear_model import LogisticRegression

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.method.confidence import overlap
from sgdmix_hub.method.saliency.consensus import MASK_SIZE, consensus
from sgdmix_hub.metrics.mask_quality import mask_iou

SCALE = 0.7
PARTS = 10
KEPT = 0.8  # coverage at which failures are told
MODELS = {"confidence": [0], "confidence and stability": [0, 1, 2]}


def measured(rows: list[Photograph]) -> dict[str, list]:
    """The stated confidences, both stabilities, whether each mask is good, and whether it fails."""
    found: dict[str, list] = {name: [] for name in ("trust", "flip", "scale", "good", "failed")}
    side = round(SCALE * MASK_SIZE)
    for row in rows:
        image = resized(row.image, MASK_SIZE)
        mask, trust = consensus(image)
        mirrored, _ = consensus(np.ascontiguousarray(image[:, ::-1]))
        # smaller, on a frame of the image's own border colours
        border = (MASK_SIZE - side) // 2
        ends = (border, MASK_SIZE - side - border) * 2
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        shrunk, _ = consensus(cv2.copyMakeBorder(small, *ends, cv2.BORDER_REFLECT_101))
        inside = slice(border, border + side)
        true = resize_mask(row.true, MASK_SIZE)
        found["trust"].append(trust)
        found["flip"].append(overlap(mask, mirrored[:, ::-1]))
        found["scale"].append(overlap(mask, resize_mask(shrunk[inside, inside], MASK_SIZE)))
        found["good"].append(bool(good_masks(mask[None], true[None])[0]))
        found["failed"].append(bool(mask_iou(mask[None], true[None])[0] < FAILURE))
    return found


def cross_validated(values: np.ndarray, good: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Chances of a good mask, (n,), each from a model that did not see its object."""
    names = np.random.default_rng(0).permutation(np.unique(objects))
    part_of = {name: number % PARTS for number, name in enumerate(names)}
    parts = np.array([part_of[name] for name in objects])
    chances = np.empty(len(good))
    for part in range(PARTS):
        model = LogisticRegression(C=10).fit(values[parts != part], good[parts != part])
        chances[parts == part] = model.predict_proba(values[parts == part])[:, 1]
    return chances


def bounds(values: np.ndarray, objects: np.ndarray) -> list[float]:
    """Mean, and 2.5 % and 97.5 % quantiles over bootstrap draws of objects."""
    names, position = np.unique(objects, return_inverse=True)
    sums = np.bincount(position, values, len(names))
    counts = np.bincount(position, minlength=len(names))
    drawn = np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [round(float(one), 4) for one in (values.mean(), *np.quantile(means, (0.025, 0.975)))]


def figures(found: dict[str, list], objects: np.ndarray) -> dict:
    """Brier scores and failures at `KEPT` of both models, and the difference of their scores."""
    good, failed = np.array(found["good"]), np.array(found["failed"])
    trust = np.clip(found["trust"], 1e-4, 1 - 1e-4)
    odds = np.log(trust / (1 - trust))
    values = np.stack([odds, found["flip"], found["scale"]], axis=1)
    kept = round(KEPT * len(good))
    results: dict = {"images": len(good), "objects": len(np.unique(objects))}
    errors = {}
    for name, columns in MODELS.items():
        chances = cross_validated(values[:, columns], good, objects)
        errors[name] = (chances - good) ** 2
        most = np.argsort(-chances, kind="stable")[:kept]
        results[name] = {
            "brier": bounds(errors[name], objects),
            "failures": round(float(failed[most].mean()), 4),
        }
    alone, both = (errors[name] for name in MODELS)
    return results | {"brier_gain": bounds(alone - both, objects)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument(
        "--work_dir", type=Path, default=Path("outputs/benchmarks/stability"), help="to resume"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    rows = [row for row in photographs(arguments.domain, None, 1) if row.chosen_on]
    sets = {kind: [row for row in rows if row.kind == kind] for kind in ("ordinary", "hard")}
    sets["birds"] = birds(BIRD_SEEDS[True], 5)
    found, objects = {}, {}
    for kind, of in sets.items():
        path = arguments.work_dir / f"{kind}.json"
        if not path.exists():
            path.write_text(json.dumps(measured(of)), encoding="utf-8")
        found[kind] = json.loads(path.read_text(encoding="utf-8"))
        objects[kind] = np.array([row.obj for row in of])
    both = ("ordinary", "hard")
    together = {name: [*found["ordinary"][name], *found["hard"][name]] for name in found["hard"]}
    results = {
        "photographs": figures(together, np.concatenate([objects[kind] for kind in both])),
        **{kind: figures(found[kind], objects[kind]) for kind in sets},
    }
    path = arguments.results / "stability.json"
    path.write_text(json.dumps(results, sort_keys=True), encoding="utf-8")
    for kind, of in results.items():
        print(kind, of["images"], *((name, of[name]) for name in MODELS), of["brier_gain"])


if __name__ == "__main__":
    main()
