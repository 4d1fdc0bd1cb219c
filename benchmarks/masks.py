"""Which masks find the object in photographs? Every source and refinement against true masks.

    python benchmarks/masks.py outputs/cutouts/domain --segmenter_masks outputs/isnet \\
        --coverage_figure docs/masks_coverage.png

`domain` is made by benchmarks/cutouts.py, `--segmenter_masks` by benchmarks/onnx_masks.py. Writes
`masks.json` and `masks.md` to `--results`.

Rules, written down before the figures that docs quote were made: constants are chosen on the
objects whose name has an even CRC-32; docs quote the other half ("told"). A mask fails below an
IoU of .5. A mixture is usable if it keeps at least .9 of the source's foreground, replaces at least
.9 of its background and shows at most .1 of the target's foreground. Intervals are the 2.5 % and
97.5 % quantiles of 1,000 bootstrap draws of objects, never of images.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from parts.masks.drawing import draw_coverage, sheet
from parts.masks.self_trained import SIZE, predicted_shares, train_segmenter
from PIL import Image

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.demo.domain import make_dataset
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.method.masks import GrabCut, grabcut_mask, threshold, threshold_mask
from sgdmix_hub.method.mixing import compose, fill, inpainting_hole, kept_mask
from sgdmix_hub.method.outlines import widen
from sgdmix_hub.method.saliency.consensus import MASK_SIZE, consensus
from sgdmix_hub.method.saliency.model_free import minimum_barrier, spectral_residual
from sgdmix_hub.metrics.mask_quality import (
    best_fixed_iou,
    boundary_f,
    mask_iou,
    mask_precision,
    mask_recall,
)
from sgdmix_hub.metrics.mixture_quality import background_from_target, foreground_kept, leak
from sgdmix_hub.settings.method import SALIENCY_SOURCES

FAILURE = 0.5
GOOD_IOU, GOOD_RECALL = 0.7, 0.9  # of the masks that a confidence is the chance of
FLOOR = SALIENCY_SOURCES["consensus"].trusted_from
SHOWN = 12  # photographs of a sheet
DRAWS = 1000
BEFORE = GrabCut(probable_radius=0.1, background_radius=0.3, sharp=None)  # as released before
BIRD_SEEDS = {True: (20, 21), False: (30, 31)}  # chosen on, told on
FILLS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Telea": lambda image, hole: cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA),
    "Navier-Stokes": lambda image, hole: cv2.inpaint(
        image, hole.astype(np.uint8), 3, cv2.INPAINT_NS
    ),
    "push-pull": fill,
}


def chosen_on(name: str) -> bool:
    """Whether constants were chosen on the object of this name."""
    return zlib.crc32(name.encode()) % 2 == 0


@dataclass(frozen=True)
class Photograph:
    """One image of the domain: uint8 (size, size, 3), and its true mask, bool (size, size)."""

    kind: str
    obj: str
    image: np.ndarray
    true: np.ndarray
    ground: np.ndarray | None
    alpha: np.ndarray | None

    @property
    def chosen_on(self) -> bool:
        """Whether constants were chosen on this object."""
        return chosen_on(self.obj)


def photographs(domain: Path, masks: Path | None, poses: int) -> list[Photograph]:
    """The images of the first `poses` poses; of those without a segmenter's mask, none."""
    rows = []
    for row in json.loads((domain / "meta.json").read_text()):
        if row["pose"] >= poses:
            continue
        stem = domain / row["set"] / f"{row['index']:03d}"

        def grey(path: Path) -> np.ndarray:
            return np.asarray(Image.open(path).convert("L"))

        rows.append(
            Photograph(
                row["set"],
                row["object"],
                np.asarray(Image.open(f"{stem}.png").convert("RGB")),
                grey(Path(f"{stem}_mask.png")) > 127,
                np.asarray(Image.open(f"{stem}_ground.png").convert("RGB")),
                None
                if masks is None
                else grey(masks / f"{row['set']}_{row['index']:03d}.png") / np.float32(255),
            )
        )
    return rows


