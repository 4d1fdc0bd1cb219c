"""Whether a local generation has become slower: one revision of the repository against another.

    python benchmarks/local_speed.py 4de675d^ HEAD --rows 50000 --turns 8

Each turn runs the same generation once per revision, in a process of its own and in turns (first
one begins, then the other): tiny rows at S = 0, where bookkeeping costs most. A process counts from
after its imports to the end of `augment.main`: seconds of CPU, helpers included, and of the clock.
A turn more, the first, fills caches and is not counted.
Reported is the geometric mean over turns of new over old, with Student's 95 % interval of it. By
CPU seconds, new is

    as fast     if the whole interval is below 1.03,
    slower      if the whole interval is above 1.03,
    undecided   otherwise.

The clock's ratio is reported beside it; other work on the machine moves it, so it decides nothing.
Both revisions are checked out into worktrees that this program makes and removes. A revision with
other names of settings gets other words: --old_words "--preset paper ...". Figures go to
local_speed.json, the table to local_speed.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import parts.generation.data as data
from parts.generation.runs import ENVIRONMENT
from parts.intervals import half_width

from sgdmix_hub.files import read_json, write_json

RESULTS, ROOT = Path(__file__).parent / "results", Path(__file__).parents[1]
BOUND = 1.03
ASKED_ROWS = 50_000  # what the bound is meant for
WORDS = "--preset paper --saliency_method spectral-residual --strength 0"
PROGRAM = """
import json, resource, sys, time

import sgdmix_hub
from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings


def cpu():
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


started, before = time.monotonic(), cpu()
augment.main(parse_settings(AugmentSettings, sys.argv[2:]))
seconds = {"wall": time.monotonic() - started, "cpu": cpu() - before}
with open(sys.argv[1], "w") as file:
    json.dump(seconds | {"package": sgdmix_hub.__path__[0]}, file)
"""


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """A checkout of a revision, which is removed in the end."""
    git = ["git", "-C", str(ROOT), "worktree"]
    shutil.rmtree(folder, ignore_errors=True)
    add = ["add", "--quiet", "--force", "--detach", str(folder), revision]  # one is left by a kill
    subprocess.run([*git, *add], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def measured(checkout: Path, dataset: Path, output: Path, words: list[str]) -> dict[str, float]:
    """Seconds of CPU and of the clock of one generation by the package of a checkout."""
    shutil.rmtree(output, ignore_errors=True)
    places = ["--dataset_name", dataset, "--output_dir", output]
    sizes = ["--resolution", data.PATTERN_SIZE, "--num_workers", 1]
    answer, log = output.with_suffix(".json"), output.with_suffix(".log")
    command = [sys.executable, "-c", PROGRAM, answer, *places, *sizes, *words]
    with open(log, "w") as lines:
        ended = subprocess.run(
            list(map(str, command)),
            cwd=checkout,
            env=ENVIRONMENT | {"PYTHONPATH": str(checkout)},
            stdout=lines,
            stderr=lines,
        )
    if ended.returncode:
        sys.exit(f"{checkout} fails: {log.read_text()[-2000:]}")
    seconds = read_json(answer)
    assert Path(seconds.pop("package")).is_relative_to(checkout), "another package was imported"
    shutil.rmtree(output)
    return seconds


def ratio(turns: list[dict], clock: str) -> dict[str, float]:
    """Geometric mean of new over old, and its 95 % interval."""
    logs = np.log([turn["new"][clock] / turn["old"][clock] for turn in turns])
    ends = np.mean(logs) + np.array([-1, 1]) * half_width(logs)
    low, high = np.exp(ends).tolist()
    return {"ratio": float(np.exp(np.mean(logs))), "low": low, "high": high}


def verdict(of_cpu: dict[str, float]) -> str:
    """What the rule above says of the ratio by CPU seconds."""
    if of_cpu["high"] < BOUND:
        return "as fast"
    return "slower" if of_cpu["low"] > BOUND else "undecided"


def table(found: dict) -> str:
    """The figures, in Markdown."""
    turns, rows = found["turns"], found["rows"]
    lines = [
        f"Old: `{found['old']}`; new: `{found['new']}`. {len(turns)} turns of {rows:,} rows of "
        f"{data.PATTERN_SIZE}x{data.PATTERN_SIZE} at S = 0, {found['machine']['cores']} cores.",
        "",
        "| seconds of | old, mean | new, mean | new / old | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for clock, name in (("cpu", "CPU"), ("wall", "the clock")):
        old, new = (np.mean([turn[which][clock] for turn in turns]) for which in ("old", "new"))
        of = found[clock]
        interval = f"{of['low']:.3f} to {of['high']:.3f}"
        lines.append(f"| {name} | {old:.2f} | {new:.2f} | {of['ratio']:.3f} | {interval} |")
    lines += ["", f"By CPU seconds, against a bound of {BOUND}: **{found['verdict']}**."]
    if rows < ASKED_ROWS:
        lines.append(
            f"A turn has {rows:,} rows, not {ASKED_ROWS:,}: what costs more than linearly in the "
            "rows would not show here."
        )
    return "\n".join(lines) + "\n"


def commit_of(revision: str) -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", f"{revision}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", help="the revision to compare with")
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--rows", type=int, default=ASKED_ROWS)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--old_words", default=WORDS, help="settings in the old revision's words")
    parser.add_argument("--work_dir", type=Path, default=Path("outputs") / "local_speed")
    args = parser.parse_args()
    work_dir, turns = args.work_dir.resolve(), []
    dataset = data.patterns(work_dir, args.rows)
    old, new = commit_of(args.old), commit_of(args.new)
    words = {"old": shlex.split(args.old_words), "new": shlex.split(WORDS)}
    with worktree(old, work_dir / "old") as before, worktree(new, work_dir / "new") as after:
        checkouts = {"old": before, "new": after}
        for turn in range(1 + args.turns):
            order = ("old", "new") if turn % 2 == 0 else ("new", "old")
            turns.append(
                {
                    which: measured(checkouts[which], dataset, work_dir / "run", words[which])
                    for which in order
                }
            )
            print(turns[-1], flush=True)
    del turns[0]  # it compiled the modules and filled the cache of `datasets`
    of_cpu = ratio(turns, "cpu")
    found = {
        "old": old,
        "new": new,
        "rows": args.rows,
        "turns": turns,
        "cpu": of_cpu,
        "wall": ratio(turns, "wall"),
        "verdict": verdict(of_cpu),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
    }
    write_json(RESULTS / "local_speed.json", found)
    (RESULTS / "local_speed.md").write_text(table(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
