"""One `total_batch_size`, one and two processes: are losses, weights and accuracy the same?

    python benchmarks/total_batch.py                              # all trainings
    python benchmarks/total_batch.py --trainings fine-tuning      # the others' figures stay

Trains on drawn birds: the demo's classifier from scratch (a ResNet, with batch normalisation and
mixup, AdamW), the same network fine-tuned on other birds as the recipe of CUB fine-tunes (SGD), and
the demo's adapter. Each in one process, in two processes at the same total batch, in two processes
that keep the batch of the one, so that a step sees twice the samples (what a batch size per process
means), and, for the classifiers, in one process whose sums are rounded otherwise. Finished
trainings in `work_dir` are kept, so the same command continues. Writes JSON and Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.files import read_json, write_atomically, write_json
from sgdmix_hub.settings.parsing import as_arguments, read_yaml

RECIPE = Path("sgdmix_hub/recipes/demo-birds")
SPECIES, TRAIN, VALIDATION, TEST = 6, 32, 1, 100
SHOWN = ("1", "2", "4", "8", "16", "32")  # steps of the table, besides the last
# Arm: processes, the factor of the total batch, and variables of the environment.
ROUNDED = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
ARMS: dict[str, tuple[int, int, dict[str, str]]] = {
    "1 process": (1, 1, {}),
    "2 processes, same total": (2, 1, {}),
    "2 processes, same batch each": (2, 2, {}),
}
# What rounding alone does to a training that magnifies it: it computes with narrower vectors.
CONTROL = {"1 process, rounded otherwise": (1, 1, ROUNDED)}
CLASSIFIER = {
    "eval_split": "test",
    "image_size": 64,
    "num_train_epochs": 6,
    "mixup_alpha": 0.2,
    "logging_steps": 1,
}
# As cub-sgdmix/classifier.yaml says, on the classifier that the other training leaves.
FINE_TUNING = {
    "from_scratch": False,
    "eval_split": "test",
    "image_size": 64,
    "num_train_epochs": 12,
    "total_batch_size": 64,
    "learning_rate": 0.05,
    "optim": "sgd",
    "weight_decay": 0.0005,
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


@dataclass(frozen=True)
class Training:
    """One training of this benchmark. `model`: "classifier" (or "adapter"), which names its files;
    `birds`: the seed that draws them; `continues`: the training whose first arm it begins with.
    """

    model: str
    settings: dict
    arms: dict[str, tuple[int, int, dict[str, str]]]
    birds: int = 0
    continues: str | None = None


TRAININGS = {
    "classifier": Training("classifier", CLASSIFIER, ARMS | CONTROL),
    "fine-tuning": Training("classifier", FINE_TUNING, ARMS | CONTROL, 1, "classifier"),
    "adapter": Training("adapter", ADAPTER, ARMS),
}
TITLES = {
    "classifier": "Classifier, from scratch, AdamW",
    "fine-tuning": "Classifier, fine-tuned on other birds, SGD",
    "adapter": "Adapter",
}
WEIGHTS = {"classifier": "model.safetensors", "adapter": "pytorch_lora_weights.safetensors"}


def birds_of(training: Training, work_dir: Path) -> Path:
    """The folder of a training's images, which are drawn if they are not there."""
    folder = work_dir / f"birds-{training.birds}"
    if not folder.exists():
        splits = make_dataset(SPECIES, TRAIN, VALIDATION, TEST, seed=training.birds)
        write_atomically(folder, lambda temporary: save_dataset(splits, temporary))
    return folder


def train(kind: str, work_dir: Path, arm: str) -> Path:
    """One training in launched processes, with the arm's factor of the total batch; its folder.

    The adapter's samples grow with it, as they did when its length was a number of steps.
    """
    training = TRAININGS[kind]
    processes, factor, environment = training.arms[arm]
    folder = work_dir / f"{kind}-{list(training.arms).index(arm)}"
    values = read_yaml(RECIPE / f"{training.model}.yaml") | training.settings
    values |= {"dataset_name": str(birds_of(training, work_dir)), "output_dir": str(folder)}
    if training.continues is not None:
        values["model"] = str(train(training.continues, work_dir, "1 process"))
    values["total_batch_size"] *= factor
    if training.model == "adapter":
        values["num_train_samples"] *= factor
    values.pop("synthetic_probability", None)
    config = f"sgdmix_hub/accelerate_configs/cpu{processes}.yaml"
    script = f"scripts/train_{training.model}.py"
    command = ["-m", "accelerate.commands.launch", "--config_file", config, script]
    command += as_arguments(values)
    subprocess.run([sys.executable, *command], check=True, env=os.environ | environment)
    return folder


def figures_of(model: str, folder: Path, reference: Path) -> dict:
    """Losses by step, accuracy, and the distance of the weights from those of one process."""
    facts = read_json(folder / f"{model}.json")
    ours, theirs = (load_file(path / WEIGHTS[model]) for path in (folder, reference))
    names = [name for name, value in theirs.items() if value.is_floating_point()]  # no counters
    squares = [(ours[name] - theirs[name]).square().sum() for name in names]
    length = sum(theirs[name].square().sum() for name in names)
    return {
        "losses": {str(step): loss for step, loss in facts["loss_curve"]},
        "accuracy": facts.get("metrics", {}).get("accuracy"),
        "distance": float((sum(squares) / length).sqrt()),
    }


def table(results: dict) -> str:
    lines = [
        f"CPU, one thread a process, torch {results['torch']}; {SPECIES} species, {TRAIN} training "
        f"and {TEST} test images each. Distance: of the weights from those of one process, "
        "relative to their norm. A classifier magnifies rounding, from scratch with AdamW more "
        "than fine-tuned with SGD: the last arm, one process with narrower vectors, says how much.",
    ]
    for kind, title in TITLES.items():
        if kind not in results["trainings"]:
            lines += ["", f"**{title}**: not measured"]
            continue
        arms = results["trainings"][kind]
        reference = arms["1 process"]["losses"]
        steps = sorted(reference, key=int)
        shown = [step for step in steps if step in (*SHOWN, steps[-1])]
        lines += ["", f"**{title}**: losses by step", ""]
        lines += [f"| | {' | '.join(shown)} | largest difference | accuracy | distance |"]
        lines += [f"|---|{'---|' * (len(shown) + 3)}"]
        for arm in TRAININGS[kind].arms:
            figures, losses = arms[arm], arms[arm]["losses"]
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
    parser.add_argument(
        "--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS), help="which to run"
    )
    arguments = parser.parse_args()
    path = arguments.results.with_suffix(".json")
    trainings = read_json(path)["trainings"] if path.exists() else {}
    for kind in arguments.trainings:
        training = TRAININGS[kind]
        folders = {arm: train(kind, arguments.work_dir, arm) for arm in training.arms}
        trainings[kind] = {
            arm: figures_of(training.model, folder, folders["1 process"])
            for arm, folder in folders.items()
        }
    results = {"torch": torch.__version__.partition("+")[0], "trainings": trainings}
    write_json(path, results)
    arguments.results.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
