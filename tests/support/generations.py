"""Helpers for tests of whole generations: running and watching them, and reading their output."""

import io
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from forking import Ended, Started, fork, log_into
from launching import launch_environment
from PIL import Image

from sgdmix_hub import augment
from sgdmix_hub.files import file_sha256
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

ROOT = Path(__file__).parents[2]
SCRIPT = "scripts/augment_dataset.py"
ROWS = 24  # of the birds' training split
NUM_SHARDS = 8


def arguments(settings: dict) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def run_script(args: list[str], logs: Path, script: str = SCRIPT) -> Ended:
    """Runs `python scripts/augment_dataset.py ...` in a forked process, without a launcher."""
    logs.mkdir(exist_ok=True)
    process = fork(_script, script, args, logs)
    process.join()
    return Ended(process.exitcode, *((logs / name).read_text() for name in ("stdout", "stderr")))


def whole_run(settings: dict, output: Path) -> Path:
    """`settings` run by the script, to their end; returns `output`."""
    ended = run_script(arguments(settings | {"output_dir": output}), output.parent / "logs")
    assert ended.returncode == 0, ended.stderr
    return output


def generate(settings: dict, output: Path) -> Path:
    """`settings` run in this process; returns `output`."""
    augment.main(parse_settings(AugmentSettings, arguments(settings | {"output_dir": output})))
    return output


def _script(script: str, args: list[str], logs: Path) -> None:
    log_into(logs)
    os.chdir(ROOT)
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


def digests(repo: Path) -> dict[str, str]:
    """sha256 of every file, by its path relative to `repo`."""
    return {
        path.relative_to(repo).as_posix(): file_sha256(path)
        for path in repo.rglob("*")
        if path.is_file()
    }


def digests_but_pictures(repo: Path) -> dict[str, str]:
    """As `digests`, without the pictures and the manifest that states them: a program in a process
    of its own draws those that users get, others those of `few_images`.
    """
    drawn = ("assets/contact_sheet.png", "assets/statistics.png")
    return {
        name: digest
        for name, digest in digests(repo).items()
        if name not in drawn and not name.endswith("manifest.json")
    }


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Modification time in ns and size in bytes of every file, by its relative path."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in paths
    }


def published_rows(output: Path) -> list[dict]:
    shards = sorted((output / "repo" / "data").glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def undecoded(rows: Dataset) -> list[dict]:
    """The rows with their images as the bytes of files."""
    for name, feature in rows.features.items():
        if isinstance(feature, ImageFeature):
            rows = rows.cast_column(name, ImageFeature(decode=False))
    return list(rows)


def manifest_of(output: Path) -> dict:
    return json.loads((output / "repo" / "sgdmix" / "default" / "manifest.json").read_text())


def pixels_of(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def records(output: Path) -> list[int]:
    """Numbers of the finished shards, those with a record."""
    return sorted(
        int(path.stem.removeprefix("shard-"))
        for path in (output / "state" / "shards").glob("shard-*.json")
    )


def shards_of(output: Path, rows_per_shard: int) -> Shards:
    return Shards(output / "state" / "shards", output / "state" / "plan.parquet", rows_per_shard)


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=launch_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_records(process: subprocess.Popen | Started, output: Path, number: int = 1) -> None:
    while len(records(output)) < number:
        assert process.poll() is None, (
            "the run ended before it could be disturbed:\n" + process.communicate()[1]
        )
        time.sleep(0.005)  # a shard takes longer


def processes_of(output: Path) -> list[psutil.Process]:
    """All processes with this output folder in their command line, launchers included."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                any(str(output) in word for word in process.cmdline())
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def rank(number: int, processes: list[psutil.Process]) -> psutil.Process:
    """The process of a rank; workers inherit its environment and its name, and come after it."""
    return next(
        process
        for process in processes
        if process.name() == f"rank {number}" or process.environ().get("RANK") == str(number)
    )


def kill_all(processes: Iterable[psutil.Process | subprocess.Popen | Started]) -> None:
    """Kills processes, some of which die with those that were killed before them.

    All stand still before the first one dies: none has the time to react to the end of another.
    """
    processes = list(processes)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.send_signal(number)


def alive_in_the_end(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Processes still alive after a minute, enough to finish a batch; these are killed."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    kill_all(alive)
    return alive


def flip(path: Path, seed: int) -> None:
    """Flips one bit of the file, chosen by `seed`; in place, as a failing disk would."""
    content = bytearray(path.read_bytes())
    bit = random.Random(f"{path.name} {seed}").randrange(len(content) * 8)
    content[bit // 8] ^= 1 << bit % 8
    with open(path, "r+b") as file:
        file.write(content)


def one_line(ended: Ended, *words: str) -> None:
    """Asserts that the user got exit code 2 and one error line that contains these words."""
    lines = [line for line in ended.stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert ended.returncode == 2 and len(lines) == 1 and "Traceback" not in ended.stderr, ended
    assert all(word in lines[0] for word in words), lines[0]


def write_dataset(
    folder: Path, images: list[bytes], labels: list[int], names: list[str] | None = None
) -> Path:
    """Writes a folder dataset with one split, from encoded images."""
    names = names or [f"class {label}" for label in range(max(labels) + 1)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    rows = [
        {"image": {"bytes": image, "path": None}, "label": label}
        for image, label in zip(images, labels, strict=True)
    ]
    (folder / "data").mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(
        folder / "data" / "train-00000-of-00001.parquet"
    )
    return folder


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def plain_images(count: int) -> list[bytes]:
    """Small blocks of noise on plain grounds: pictures of them are encoded fast."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        pixels = np.full((32, 32, 3), rng.integers(0, 255, 3), np.uint8)
        top, left = rng.integers(2, 14, 2)
        pixels[top : top + 14, left : left + 14] = rng.integers(0, 255, (14, 14, 3))
        images.append(png(Image.fromarray(pixels)))
    return images


def tiny_run(folder: Path, rows_per_shard: int) -> dict:
    """Settings of a run that only mixes, without GrabCut, which takes most of a run's time: 8
    images, which it writes to a folder, 2 variants.
    """
    write_dataset(folder, plain_images(8), [row // 2 for row in range(8)])
    return {
        "preset": "paper",  # its masks take the least time
        "dataset_name": str(folder),
        "saliency_method": "spectral-residual",
        "strength": 0.0,
        "resolution": 32,
        "num_variants": 2,
        "rows_per_shard": rows_per_shard,
        "num_candidates": 5,
        "num_workers": 1,
    }
