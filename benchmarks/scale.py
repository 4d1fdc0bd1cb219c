"""What a generation costs as it grows: seconds, memory of every process, files, requests.

    python benchmarks/scale.py                            # 200 x 5 rows against 2,000 x 5
    python benchmarks/scale.py --sources 13000 130000     # other sizes, if there is time
    python benchmarks/scale.py --simulated 13000 130000 1300000   # rows that cost nothing

Whole programs, stage by stage, in an object store that counts requests: maps by two workers, plan,
shards by three workers one after the other, finish, publishing to a Hub on the loopback interface.
Rows are tiny (32 x 32, S = 0) and shards small, so that there are as many of them as in a large
dataset. Figures go to scale.json and, as a table, to scale.md; with --simulated, to
scale_simulated.*: there every row is a copy of one image (`parts/scale/simulated.py`), targets are
drawn, and one worker makes all shards, of 1,024 rows. There `load` verifies and opens what was
made with `load_published`, and `stream` reads every row of it with `streaming`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import sys
import time
from itertools import pairwise
from pathlib import Path

import parts.generation.data as data
from parts.generation.runs import ENVIRONMENT, peak_memory
from parts.scale.counted import counted_in

from sgdmix_hub.demo.loopback_hub import WRITE_TOKEN, hub_environment, loopback_hub
from sgdmix_hub.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"
VARIANTS, ROWS_PER_SHARD = 5, 16
SIMULATED_ROWS = 1024  # of a shard, in parts/scale/simulated.py
PROGRAM = """
import parts.scale.counted
from sgdmix_hub.{module} import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.{settings} import {name}

launch(main, {name})
"""
AUGMENT = PROGRAM.format(module="augment", settings="generation", name="AugmentSettings")
PUBLISH = PROGRAM.format(module="publish_dataset", settings="programs", name="PublishSettings")
LOAD = """
import sys
from sgdmix_hub.publishing.read import load_published

