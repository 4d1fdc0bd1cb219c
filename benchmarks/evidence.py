"""Methods against tasks, and the paper's ablations, on procedural birds (`make evidence`).

    python benchmarks/evidence.py --tasks shift --seeds 1 2 3 --processes 2

Every arm is a recipe (parts/evidence/arms.py), made and trained on by the programs that users run.
Finished work is kept in `work_dir`, and the figures of an earlier work_dir in `results`, so the
same command continues anywhere (delete evidence.json there to begin anew); what was not run says
so. Writes one JSON and two pictures, and the tables between the marks of `page`.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from datasets import disable_progress_bars
from parts.evidence.arms import (
    ABLATIONS,
    ARMS,
    MIXING,
    PAPER,
    REAL,
    RECOMMENDED,
    SYNTHETIC_PROBABILITIES,
    TASKS,
    Arm,
    point_arm,
)
from parts.evidence.placebos import PLACEBOS
from parts.evidence.plots import ablation_lines, draw_ablations, draw_tasks
from parts.evidence.runs import Run, domain_text, figures_path, run_arms
from parts.evidence.tables import summary
from tqdm.auto import tqdm

from sgdmix_hub.files import read_json, write_json

BEGIN, END = (
    "<!-- written by benchmarks/evidence.py -->",
    "<!-- end of what benchmarks/evidence.py wrote -->",
)
RESULTS = "evidence.json"
QUICK_ARMS = (REAL, "cutmix", PAPER, "fixed mask", MIXING, RECOMMENDED)


def arm_jobs(tasks: list[str], seeds: list[int] | None, names: list[str]) -> list[tuple]:
    """(task, seed, arms, probabilities), seed by seed: at any moment whole seeds are finished."""
    arms = {name: ARMS[name] for name in names}
    units = sorted(
        (seed, place, task) for place, task in enumerate(tasks) for seed in TASKS[task].seeds
    )
    return [
        (task, seed, arms, SYNTHETIC_PROBABILITIES)
        for seed, _, task in units
        if seeds is None or seed in seeds
    ]


def placebo_jobs(tasks: list[str], seeds: list[int] | None) -> list[tuple]:
    """The placebos of every task and seed, in the order of `arm_jobs`."""
    return [
        (task, seed, PLACEBOS, probabilities)
        for task, seed, _, probabilities in arm_jobs(tasks, seeds, [])
    ]


def ablation_jobs(keys: list[str], seeds: list[int] | None) -> list[tuple]:
    """Jobs of ablation points that are not arms of the table.

    The points of one task and seed are one job, because they share its folder.
    """
    found: dict[tuple[int, str], dict[str, Arm]] = {}
    for key in keys:
        ablation = ABLATIONS[key]
        for seed in ablation.seeds:
            points = found.setdefault((seed, ablation.task), {})
            for line in ablation.points:
                named = {
                    point_arm(key, line, point): Arm(changes)
                    for point, changes in ablation.points[line].items()
                }
                points |= {name: arm for name, arm in named.items() if name not in ARMS}
    return [
        (task, seed, arms, (0.5,))
        for (seed, task), arms in sorted(found.items())
        if seeds is None or seed in seeds
    ]


def draw_images(work_dir: Path, seed: int, tasks: list[str]) -> None:
    """The images of a seed, some of which its tasks share."""
    disable_progress_bars()
    for task in tasks:
        Run(work_dir, task, seed)


def take_up(results: Path, work_dir: Path) -> None:
    """Copies `results` to the work folder, unless that has results already."""
    if not (results / RESULTS).exists():
        return
    for task, seeds in read_json(results / RESULTS)["figures"].items():
        for seed, figures in seeds.items():
            path = figures_path(work_dir, task, seed)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, figures)


def collected(work_dir: Path) -> dict[str, dict[str, dict]]:
    """Task -> seed -> figures, of everything that was measured so far."""
    found: dict[str, dict[str, dict]] = {}
    for task in TASKS:
        paths = sorted(
            (work_dir / task).glob("seed-*/figures.json"),
            key=lambda path: int(path.parent.name.rpartition("-")[2]),
        )
        seeds = {path.parent.name.rpartition("-")[2]: read_json(path) for path in paths}
        if any(seed["arms"] for seed in seeds.values()):
            found[task] = {number: seed for number, seed in seeds.items() if seed["arms"]}
    return found


def write_results(work_dir: Path, results: Path, page: Path) -> str:
    """Writes the JSON of the measurements, the page's tables and its pictures."""
    facts = {
        "domain": domain_text(),
        "torch": torch.__version__.partition("+")[0],
        "probabilities": SYNTHETIC_PROBABILITIES,
    }
    write_json(results / RESULTS, {"facts": facts, "figures": collected(work_dir)})
    written = json.loads((results / RESULTS).read_text(encoding="utf-8"))
    figures = written["figures"]
    ablations = {
        ABLATIONS[key].title: lines for key in ABLATIONS if (lines := ablation_lines(figures, key))
    }
    text = summary(figures, ablations, written["facts"])
    prose = page.read_text(encoding="utf-8") if page.exists() else BEGIN + END
    page.write_text(with_tables(prose, text), encoding="utf-8")
    draw_tasks(figures, page.with_name("evidence_tasks.png"))
    draw_ablations(figures, page.with_name("evidence_ablations.png"))
    return text


