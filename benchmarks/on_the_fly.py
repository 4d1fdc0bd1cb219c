"""Mixing on the fly: its speed beside a data loader alone, and its accuracy beside a published set.

    python benchmarks/on_the_fly.py --speed
    python benchmarks/on_the_fly.py --seeds 1 2 3 4 5

Speed is of one worker on JPEG photographs. Accuracy is on drawn birds under background shift, where
all arms share one training loop. What was measured before is kept, in `work_dir` and `results`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from datasets import disable_progress_bars
from parts.intervals import interval, paired
from parts.on_the_fly.speed import INPUTS, measure
from parts.on_the_fly.training import (
    ARMS,
    BANK,
    EPOCHS,
    FLY,
    FLY_BANK,
    PROBABILITY,
    PUBLISHED,
    PUBLISHED_BANK,
    Domain,
    accuracies,
)

from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.runtime.ranks import start_processes

PAIRS = ((FLY, PUBLISHED), (FLY_BANK, PUBLISHED_BANK), (PUBLISHED_BANK, PUBLISHED), (FLY_BANK, FLY))


def speed_table(speeds: list[dict]) -> str:
    """Median images a second, and its ratio to the data loader alone in the same pass."""
    lines = [
        "| Photographs, input of the network | Arm | images a CPU second | of the loader alone |",
        "|---|---|---|---|",
    ]
    for size in sorted({speed["size"] for speed in speeds}):
        rows = [speed for speed in speeds if speed["size"] == size]
        alone = np.array(rows[0]["passes"])
        for row in rows:
            passes = np.array(row["passes"])
            ratio = np.median(passes / alone)
            lines.append(
                f"| {round(size * 4 / 3)}x{size} JPEG, {INPUTS[size]} | {row['arm']} | "
                f"{np.median(passes):.0f} | {ratio:.2f} |"
            )
    return "\n".join(lines)


def accuracy_tables(seeds: dict[str, dict]) -> str:
    """Accuracies over seeds, and the paired differences that were asked for."""
    lines = ["| Trained on | test accuracy | on the four rare landscapes |", "|---|---|---|"]
    for arm in ARMS:
        ran = [seed[arm] for seed in seeds.values() if arm in seed]
        if ran:
            cells = (interval([one[name] for one in ran]) for name in ("all", "rare landscapes"))
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", "| Difference, paired by seed | all | on the rare landscapes |", "|---|---|---|"]
    for first, second in PAIRS:
        both = [seed for seed in seeds.values() if first in seed and second in seed]
        if both:
            cells = (
                paired([seed[first][name] for seed in both], [seed[second][name] for seed in both])
                for name in ("all", "rare landscapes")
            )
            lines.append(f"| {first} - {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(figures: dict) -> str:
    parts = ["# Mixing on the fly"]
    if figures["speed"]:
        parts.append(
            "Speed of one worker: decoding, mixing, RandomResizedCrop, flips, a tensor; CPU time "
            f"of the loading process, {figures['machine']}. Median over passes in turn.\n\n"
            + speed_table(figures["speed"])
        )
    if figures["seeds"]:
        parts.append(
            f"Accuracy: six species of drawn birds, ten images each, tied to their landscapes "
            f"(.95), 2,100 untied test images; one training loop ({EPOCHS} epochs, p = "
            f"{PROBABILITY}); seeds {', '.join(figures['seeds'])}; ± 95 % t-intervals over seeds. "
            f"The bank is {BANK} empty landscapes without labels; four of its ten kinds are rare "
            "in training.\n\n" + accuracy_tables(figures["seeds"])
        )
    return "\n\n".join(parts) + "\n"


def run_seed(work_dir: Path, seed: int, measured: dict) -> None:
    """Trains the arms that were not measured; keeps each in the seed's folder at once."""
    path = work_dir / f"seed-{seed}" / "figures.json"
    done = measured | (read_json(path) if path.exists() else {})
    domain = Domain(work_dir, seed)
    for arm in ARMS:
        if arm not in done:
            done[arm] = accuracies(domain, arm)
            write_json(path, done)
            print(seed, arm, done[arm], flush=True)


def finished_seeds(work_dir: Path) -> dict[str, dict]:
    """The figures of the seeds whose arms were all measured."""
    found = {}
    for path in sorted(work_dir.glob("seed-*/figures.json")):
        figures = read_json(path)
        if set(ARMS) <= set(figures):
            found[path.parent.name.removeprefix("seed-")] = figures
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--speed", action="store_true", help="measure the speed")
    parser.add_argument("--seconds", type=float, default=60, help="of timed passes per size")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="train with these seeds")
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/on_the_fly"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    disable_progress_bars()
    start_processes(num_threads=1)
    path = arguments.results / "on_the_fly.json"
    figures = {"speed": [], "machine": "", "seeds": {}} | (read_json(path) if path.exists() else {})
    for seed in arguments.seeds:
        run_seed(arguments.work_dir, seed, figures["seeds"].get(str(seed), {}))
    if arguments.speed:
        figures["machine"] = f"{torch.get_num_threads()} CPU thread, torch {torch.__version__}"
        figures["speed"] = [
            dataclasses.asdict(speed)
            for size in INPUTS
            for speed in measure(size, arguments.work_dir, arguments.seconds)
        ]
    figures["seeds"] |= finished_seeds(arguments.work_dir)
    write_json(path, figures)
    text = report(figures)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
