"""What the demo's recipe does, over seeds: are masks right, are labels kept, does it help downstream?

    accelerate launch --config_file configs/accelerate/cpu2.yaml benchmarks/demo.py --seeds 1 2 3

A seed draws the species, the images, and everything that is trained. Every stage is a real run with the settings of
dataset_cards/demo-birds; finished ones are kept in `work_dir`, so the same command continues. Writes one JSON and one Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from transformers import AutoImageProcessor, AutoModelForImageClassification

from sgdmix_hub import augment, train_adapter, train_classifier
from sgdmix_hub.config import AdapterSettings, AugmentSettings, ClassifierSettings, apply_preset
from sgdmix_hub.data import decode_image, square
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.inputs import CLASSIFIER_FACTS, resolve_inputs
from sgdmix_hub.metrics.mask_iou import MaskIoU
from sgdmix_hub.parsing import parse_settings, read_yaml, yaml_text
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.processes import read_json, say, start_processes, wait_for_file, write_atomically, write_json
from sgdmix_hub.published import load_published
from sgdmix_hub.saliency import processor_size
from sgdmix_hub.saliency_store import compute_maps

RECIPE = Path("dataset_cards/demo-birds")
SPECIES, TRAIN, JUDGE, TEST = 6, 20, 200, 350
WITHOUT = {"foreground_strength": None, "paste_foreground": False}
ARMS = {
    "mixing only (S = 0)": {"strength": 0.0, **WITHOUT},
    "SGD-Mix, demo recipe": {},
    "the same, foreground refined too": WITHOUT,
    "SGD-Mix, paper preset at the same S": {"preset": "paper", **WITHOUT},
}
BASELINE = "real images only"


def settings_from(settings_class, recipe_file: str, **values):
    """A stage's settings: the demo recipe's file, and over it `values`; None takes a setting of the recipe back."""
    merged = read_yaml(RECIPE / recipe_file) | values
    return parse_settings(settings_class, [f"--{name}={yaml_text(v)}" for name, v in merged.items() if v is not None])


def make_domain(folder: Path, seed: int, tie: float, is_main: bool) -> None:
    """The domain of one seed; its validation split is large, because an independent judge is trained on it."""
    if is_main and not folder.exists():
        dataset = make_dataset(SPECIES, TRAIN, JUDGE, TEST, seed=seed, tie=tie)
        write_atomically(folder, lambda temporary: save_dataset(dataset, temporary))
    wait_for_file(folder)


def accuracy_on_rows(judge: Path, rows) -> float:
    """Share of an augmented dataset's images that a classifier trained on other real images gives their label."""
    model = AutoModelForImageClassification.from_pretrained(judge, use_safetensors=True).eval()
    processor = AutoImageProcessor.from_pretrained(judge)
    transform = train_classifier.evaluation_transform(processor, processor_size(processor))
    labels = rows.rows["label"]
    correct = 0
    with torch.no_grad():
        for start in range(0, len(labels), 32):
            positions = range(start, min(start + 32, len(labels)))
            logits = model(torch.stack([transform(rows.image(position)) for position in positions])).logits
            correct += int((logits.argmax(-1) == torch.tensor([labels[position] for position in positions])).sum())
    return correct / len(labels)


def mask_quality(settings: AugmentSettings, state) -> dict:
    """IoU of the generation's masks with the true ones, beside the best fixed mask's. A collective."""
    settings = apply_preset(settings)
    inputs = resolve_inputs(settings, Path(settings.output_dir) / "state")
    maps = compute_maps(settings, inputs.split, inputs.classifier, state.process_index, state.num_processes, state.device)
    pipeline = SGDMixPipeline(settings, refiner=None)
    found, true = [], []
    for row in inputs.split.subset.tolist():
        found.append(pipeline.mask(inputs.split.image(row), maps[row]).mask)
        mask = decode_image(inputs.split.rows[row]["mask"])
        true.append(np.asarray(square(mask, settings.resolution, settings.resize)) > 127)
    return MaskIoU().compute(predictions=np.stack(found).astype(np.uint8), references=np.stack(true).astype(np.uint8))


