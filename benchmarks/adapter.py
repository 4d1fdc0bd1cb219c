"""Measures whether an adapter learns the classes, and what tokens, LoRA and processes change.

    python benchmarks/adapter.py

Ten species of procedural birds, fifty training images each. A judge, trained on other real images,
says which class generated images show: from noise, and from mixed images (masks and inpainting of
`recommended`, the foreground refined like everything else) at four strengths; with the base alone,
with the learned tokens, with LoRA and tokens. Then the same adapter trained by one process and by
two, at the same total batch. Finished parts are kept in `work_dir`, so the same command continues.
Writes one JSON and one Markdown file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from sgdmix_hub import train_classifier
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.evaluation.adapter import class_scores, mixed_sources
from sgdmix_hub.files import read_json, write_atomically, write_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.loading import LoadedBase, load_base
from sgdmix_hub.models.bases.schedulers import with_scheduler
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.models.prompts import bare_prompt
from sgdmix_hub.models.sampling import draw_images
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.parsing import as_arguments, parse_settings, read_yaml
from sgdmix_hub.settings.training import ClassifierSettings

SPECIES, TRAIN, JUDGE, TEST = 10, 50, 200, 100
BASE = "sgdmix_hub/demo/tiny_base"
RECIPE = Path("sgdmix_hub/recipes/demo-birds")
DRAWING = {"resolution": 64, "num_inference_steps": 10, "guidance_scale": 3.0}
TRAINING = {"num_train_samples": 4800, "metaclass": "bird", "pretrained_model_name_or_path": BASE}
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
NOISE = "noise"
ARMS = ("base", "tokens", "LoRA + tokens")
BATCH = 10


def adapter_values(folder: Path, birds: Path) -> dict:
    return (
        read_yaml(RECIPE / "adapter.yaml")
        | DRAWING
        | TRAINING
        | {"dataset_name": str(birds), "output_dir": str(folder)}
    )


def words(values: dict) -> list[str]:
    return as_arguments(values)


def make_birds(folder: Path) -> None:
    """Training images, those of the judge (`validation`), and test images of its own."""
    if not folder.exists():
        splits = make_dataset(SPECIES, TRAIN, JUDGE, TEST, seed=0)
        write_atomically(folder, lambda temporary: save_dataset(splits, temporary))


def train_judge(folder: Path, birds: Path) -> None:
    values = {
        name: value
        for name, value in read_yaml(RECIPE / "classifier.yaml").items()
        if name != "synthetic_probability"
    }
    values |= {
        "dataset_name": str(birds),
        "dataset_split": "validation",
        "image_size": 64,
        "num_train_epochs": 16,
    }
    train_classifier.main(
        parse_settings(ClassifierSettings, words(values | {"output_dir": str(folder)}))
    )


def train_adapter(folder: Path, birds: Path, num_processes: int) -> Path:
    """Trains the demo's adapter in launched processes, at the recipe's total batch."""
    values = adapter_values(folder, birds)
    config = f"sgdmix_hub/accelerate_configs/cpu{num_processes}.yaml"
    command = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        config,
        "scripts/train_adapter.py",
        *words(values),
    ]
    subprocess.run([sys.executable, *command], check=True)
    return folder


def base_of(arm: str, adapter_folder: Path) -> tuple[LoadedBase, list[str]]:
    """The base with as much of the adapter as the arm says, and the classes' prompts."""
    base = load_base(resolve(BASE), torch.float32, "text_to_image")
    with_scheduler(base.pipeline, "dpmsolver++")
    adapter = read_adapter(resolve(str(adapter_folder)))
    if arm == "base":
        return base, [
            bare_prompt(adapter.facts["metaclass"], adapter.facts["prompt_template"])
        ] * SPECIES
    load_into(base, adapter)
    if arm == "tokens":
        base.denoiser.disable_adapters()
    return base, [adapter.prompt(label) for label in range(SPECIES)]


def judged_images(
    arm: str, adapter_folder: Path, judge: Judge, sources, strength: float | str
) -> dict:
    """What the judge says of one arm's images at one strength, or from noise."""
    base, prompts = base_of(arm, adapter_folder)
    options = {} if strength == NOISE else {"images": sources.images, "strength": strength}
    prompts = [prompts[label] for label in sources.labels]
    images = draw_images(
        base,
        prompts,
        sources.seeds,
        batch_size=BATCH,
        desc=f"{arm}, {strength}",
        **DRAWING,
        **options,
    )
    return class_scores(judge.predict(images).tolist(), sources.labels)


def losses(folder: Path) -> dict[int, float]:
    return dict(read_json(folder / FACTS_FILE)["loss_curve"])


