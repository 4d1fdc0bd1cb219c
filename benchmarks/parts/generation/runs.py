"""Whole generations by their script, whose stages are timed and whose memory is watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from sgdmix_hub.files import read_json

SCRIPT = Path(__file__).parents[3] / "scripts" / "augment_dataset.py"
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
SECONDS_BETWEEN_LOOKS = 0.1


def run_whole(dataset: Path, output: Path, words: list[str]) -> dict:
    """A generation from scratch in one process: seconds by stage, peak memory in MB, rows."""
    shutil.rmtree(output, ignore_errors=True)
    started = time.time()
    peak = peak_memory(command(dataset, output, words), output.with_suffix(".log"))
    seconds = time.time() - started
    (manifest,) = (output / "repo").rglob("manifest.json")
    rows = read_json(manifest)["rows"]
    return {
        "rows": rows,
        "seconds": seconds,
        "stages": stage_seconds(output, started),
        "peak_mb": peak / 1e6,
    }


def run_again(dataset: Path, output: Path, words: list[str]) -> float:
    """Seconds that the same command takes to find that all is done."""
    started = time.time()
    peak_memory(command(dataset, output, words), output.with_suffix(".log"))
    return time.time() - started


def command(dataset: Path, output: Path, words: list[str]) -> list[str]:
    places = [
        "--dataset_name",
        dataset,
        "--output_dir",
        output,
        "--preset",
        "paper",
        "--saliency_method",
        "spectral-residual",
    ]
    return [str(word) for word in [sys.executable, SCRIPT, *places, *words]]


def peak_memory(command: list[str], log: Path) -> int:
    """Peak anonymous memory of a command's processes together, in bytes.

    Its output goes to a file. Ends the program if the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as output:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output)
        tree, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                peak = max(peak, sum(map(anonymous_bytes, [tree, *tree.children(recursive=True)])))
            except psutil.NoSuchProcess:
                continue
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        sys.exit(
            f"{' '.join(command)} ended with exit code {process.returncode}:\n{log.read_text()}"
        )
    return peak


def anonymous_bytes(process: psutil.Process) -> int:
    """Memory of one process that is no file's; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def stage_seconds(output: Path, started: float) -> list[tuple[str, float]]:
    """Seconds of each stage, by when its last file was written."""
    state = output / "state"
    (maps,) = (state / "saliency").glob("*/unusable.json")
    last = {
        "start, reading the data": [state / "run.json"],
        "saliency maps": [maps],
        "plan": [state / "plan.parquet"],
        "shards": (state / "shards").glob("*.json"),
        "repo": (output / "repo").rglob("*"),
    }
    stages, before = [], started
    for name, paths in last.items():
        end = max(path.stat().st_mtime for path in paths)
        stages.append((name, end - before))
        before = end
    return stages