def run_seed(work_dir: Path, seed: int, tie: float, state) -> dict:
    """All stages of one seed; returns its figures (on rank 0; the other ranks return an empty dictionary)."""
    birds = work_dir / "birds"
    make_domain(birds, seed, tie, state.is_main_process)
    data = {"dataset_name": str(birds), "seed": seed}
    real = settings_from(ClassifierSettings, "classifier.yaml", output_dir=str(work_dir / "real"), **data)
    judge = settings_from(
        ClassifierSettings, "classifier.yaml", output_dir=str(work_dir / "judge"), dataset_split="validation", num_train_epochs=12, **data
    )
    base = {"pretrained_model_name_or_path": "sgdmix_hub/demo/tiny_base", "resolution": 64}
    adapter = settings_from(AdapterSettings, "adapter.yaml", metaclass="bird", output_dir=str(work_dir / "adapter"), **data, **base)
    for stage, settings in ((train_classifier, real), (train_classifier, judge), (train_adapter, adapter)):
        stage.main(settings)
    figures = {"accuracy": {BASELINE: accuracy(work_dir / "real")}, "judge on real": accuracy(work_dir / "judge")}
    figures |= {"label kept": {}, "masks": {}}
    for arm, changes in ARMS.items():
        folder = work_dir / f"arm-{list(ARMS).index(arm)}"
        links = {"classifier": str(work_dir / "real"), "adapter": str(work_dir / "adapter"), "output_dir": str(folder)}
        links["saliency_dir"] = str(work_dir / "saliency")
        generation = settings_from(AugmentSettings, "generate.yaml", **(data | base | links | changes))
        augment.main(generation)
        synthetic = {"synthetic": str(folder / "repo"), "output_dir": str(folder / "downstream")}
        train_classifier.main(settings_from(ClassifierSettings, "classifier.yaml", **data, **synthetic))
        masks = mask_quality(generation, state)
        if state.is_main_process:
            figures["accuracy"][arm] = accuracy(folder / "downstream")
            figures["label kept"][arm] = accuracy_on_rows(work_dir / "judge", load_published(str(folder / "repo")))
            figures["masks"][arm] = masks
        state.wait_for_everyone()
    return figures if state.is_main_process else {}


def accuracy(folder: Path) -> float:
    return read_json(folder / CLASSIFIER_FACTS)["metrics"]["accuracy"]


def interval(values: list[float]) -> str:
    """Mean and the half width of its 95 % t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(seeds: list[dict]) -> str:
    """The figures of all seeds as Markdown."""
    lines = [
        "| Arm | label kept (judge) | test accuracy | against real only, paired |",
        "|---|---|---|---|",
    ]
    baseline = [seed["accuracy"][BASELINE] for seed in seeds]
    for arm in (BASELINE, *ARMS):
        accuracies = [seed["accuracy"][arm] for seed in seeds]
        gain = interval([a - b for a, b in zip(accuracies, baseline, strict=True)]) if arm != BASELINE else ""
        kept = interval([seed["label kept"][arm] for seed in seeds]) if arm != BASELINE else ""
        lines.append(f"| {arm} | {kept} | {interval(accuracies)} | {gain} |")
    recipe, *_, paper = list(ARMS)[1:]
    masks = {
        "demo recipe: Grad-CAM, Otsu, GrabCut": [seed["masks"][recipe]["iou"] for seed in seeds],
        "paper preset: Grad-CAM, Otsu": [seed["masks"][paper]["iou"] for seed in seeds],
        "best fixed mask": [seed["masks"][recipe]["best_fixed_iou"] for seed in seeds],
    }
    lines += ["", "| Masks | IoU with the true foreground |", "|---|---|"]
    lines += [f"| {name} | {interval(values)} |" for name, values in masks.items()]
    judged = interval([seed["judge on real"] for seed in seeds])
    lines += ["", f"{len(seeds)} seeds, ± 95 % t-intervals over them; the judge is right on {judged} of real test images."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds; the recipe was chosen on seed 0")
    parser.add_argument("--tie", type=float, default=0.0, help="share of training images on their species' own background")
    parser.add_argument("--work_dir", default="outputs/benchmarks/demo", help="folder of the runs")
    parser.add_argument("--results", default="benchmarks/results/demo", help="path of the .json and .md, without suffix")
    arguments = parser.parse_args()
    state = start_processes(num_threads=1)
    seeds = []
    for seed in arguments.seeds:
        say(f"seed {seed}")
        seeds.append(run_seed(Path(arguments.work_dir) / f"seed-{seed}", seed, arguments.tie, state))
    if state.is_main_process:
        results = Path(arguments.results)
        facts = {"species": SPECIES, "train": TRAIN, "test": TEST, "tie": arguments.tie}
        write_json(results.with_suffix(".json"), {"domain": facts, "seeds": json.loads(json.dumps(seeds))})
        results.with_suffix(".md").write_text(table(seeds), encoding="utf-8")
        print(table(seeds))


if __name__ == "__main__":
    main()
