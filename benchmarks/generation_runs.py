"""Processes of the generation's benchmark: workers, alone and side by side, and whole runs whose memory is watched."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SECONDS_BETWEEN_LOOKS = 0.2


def start(args: argparse.Namespace, kind: str, core: int | None, **options) -> subprocess.Popen:
    words = [sys.executable, HERE / "generation_workers.py", kind, "--work_dir", args.work_dir]
    for name, value in (options | {"core": core}).items():
        words += [f"--{name}"] if value is True else [] if value in (None, False) else [f"--{name}", value]
    return subprocess.Popen(list(map(str, words)), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen) -> dict:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"a worker ended with exit code {process.returncode}")
    return json.loads(output.splitlines()[-1])


def worker(args: argparse.Namespace, kind: str, pinned: bool = False, **options) -> dict:
    """One worker's figures; `pinned` to one core with all its helpers."""
    core = sorted(os.sched_getaffinity(0))[-1] if pinned else None
    return result(start(args, kind, core, **options))


def together(args: argparse.Namespace, kind: str, count: int, rows: int) -> float:
    """Rows a second of several workers, one a core, that start at the same moment; each makes `rows`."""
    with TemporaryDirectory() as folder:
        barrier, cores = Path(folder), sorted(os.sched_getaffinity(0))
        workers = [start(args, kind, cores[rank % len(cores)], rank=rank, rows=rows, barrier=barrier) for rank in range(count)]
        while len(list(barrier.glob("ready-*"))) < count:
            if any(process.poll() for process in workers):
                sys.exit("a worker ended before it was ready")
            time.sleep(0.05)
        (barrier / "start").touch()
        found = [result(process) for process in workers]
    return sum(one["rows"] for one in found) / max(one["seconds"] for one in found)


def anonymous_bytes(process: psutil.Process) -> int:
    """Memory of one process that is no file's; 0 when it is gone."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(re.search(r"Anonymous:\s+(\d+)", text).group(1)) * 1024


def measured_run(args: argparse.Namespace, dataset: Path, words: list[str], again: bool = False) -> dict:
    """A whole generation by its script: seconds, those of its stages by their files, and the peak of the anonymous memory of all its
    processes; with `again` also the seconds that the same command takes to find that all is done."""
    output = args.work_dir / f"run-{dataset.name}"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, HERE.parent / "scripts" / "augment_dataset.py", "--dataset_name", dataset, "--output_dir", output]
    command = [str(word) for word in [*command, "--saliency_method", "spectral-residual", *words]]
    started, peak = time.time(), 0
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, sum(anonymous_bytes(one) for one in [tree, *tree.children(recursive=True)]))
        except psutil.NoSuchProcess:
            continue
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}:\n{process.stderr.read().decode()}")
    seconds = time.time() - started
    found = {"peak_mb": peak / 1e6, "seconds": seconds, "stages": stage_seconds(output, started)}
    if again:
        started = time.time()
        subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=True)
        found["again_seconds"] = time.time() - started
    return found


def stage_seconds(output: Path, started: float) -> dict[str, float]:
    """Seconds of each stage, by when its last file was written."""
    state = output / "state"
    (maps,) = (state / "saliency").glob("*/unusable.json")
    records = sorted(path.stat().st_mtime for path in (state / "shards").glob("*.json"))
    ends = {
        "start, data and saliency maps": maps.stat().st_mtime,
        "plan": (state / "plan.parquet").stat().st_mtime,
        "shards": records[-1],
        "repo": next((output / "repo" / "sgdmix").rglob("manifest.json")).stat().st_mtime,
    }
    stages, before = {}, started
    for name, end in ends.items():
        stages[name], before = end - before, end
    return stages