def with_tables(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """A page with the text between its marks; what people wrote around them stays."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--ablations", nargs="*", choices=list(ABLATIONS), default=list(ABLATIONS))
    parser.add_argument(
        "--placebos", nargs="*", choices=list(TASKS), help="tasks with them; those of --tasks"
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="some of a task's seeds; all when not given"
    )
    parser.add_argument(
        "--quick", action="store_true", help="six arms under background shift, two seeds"
    )
    parser.add_argument("--processes", type=int, default=2, help="seeds at a time, one thread each")
    parser.add_argument(
        "--work_dir", type=Path, default=Path("outputs/evidence"), help="folder of the runs"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), help="folder of the .json"
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=Path("docs/evidence.md"),
        help="page that the tables are written into",
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.arms = ["shift"], list(QUICK_ARMS)
        arguments.ablations, arguments.placebos, arguments.seeds = [], [], [1, 2]
    placebos = arguments.tasks if arguments.placebos is None else arguments.placebos
    phases = [
        arm_jobs(arguments.tasks, arguments.seeds, arguments.arms),
        ablation_jobs(arguments.ablations, arguments.seeds),
        placebo_jobs(placebos, arguments.seeds),
    ]
    arguments.results.mkdir(parents=True, exist_ok=True)
    take_up(arguments.results, arguments.work_dir)
    tasks_of_seeds: dict[int, list[str]] = {}
    for task, seed in dict.fromkeys(job[:2] for jobs in phases for job in jobs):
        tasks_of_seeds.setdefault(seed, []).append(task)
    seeds = list(tasks_of_seeds.items())
    print("drawing images", flush=True)
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for together in (
            seeds[:1],
            seeds[1:],
        ):  # the first alone: it fetches the photographs, which all seeds draw from
            for drawing in [
                pool.submit(draw_images, arguments.work_dir, *seed) for seed in together
            ]:
                drawing.result()
        for jobs in phases:  # one after the other: both write a task's and seed's figures
            running = [
                pool.submit(run_arms, task, seed, arguments.work_dir, *rest)
                for task, seed, *rest in jobs
            ]
            for finished in tqdm(
                as_completed(running),
                total=len(running),
                desc="evidence",
                unit="run",
                miniters=1,
                mininterval=0,
            ):
                tqdm.write(finished.result())
    print(write_results(arguments.work_dir, arguments.results, arguments.page))


if __name__ == "__main__":
    main()