def run(work_dir: Path, per_class: int) -> dict:
    """All figures; those that are there already are kept."""
    start_processes(num_threads=1)
    birds = work_dir / "birds"
    make_birds(birds)
    train_judge(work_dir / "judge", birds)
    one, two = (train_adapter(work_dir / f"adapter-{count}", birds, count) for count in (1, 2))
    settings = parse_settings(AdapterSettings, words(adapter_values(one, birds)))
    split = load_split(
        DataSettings(dataset_name=str(birds), output_dir="unused"),
        resolve(str(birds), repo_type="dataset"),
    )
    judge = Judge(resolve(str(work_dir / "judge")), split.class_names, torch.device("cpu"))
    sources = mixed_sources(settings, split, work_dir / "mixed", per_class)
    path = work_dir / f"figures-{len(sources.labels)}.json"
    figures = read_json(path) if path.exists() else {"cells": {}, "processes": {}}
    figures |= {
        "judge": judge.accuracy,
        "mixed": class_scores(judge.predict(sources.images).tolist(), sources.labels),
    }
    figures |= {
        "losses": {"1": losses(one), "2": losses(two)},
        "steps": settings.num_train_samples // settings.total_batch_size,
        "torch": torch.__version__.partition("+")[0],
    }
    for arm in ARMS:
        for strength in (NOISE, *STRENGTHS):
            if f"{arm}, {strength}" not in figures["cells"]:
                figures["cells"][f"{arm}, {strength}"] = judged_images(
                    arm, one, judge, sources, strength
                )
                write_json(path, figures)
    for strength in (NOISE, 0.7):
        if str(strength) not in figures["processes"]:
            figures["processes"][str(strength)] = judged_images(
                "LoRA + tokens", two, judge, sources, strength
            )
            write_json(path, figures)
    return figures


def shown(scores: dict) -> str:
    low, high = scores["interval"]
    return f"{scores['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def tables(figures: dict) -> str:
    cells, images = figures["cells"], figures["mixed"]["images"]
    lines = [
        f"{SPECIES} species of procedural birds, {TRAIN} training images each; {figures['steps']} "
        "steps of the demo's recipe on the tiny "
        f"base; {images} images a cell, {DRAWING['num_inference_steps']} steps, guidance "
        f"{DRAWING['guidance_scale']:g}; one seed; 95 % "
        f"Wilson intervals over images; chance {1 / SPECIES:g}. The judge is right on "
        f"{figures['judge']:.3f} of real test images, and sees "
        f"the source's class in {shown(figures['mixed'])} of the mixed images before refinement. "
        f"torch {figures['torch']}, CPU.",
        "",
        "| Share of images that show their class | from noise | "
        + " | ".join(f"S = {strength}" for strength in STRENGTHS)
        + " |",
        "|---|---|" + "---|" * len(STRENGTHS),
    ]
    for arm in ARMS:
        lines.append(
            f"| {arm} | "
            + " | ".join(shown(cells[f"{arm}, {strength}"]) for strength in (NOISE, *STRENGTHS))
            + " |"
        )
    one, two = (
        {int(step): loss for step, loss in figures["losses"][count].items()} for count in ("1", "2")
    )
    steps = [step for step in sorted(one) if step in two]
    steps = steps[:: max(1, len(steps) // 6)]
    largest = max(abs(one[step] - two[step]) for step in one if step in two)
    lines += [
        "",
        "The same adapter trained by one process and by two, at the same total batch:",
        "",
        "| Processes | "
        + " | ".join(f"loss at {step}" for step in steps)
        + " | from noise | S = 0.7 |",
        "|---|" + "---|" * (len(steps) + 2),
    ]
    for count, curve, scores in (("1", one, cells), ("2", two, None)):
        judged = [
            scores[f"LoRA + tokens, {s}"] if scores else figures["processes"][str(s)]
            for s in (NOISE, 0.7)
        ]
        lines.append(
            f"| {count} | "
            + " | ".join(f"{curve[step]:.4f}" for step in steps)
            + " | "
            + " | ".join(map(shown, judged))
            + " |"
        )
    lines.append(f"\nLargest difference of a loss, a mean over ten steps: {largest:.1e}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--images_per_class",
        type=int,
        default=TRAIN,
        help="mixed images of each species that are judged",
    )
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/benchmarks/adapter"),
        help="folder of the runs",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/adapter"),
        help="path of the .json and .md, without suffix",
    )
    arguments = parser.parse_args()
    figures = run(arguments.work_dir, arguments.images_per_class)
    arguments.results.with_suffix(".json").write_text(
        json.dumps(figures, sort_keys=True), encoding="utf-8"
    )
    arguments.results.with_suffix(".md").write_text(tables(figures), encoding="utf-8")
    print(tables(figures))


if __name__ == "__main__":
    main()