{rows}
"""
READERS = {
    "load": LOAD.format(rows="load_published(sys.argv[1])"),
    "stream": LOAD.format(
        rows="for row in load_published(sys.argv[1], streaming=True).dataset: pass"
    ),
}
STAGES = {
    "maps, worker 0 of 2": ["maps", "--rank", "0", "--world_size", "2"],
    "maps, worker 1 of 2": ["maps", "--rank", "1", "--world_size", "2"],
    "plan": ["plan"],
    "shards, worker 0 of 3": ["shards", "--rank", "0", "--world_size", "3"],
    "shards, worker 1 of 3": ["shards", "--rank", "1", "--world_size", "3"],
    "files, worker 0 of 2": ["files", "--rank", "0", "--world_size", "2"],
    "finish": ["finish"],
}


def run(sources: int, work_dir: Path) -> list[dict]:
    """The stages of one run: name, seconds, peak anonymous MB, requests."""
    dataset, place = data.patterns(work_dir, sources), work_dir / f"store-{sources}"
    shutil.rmtree(place, ignore_errors=True)
    counts = counts_in(work_dir)
    words = ["--dataset_name", dataset, "--output_dir", f"counted://{place}/run", "--preset"]
    words += ["paper", "--saliency_method", "spectral-residual", "--strength", 0, "--resolution"]
    words += [data.PATTERN_SIZE, "--num_variants", VARIANTS, "--rows_per_shard", ROWS_PER_SHARD]
    words += ["--license", "mit", "--stage"]
    found = []
    for name, stage in STAGES.items():
        if name.startswith("shards, worker 1"):
            half_the_shards(place / "run")
        found.append(measured(name, ["-c", AUGMENT, *words, *stage], counts, work_dir))
    found.append(published(place, counts, work_dir))
    return found


def simulated(sources: int, work_dir: Path) -> list[dict]:
    """The stages of one simulated run, as `run`. Goes on behind the last one that was measured."""
    place, counts = work_dir / f"simulated-{sources}", counts_in(work_dir)
    words, made = ["-m", "parts.scale.simulated"], work_dir / f"simulated-{sources}.json"
    found = read_json(made)["stages"] if made.exists() else []
    if not found:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        measured("prepare", [*words, "prepare", sources, place], counts, work_dir)
    ENVIRONMENT["HF_HOME"] = str(place / "cache")
    programs = {name: [*words, name, sources, place] for name in ("plan", "shards", "finish")}
    programs["publish"] = []
    for name, program in READERS.items():
        programs[name] = ["-c", program, place / "run" / "repo"]
    for name, program in list(programs.items())[len(found) :]:
        if program:
            found.append(measured(name, program, counts, work_dir))
        else:
            found.append(published(place, counts, work_dir))
        write_json(made, {"stages": found})
    return found


def counts_in(work_dir: Path) -> Path:
    """The folder that programs write their requests to."""
    counts = work_dir / "counts"
    counts.mkdir(parents=True, exist_ok=True)
    ENVIRONMENT["COUNTED_INTO"] = str(counts)
    ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    )
    return counts


def published(place: Path, counts: Path, work_dir: Path) -> dict:
    """The stage that publishes a run to a Hub on the loopback interface."""
    before = dict(ENVIRONMENT)
    with loopback_hub() as hub:
        ENVIRONMENT.update(hub_environment(hub, WRITE_TOKEN))
        words = ["-c", PUBLISH, "--folder", f"counted://{place}/run", "--tag", "v1.0.0"]
        words += ["--hub_dataset_id", "birds/large", "--allow_local_inputs"]
        stage = measured("publish", words, counts, work_dir)
        stage["requests"]["hub"] = len(hub.calls)
        commits = hub.calls_of("POST", "/commit/")
    ENVIRONMENT.clear()
    ENVIRONMENT.update(before)
    return stage | {"commits": len(commits)}


def half_the_shards(output: Path) -> None:
    """Takes away every second record, so that the next worker has as much to do."""
    for record in sorted((output / "state" / "shards").rglob("*.json"))[::2]:
        record.unlink()


def measured(name: str, words: list, counts: Path, work_dir: Path) -> dict:
    started, before = time.monotonic(), cpu_seconds()
    peak = peak_memory([sys.executable, *map(str, words)], work_dir / "scale.log")
    return {
        "stage": name,
        "seconds": time.monotonic() - started,
        "cpu_seconds": cpu_seconds() - before,
        "peak_mb": peak / 1e6,
        "requests": counted_in(counts),
    }


def cpu_seconds() -> float:
    """Of all programs that have ended: on busy cores it tells more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def files_of(place: Path) -> dict[str, int]:
    """Files of the run by folder, with the largest count first."""
    folders = {}
    for path in place.rglob("*"):
        if path.is_file():
            folder = path.parent.relative_to(place).as_posix()
            folders[folder] = folders.get(folder, 0) + 1
    return dict(sorted(folders.items(), key=lambda item: -item[1]))


