"""One `total_batch_size`, one and two processes: are losses, weights and accuracy the same?

    python benchmarks/total_batch.py

Trains the demo's classifier (a ResNet, with batch normalisation and mixup) and the demo's adapter
on drawn birds: in one process, in two processes at the same total batch, in two processes that keep
the batch of the one, so that a step sees twice the samples (what a batch size per process means),
and in one process whose sums are rounded otherwise. Finished trainings in `work_dir` are kept, so
the same command continues. Writes JSON and Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.files import read_json, write_atomically, write_json
from sgdmix_hub.settings.parsing import as_arguments, read_yaml

RECIPE = Path("sgdmix_hub/recipes/demo-birds")
SPECIES, TRAIN, VALIDATION, TEST = 6, 32, 1, 100
EVERY = 6  # logged steps of the table
# Arm: processes, the factor of the total batch, and variables of the environment. The last arm says
# what rounding alone does to a training: it computes with narrower vectors.
ROUNDED = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
ARMS: dict[str, tuple[int, int, dict[str, str]]] = {
    "1 process": (1, 1, {}),
    "2 processes, same total": (2, 1, {}),
    "2 processes, same batch each": (2, 2, {}),
    "1 process, rounded otherwise": (1, 1, ROUNDED),
}
CLASSIFIER = {
    "eval_split": "test",
    "image_size": 64,
    "num_train_epochs": 6,
    "mixup_alpha": 0.2,
    "logging_steps": 1,
}
ADAPTER = {
    "pretrained_model_name_or_path": "sgdmix_hub/demo/tiny_base",
    "metaclass": "bird",
    "resolution": 64,
    "num_train_samples": 480,
    "lr_warmup_steps": 0,
    "lora_dropout": 0.1,
    "logging_steps": 1,
}
TRAININGS = {
    "classifier": ("scripts/train_classifier.py", "classifier.yaml", CLASSIFIER),
    "adapter": ("scripts/train_adapter.py", "adapter.yaml", ADAPTER),
}
WEIGHTS = {"classifier": "model.safetensors", "adapter": "pytorch_lora_weights.safetensors"}
FACTS = {"classifier": "classifier.json", "adapter": "adapter.json"}


def train(
    kind: str,
    folder: Path,
    birds: Path,
    processes: int,
    factor: int,
    environment: dict[str, str],
) -> None:
    """One training in launched processes, with `factor` times the recipe's total batch.

    The adapter's samples grow with it, as they did when its length was a number of steps.
    """
    script, recipe, more = TRAININGS[kind]
    values = read_yaml(RECIPE / recipe) | more
    values |= {"dataset_name": str(birds), "output_dir": str(folder)}
    values["total_batch_size"] *= factor
    if kind == "adapter":
        values["num_train_samples"] *= factor
    values.pop("synthetic_probability", None)
    config = f"sgdmix_hub/accelerate_configs/cpu{processes}.yaml"
    command = ["-m", "accelerate.commands.launch", "--config_file", config, script]
    command += as_arguments(values)
    subprocess.run([sys.executable, *command], check=True, env=os.environ | environment)


def figures_of(kind: str, folder: Path, reference: Path) -> dict:
    """Losses by step, accuracy, and the distance of the weights from those of one process."""
    facts = read_json(folder / FACTS[kind])
    ours, theirs = (load_file(path / WEIGHTS[kind]) for path in (folder, reference))
    squares = [(ours[name].float() - theirs[name].float()).square().sum() for name in theirs]
    length = sum(value.float().square().sum() for value in theirs.values())
    return {
        "losses": dict(facts["loss_curve"]),
        "accuracy": facts.get("metrics", {}).get("accuracy"),
        "distance": float((sum(squares) / length).sqrt()),
    }


def table(results: dict) -> str:
    lines = [
        f"CPU, one thread a process, torch {results['torch']}; {SPECIES} species, {TRAIN} training "
        f"and {TEST} test images each. Distance: of the weights from those of one process, "
        "relative to their norm.",
    ]
    for kind, arms in results["trainings"].items():
        reference = arms["1 process"]["losses"]
        steps = sorted(reference, key=int)
        shown = [*steps[:1], *steps[EVERY - 1 :: EVERY]]
        shown = shown if shown[-1] == steps[-1] else [*shown, steps[-1]]
        lines += ["", f"**{kind.capitalize()}**: losses by step", ""]
        lines += [f"| | {' | '.join(shown)} | largest difference | accuracy | distance |"]
        lines += [f"|---|{'---|' * (len(shown) + 3)}"]
        for arm, figures in arms.items():
            losses = figures["losses"]
            values = [f"{losses[step]:.5f}" if step in losses else "-" for step in shown]
            common = [step for step in steps if step in losses]
            worst = max(abs(losses[step] - reference[step]) for step in common)
            accuracy = "-" if figures["accuracy"] is None else f"{figures['accuracy']:.4f}"
            lines.append(
                f"| {arm} | {' | '.join(values)} | {worst:.0e} | {accuracy} | "
                f"{figures['distance']:.0e} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/total_batch"))
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/total_batch"),
        help="the .json and .md, without suffix",
    )
    arguments = parser.parse_args()
    birds = arguments.work_dir / "birds"
    if not birds.exists():
        splits = make_dataset(SPECIES, TRAIN, VALIDATION, TEST, seed=0)
        write_atomically(birds, lambda temporary: save_dataset(splits, temporary))
    trainings: dict[str, dict] = {}
    for kind in TRAININGS:
        trainings[kind] = {}
        for number, (arm, options) in enumerate(ARMS.items()):
            folder = arguments.work_dir / f"{kind}-{number}"
            train(kind, folder, birds, *options)
            found = figures_of(kind, folder, arguments.work_dir / f"{kind}-0")
            found["losses"] = {str(step): loss for step, loss in found["losses"].items()}
            trainings[kind][arm] = found
    results = {"torch": torch.__version__.partition("+")[0], "trainings": trainings}
    write_json(arguments.results.with_suffix(".json"), results)
    arguments.results.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