def birds(seeds: tuple[int, ...], count: int) -> list[Photograph]:
    """`count` procedural birds of each of six species for every seed; a species is an object."""
    rows = []
    for seed in seeds:
        for row in make_dataset(6, count, 1, 1, seed=seed, tie=0.95)["train"]:
            image, true = (np.asarray(row[name]) for name in ("image", "mask"))
            name = f"{seed}-{row['label']}"
            rows.append(Photograph("birds", name, image, true > 127, None, None))
    return rows


# ---- sources: photograph -> (map at 64x64, coarse mask at the image's size) ----


def small(image: np.ndarray, size: int = 64) -> np.ndarray:
    if image.shape[0] == size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def of_map(saliency_map: np.ndarray, photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    return saliency_map, threshold_mask(saliency_map, len(photograph.image))


def spectral(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    grey = cv2.cvtColor(small(photograph.image), cv2.COLOR_RGB2GRAY)
    return of_map(spectral_residual(grey.astype(np.float64)), photograph)


def barrier(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    return of_map(minimum_barrier(small(photograph.image)), photograph)


def segmenter(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    assert photograph.alpha is not None
    alpha = photograph.alpha
    return cv2.resize(alpha, (64, 64), interpolation=cv2.INTER_AREA), alpha > threshold(alpha)


def truth(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    share = photograph.true.astype(np.float32)
    return cv2.resize(share, (64, 64), interpolation=cv2.INTER_AREA), photograph.true


SOURCES = {
    "spectral residual": spectral,
    "minimum barrier": barrier,
    "segmenter (IS-Net, 512)": segmenter,
    "true masks": truth,
}
REFINEMENTS: dict[str, GrabCut | None] = {
    "": None,
    ", GrabCut as before": BEFORE,
    ", GrabCut": GrabCut(),
}


CONSENSUS, SELF_TRAINED = "consensus", "self-trained"


def all_masks(
    rows: list[Photograph], steps: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arm -> masks, bool (n, size, size), and the confidences, (n,), of the arms that state any.

    `steps`: of the training of the segmenter on the consensus' masks; 0 leaves it out.
    """
    masks: dict[str, np.ndarray] = {}
    trust: dict[str, np.ndarray] = {}
    for source, find in SOURCES.items():
        if find is segmenter and any(row.alpha is None for row in rows):
            continue
        found = [find(row) for row in rows]
        for refinement, grabcut in REFINEMENTS.items():
            if find is spectral and grabcut is not None:
                continue
            masks[source + refinement] = np.stack(
                [
                    coarse if grabcut is None else grabcut_mask(row.image, scores, coarse, grabcut)
                    for row, (scores, coarse) in zip(rows, found, strict=True)
                ]
            )
    at_size = [resized(row.image, MASK_SIZE) for row in rows]
    made = [consensus(image) for image in at_size]
    size = len(rows[0].image)
    masks[CONSENSUS] = np.stack([resize_mask(mask, size) for mask, _ in made])
    trust[CONSENSUS] = np.array([confidence for _, confidence in made])
    if steps:
        images = np.stack([resized(row.image, SIZE) for row in rows])
        coarse = np.stack([resize_mask(mask, SIZE) for mask, _ in made])
        model = train_segmenter(images, coarse, trust[CONSENSUS], seed=0, steps=steps)
        if model is not None:
            shares = predicted_shares(model, images)
            masks[SELF_TRAINED] = np.stack([resize_mask(share > 0.5, size) for share in shares])
            masks[SELF_TRAINED + ", GrabCut"] = np.stack(
                [
                    grabcut_mask(row.image, share, mask)
                    for row, share, mask in zip(rows, shares, masks[SELF_TRAINED], strict=True)
                ]
            )
    return masks, trust


def resized(image: np.ndarray, size: int) -> np.ndarray:
    interpolation = cv2.INTER_AREA if len(image) > size else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=interpolation)


# ---- figures ----


def interval(values: np.ndarray, objects: np.ndarray) -> tuple[float, float, float]:
    """(mean, lower, upper) of values per image, bootstrapped over objects."""
    names, position = np.unique(objects, return_inverse=True)
    sums = np.bincount(position, values, len(names))
    counts = np.bincount(position, minlength=len(names))
    drawn = np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return tuple(round(float(value), 4) for value in (values.mean(), low, high))


def usable_mixtures(rows: list[Photograph], masks: np.ndarray) -> np.ndarray:
    """Whether each image, mixed with the next one of another object, gives a usable mixture.

    The next in a shuffled order that is the same for every arm; a refused target is not usable.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    usable = np.zeros(len(rows))
    for place, source in enumerate(order):
        others = np.roll(order, -place - 1)
        target = next(other for other in others if rows[other].obj != rows[source].obj)
        kept = kept_mask(masks[source], masks[target], "inpaint")
        try:
            hole = inpainting_hole(masks[target])
        except UnusableRow:
            continue
        true_source, true_target = rows[source].true[None], rows[target].true[None]
        usable[source] = (
            foreground_kept(kept[None], true_source)[0] >= 0.9
            and background_from_target(kept[None], true_source)[0] >= 0.9
            and leak((~kept & ~hole)[None], true_target)[0] <= 0.1
        )
    return usable


def good_masks(masks: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Whether each mask is what a confidence is the chance of, bool (n,)."""
    return (mask_iou(masks, true) >= GOOD_IOU) & (mask_recall(masks, true) >= GOOD_RECALL)


def curve(trust: np.ndarray, failed: np.ndarray, good: np.ndarray) -> list[dict[str, float]]:
    """Failures and good masks among the most trusted, for every number of masks kept.

    `floor`: the least confidence that is kept.
    """
    order = np.argsort(-trust, kind="stable")
    numbers = np.arange(1, len(order) + 1)
    failures, right = (np.cumsum(one[order]) / numbers for one in (failed, good))
    return [
        {
            "coverage": round(float(number / len(order)), 4),
            "floor": round(float(trust[order[number - 1]]), 4),
            "failures": round(float(failures[number - 1]), 4),
            "good": round(float(right[number - 1]), 4),
        }
        for number in numbers
    ]


def reliability(trust: np.ndarray, good: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean confidence, share of good masks, masks) in five bins of confidence."""
    bins = np.minimum((trust * 5).astype(int), 4)
    return [
        (
            round(float(trust[bins == number].mean()), 3),
            round(float(good[bins == number].mean()), 3),
            int((bins == number).sum()),
        )
        for number in np.unique(bins)
    ]


def above_floor(
    rows: list[Photograph], masks: np.ndarray, trust: np.ndarray, floor: float
) -> dict[str, float]:
    """What is left of a set if masks below a confidence are neither mixed nor targets."""
    kept = np.flatnonzero(trust >= floor)
    kept_rows, kept_masks = [rows[place] for place in kept], masks[kept]
    true = np.stack([row.true for row in kept_rows])
    objects = np.array([row.obj for row in kept_rows])
    usable = usable_mixtures(kept_rows, kept_masks).astype(float)
    failed = (mask_iou(kept_masks, true) < FAILURE).astype(float)
    return {
        "floor": floor,
        "coverage": round(len(kept) / len(rows), 4),
        "failures": interval(failed, objects),
        "usable": interval(usable, objects),
    }


def scores(rows: list[Photograph], steps: int) -> dict:
    """Arm -> figure -> (mean, lower, upper) of one set, and what the confidences are worth."""
    true, objects = np.stack([row.true for row in rows]), np.array([row.obj for row in rows])
    arms: dict = {"best fixed mask": {"iou": (round(best_fixed_iou(true), 4),)}}
    found, trust = all_masks(rows, steps)
    trusted: dict = {}
    for arm, masks in found.items():
        iou = mask_iou(masks, true)
        if arm in trust:
            trusted[arm] = {
                "curve": curve(trust[arm], iou < FAILURE, good_masks(masks, true)),
                "reliability": reliability(trust[arm], good_masks(masks, true)),
                "trusted": above_floor(rows, masks, trust[arm], FLOOR),
            }
        values = {
            "iou": iou,
            "failures": iou < FAILURE,
            "precision": mask_precision(masks, true),
            "recall": mask_recall(masks, true),
            "boundary_f": boundary_f(masks, true),
            "usable": usable_mixtures(rows, masks),
        }
        arms[arm] = {name: interval(one.astype(float), objects) for name, one in values.items()}
    return {
        "images": len(rows),
        "objects": len(set(objects)),
        "arms": arms,
        "confidence": trusted,
    }


def fill_scores(rows: list[Photograph]) -> dict:
    """Fill -> PSNR in the hole, against the true background, and how much of its texture is there.

    `texture`: mean slope of the brightness in the hole over that of the true background.
    """
    figures: dict = {name: {"psnr": [], "texture": [], "ms": []} for name in FILLS}
    for row in rows:
        hole = widen(row.true, 0.02)
        assert row.ground is not None
        for name, function in FILLS.items():
            started = time.thread_time()
            filled = function(row.image, hole)
            figures[name]["ms"].append(1000 * (time.thread_time() - started))
            error = np.mean((filled[hole].astype(float) - row.ground[hole]) ** 2)
            figures[name]["psnr"].append(10 * np.log10(255**2 / max(error, 1e-9)))
            figures[name]["texture"].append(
                slope(filled)[hole].mean() / slope(row.ground)[hole].mean()
            )
    objects = np.array([row.obj for row in rows])
    return {
        name: {key: interval(np.array(value), objects) for key, value in of.items()}
        for name, of in figures.items()
    }


def slope(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def mixing_cost(rows: list[Photograph], size: int = 512, pairs: int = 20) -> dict:
    """Milliseconds of one thread: a JPEG's way in and out, and the mixing of a row with masks."""
    spent: dict[str, list[float]] = {"jpeg": [], "fill": [], "mix": []}
    images = [cv2.resize(row.image, (size, size)) for row in rows[: pairs + 1]]
    masks = [cv2.resize(row.true.astype(np.uint8), (size, size)) > 0 for row in rows[: pairs + 1]]
    for source, target in zip(range(pairs), range(1, pairs + 1), strict=True):
        started = time.thread_time()
        buffer = io.BytesIO()
        Image.fromarray(images[source]).save(buffer, "JPEG", quality=95)
        np.asarray(Image.open(buffer).convert("RGB"))
        coded = time.thread_time()
        hole = inpainting_hole(masks[target])
        background = fill(images[target], hole)
        filled = time.thread_time()
        compose(images[source], background, kept_mask(masks[source], hole, "inpaint"), 0.01)
        ended = time.thread_time()
        for name, seconds in zip(
            spent, (coded - started, filled - coded, ended - coded), strict=True
        ):
            spent[name].append(1000 * seconds)
    return {name: round(float(np.median(values)), 2) for name, values in spent.items()}


def consensus_cost(rows: list[Photograph], count: int = 20) -> float:
    """Milliseconds of one thread for a consensus mask, the median of some images."""
    spent = []
    for row in rows[:count]:
        image = resized(row.image, MASK_SIZE)
        started = time.thread_time()
        consensus(image)
        spent.append(1000 * (time.thread_time() - started))
    return round(float(np.median(spent)), 1)


def shown(rows: list[Photograph]) -> list[tuple]:
    """The entries of a sheet: some photographs, mixed with the next one that is trusted."""
    rows = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
    made = [consensus(resized(row.image, MASK_SIZE)) for row in rows]
    masks = [resize_mask(mask, len(row.image)) for row, (mask, _) in zip(rows, made, strict=True)]
    trusted = [confidence >= FLOOR for _, confidence in made]
    entries = []
    for number, row in enumerate(rows):
        mixture = None
        others = [place % len(rows) for place in range(number + 1, number + len(rows))]
        target = next((place for place in others if trusted[place]), None)
        if trusted[number] and target is not None:
            hole = inpainting_hole(masks[target])
            background = fill(rows[target].image, hole)
            mixture = compose(row.image, background, masks[number], 0.01)
        entries.append((row.image, masks[number], made[number][1], mixture))
    return entries


def table(figures: dict) -> str:
    """One set's masks as Markdown: means, with the bootstrap's bounds for IoU and failures."""
    lines = [
        f"{figures['images']} images of {figures['objects']} objects.\n",
        "| Mask | IoU | failures | precision | recall | boundary F | usable mixtures |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, of in figures["arms"].items():
        cells = []
        for name in ("iou", "failures", "precision", "recall", "boundary_f", "usable"):
            value = of.get(name, ())
            text = f"{value[0]:.3f}" if value else ""
            if len(value) == 3 and name in ("iou", "failures", "usable"):
                text += f" ({value[1]:.2f} to {value[2]:.2f})"
            cells.append(text)
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    for arm, of in figures["confidence"].items():
        marks = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        points = [
            next(point for point in of["curve"] if point["coverage"] >= mark) for mark in marks
        ]
        shares = ", ".join(f"{p['failures']:.2f} at {p['coverage']:.2f}" for p in points)
        right = ", ".join(f"{seen:.2f} for {said:.2f} ({n})" for said, seen, n in of["reliability"])
        lines.append(f"\n{arm}: failures by coverage: {shares}.")
        lines.append(f"Share of good masks, for the confidence stated (masks): {right}.")
        left = of["trusted"]
        lines.append(
            f"At {left['floor']:g} or more: {left['coverage']:.2f} of the images, "
            f"{left['failures'][0]:.2f} failures, {left['usable'][0]:.2f} "
            f"({left['usable'][1]:.2f} to {left['usable'][2]:.2f}) usable mixtures."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("--segmenter_masks", type=Path, help="folder of a segmenter's masks")
    parser.add_argument("--poses", type=int, default=1, help="images per object and set")
    parser.add_argument("--birds", type=int, default=5, help="birds per species and seed")
    parser.add_argument("--every", type=int, default=1, help="use every n-th image; for a trial")
    parser.add_argument("--steps", type=int, default=0, help="of the self-trained segmenter")
    parser.add_argument("--half", choices=("told", "chosen"), default="told")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sheet", type=Path, help="PNG to write of some photographs, and no table")
    parser.add_argument("--coverage_figure", type=Path, help="PNG of failures against coverage")
    arguments = parser.parse_args()
    chosen = arguments.half == "chosen"
    rows = photographs(arguments.domain, arguments.segmenter_masks, arguments.poses)
    rows = [row for row in rows if row.chosen_on == chosen][:: arguments.every]
    if arguments.sheet:
        sheet(shown(rows)).save(arguments.sheet, optimize=True)
        return
    sets = {kind: [row for row in rows if row.kind == kind] for kind in ("ordinary", "hard")}
    sets["birds"] = birds(BIRD_SEEDS[chosen], arguments.birds)[:: arguments.every]
    results: dict = {
        "half": arguments.half,
        "masks": {kind: scores(of, arguments.steps) for kind, of in sets.items()},
        "fill": fill_scores(rows),
        "mixing_ms": mixing_cost(rows),
        "consensus_ms": consensus_cost(rows),
    }
    if arguments.coverage_figure:
        sets_drawn = {kind: results["masks"][kind] for kind in ("ordinary", "hard")}
        curves = {kind: one["confidence"][CONSENSUS]["curve"] for kind, one in sets_drawn.items()}
        before = {
            kind: one["arms"]["minimum barrier, GrabCut as before"]["failures"][0]
            for kind, one in sets_drawn.items()
        }
        draw_coverage(curves, before, arguments.coverage_figure)
    name = "masks" if arguments.half == "told" else "masks_chosen"
    path = arguments.results / name
    path.with_suffix(".json").write_text(json.dumps(results, sort_keys=True), encoding="utf-8")
    text = "\n\n".join(
        f"## {kind.capitalize()}\n\n{table(of)}" for kind, of in results["masks"].items()
    )
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    costs = {name: results[name] for name in ("fill", "mixing_ms", "consensus_ms")}
    print(text, costs, sep="\n\n")


if __name__ == "__main__":
    main()