def facts_of(sources: int, rows: int, stages: list[dict], place: Path) -> dict:
    """What is written of a run. `rows`: of a shard."""
    files, shards = files_of(place / "run"), -(-sources * VARIANTS // rows)
    return {"sources": sources, "shards": shards, "stages": stages, "files": files}


def interrupted(sources: int, rows: int, place: Path) -> dict:
    """A simulated run, as far as it is measured."""
    return facts_of(sources, rows, read_json(place.with_suffix(".json"))["stages"], place)


def table(runs: list[dict]) -> str:
    """The stages of the runs side by side, in Markdown. The seconds are the processor's, and in
    brackets the clock's.
    """
    sizes = [f"{each['sources']:,} x {VARIANTS}" for each in runs]
    lines = [
        "| stage | " + " | ".join(f"{size}: s | MB | requests" for size in sizes) + " |",
        "|---" * (1 + 3 * len(runs)) + "|",
    ]
    for name in [stage["stage"] for stage in runs[0]["stages"]]:
        cells = " | ".join(map(cells_of, stages_called(name, runs)))
        lines.append(f"| {name} | {cells} |")
    lines.append("")
    if all(stage and "cpu_seconds" in stage for stage in stages_called("plan", runs)):
        lines += [*growth(sizes, runs), ""]
    for size, each in zip(sizes, runs, strict=True):
        most = sorted(each["files"].items(), key=lambda item: -item[1])[:2]
        largest = ", ".join(f"{count:,} in {name}" for name, count in most)
        commits = next(stage["commits"] for stage in each["stages"] if "commits" in stage)
        text = f"{size}: {each['shards']:,} shards; files: {largest}; commits: {commits}."
        lines.append(text)
    return "\n".join(lines) + "\n"


def stages_called(name: str, runs: list[dict]) -> list[dict | None]:
    """One stage of every run; None where it was not measured."""
    return [
        next((stage for stage in each["stages"] if stage["stage"] == name), None) for each in runs
    ]


def cells_of(stage: dict | None) -> str:
    """Seconds, memory and requests, as cells of a table."""
    if stage is None:
        return "not measured | |"
    seconds, requests = f"{stage['seconds']:.0f}", sum(stage["requests"].values())
    if "cpu_seconds" in stage:
        seconds = f"{stage['cpu_seconds']:.0f} ({seconds})"
    return f"{seconds} | {stage['peak_mb']:.0f} | {requests:,}"


def growth(sizes: list[str], runs: list[dict]) -> list[str]:
    """What further rows cost, as a table: the start of a program does not count."""
    steps = list(pairwise(range(len(runs))))
    lines = [
        "Processor seconds for a million rows more:",
        "",
        "| stage | " + " | ".join(f"{sizes[a]} to {sizes[b]}" for a, b in steps) + " |",
        "|---" * (1 + len(steps)) + "|",
    ]
    rows = [each["sources"] * VARIANTS / 1e6 for each in runs]
    for name in [stage["stage"] for stage in runs[0]["stages"]]:
        found = stages_called(name, runs)
        cells = []
        for before, after in steps:
            first, second = found[before], found[after]
            if first is None or second is None:
                cells.append("not measured")
                continue
            more = second["cpu_seconds"] - first["cpu_seconds"]
            cells.append(f"{more / (rows[after] - rows[before]):.0f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", type=int, nargs="+", default=[200, 2_000])
    parser.add_argument("--simulated", type=int, nargs="+", help="sources of simulated runs")
    parser.add_argument("--tables", action="store_true", help="only write what was measured")
    parser.add_argument("--work_dir", type=Path, default=Path("outputs") / "scale")
    args = parser.parse_args()
    args.work_dir = args.work_dir.resolve()
    name, of_a_size, folder, rows = "scale", run, "store", ROWS_PER_SHARD
    if args.simulated:
        name, of_a_size, folder, rows = "scale_simulated", simulated, "simulated", SIMULATED_ROWS
    path = args.work_dir / f"{name}.json"
    runs = read_json(path)["runs"] if path.exists() else []
    if args.tables:
        runs += [
            interrupted(sources, rows, args.work_dir / f"simulated-{sources}")
            for sources in args.simulated or []
            if not any(each["sources"] == sources for each in runs)
        ]
    for sources in [] if args.tables else args.simulated or args.sources:
        if any(each["sources"] == sources for each in runs):
            continue  # measured before the last interruption
        stages = of_a_size(sources, args.work_dir)
        place = args.work_dir / f"{folder}-{sources}"
        runs.append(facts_of(sources, rows, stages, place))
        write_json(path, {"runs": runs})
        shutil.rmtree(place)
    write_results(name, runs)


def write_results(name: str, runs: list[dict]) -> None:
    machine = {"cores": os.cpu_count(), "processor": platform.machine()}
    write_json(RESULTS / f"{name}.json", {"runs": runs, "machine": machine})
    (RESULTS / f"{name}.md").write_text(table(runs), encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
