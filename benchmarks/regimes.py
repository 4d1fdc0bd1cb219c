"""Where refinement could help: three experiments on drawn birds, at several strengths and at 0.

    python benchmarks/regimes.py --experiments backgrounds edges --seconds 550

Hypotheses, primary comparisons, arms, seeds and the rule for stopping were written down before the
first run: parts/regimes/protocol.md. A finished arm is kept in `results`, and its files in
`work_dir`, so the same command resumes; after `seconds` it begins no other arm. Writes
regimes.json and the tables between the marks of `page`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from datasets import disable_progress_bars
from evidence import with_tables
from parts.regimes.bounds import bounds_table, judged_bounds
from parts.regimes.experiments import AUTO, EXPERIMENTS
from parts.regimes.runs import Run
from parts.regimes.sheet import draw_sheet
from parts.regimes.tables import report

from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.runtime.ranks import start_processes

RESULTS, BOUNDS = "regimes.json", "regimes_bounds.json"
BEGIN, END = (
    "<!-- written by benchmarks/regimes.py -->",
    "<!-- end of what benchmarks/regimes.py wrote -->",
)


def jobs(keys: list[str], only_primary: bool) -> list[tuple[str, int, str]]:
    """(experiment, seed, arm): the primary arms of every seed first, then arm by arm."""
    first, then = [], []
    for key in keys:
        experiment = EXPERIMENTS[key]
        primary = experiment.first_arms
        first += [(key, seed, arm) for seed in experiment.seeds for arm in primary]
        others = [arm for arm in experiment.arms if arm not in primary]
        then += [(key, seed, arm) for arm in others for seed in experiment.seeds]
    return first if only_primary else first + then


class Figures:
    """What was measured, kept in a file after every measurement."""

    def __init__(self, path: Path):
        self.path = path
        self.values = read_json(path) if path.exists() else {}

    def keep(self, *place: str, made: dict) -> None:
        """Puts a measurement in its place: the keys that lead to it."""
        *outer, last = place
        values = self.values
        for key in outer:
            values = values.setdefault(key, {})
        values[last] = made
        write_json(self.path, self.values)


def wants(arguments: argparse.Namespace, seed: int, arm: str) -> bool:
    seeds, arms = arguments.seeds, arguments.arms
    return (not seeds or seed in seeds) and (not arms or arm in arms)


def measure_arms(arguments: argparse.Namespace, figures: Figures) -> None:
    """Runs the arms that are missing, until the time is over."""
    started = time.monotonic()
    for key, seed, arm in jobs(arguments.experiments, arguments.only_primary):
        known = figures.values.get(key, {}).get(arm, {})
        if str(seed) in known or not wants(arguments, seed, arm):
            continue
        if time.monotonic() - started > arguments.seconds:
            print(f"stopped before {key}, seed {seed}, {arm}: the same command resumes")
            return
        made = Run(arguments.work_dir, key, seed).measure(arm)
        figures.keep(key, arm, str(seed), made=made)
        print(f"{key}, seed {seed}, {arm}: {made['accuracy']:.3f}, {made['seconds']:.0f} s")


def measure_bounds(arguments: argparse.Namespace, bounds: Figures) -> None:
    """Looks at fresh rows of the experiments and seeds that are missing."""
    for key in arguments.experiments:
        experiment = EXPERIMENTS[key]
        for seed in experiment.seeds if AUTO in experiment.arms else ():
            if str(seed) in bounds.values.get(key, {}) or not wants(arguments, seed, AUTO):
                continue
            made = judged_bounds(Run(arguments.work_dir, key, seed))
            bounds.keep(key, str(seed), made=made)
            print(f"{key}, seed {seed}: {bounds_table({key: {str(seed): made}})}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--experiments", nargs="+", choices=list(EXPERIMENTS), default=[])
    parser.add_argument("--seeds", type=int, nargs="+", help="some seeds; all when not given")
    parser.add_argument("--arms", nargs="+", help="some arms; all when not given")
    parser.add_argument(
        "--only_primary", action="store_true", help="only the arms of the primary comparisons"
    )
    parser.add_argument(
        "--sheet", type=int, help="draw the images of this seed beside the page, and run nothing"
    )
    parser.add_argument(
        "--bounds",
        action="store_true",
        help="instead of arms: the bounds of `auto` on fresh rows, in experiments that have it",
    )
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/regimes"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/refinement.md"))
    arguments = parser.parse_args()
    figures, bounds = Figures(arguments.results / RESULTS), Figures(arguments.results / BOUNDS)
    start_processes(num_threads=1)
    disable_progress_bars()
    if arguments.sheet is not None:
        for key in arguments.experiments:
            picture = arguments.page.with_name(f"refinement_{key}.png")
            if draw_sheet(arguments.work_dir, key, arguments.sheet, picture):
                print(picture)
        return
    if arguments.bounds:
        measure_bounds(arguments, bounds)
    else:
        measure_arms(arguments, figures)
    text = report(figures.values, bounds.values)
    prose = arguments.page.read_text(encoding="utf-8") if arguments.page.exists() else BEGIN + END
    arguments.page.write_text(with_tables(prose, text, BEGIN, END), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
