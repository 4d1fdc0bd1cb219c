"""Runs that are killed, stopped, refused, or run out of room or memory: what they say, what they
leave, and that they go on.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from forking import Started
from generations import (
    SCRIPT,
    alive_in_the_end,
    arguments,
    digests,
    one_line,
    rank,
    records,
    run_script,
    snapshot,
    start,
    wait_for_records,
    whole_run,
)
from halting import Halting
from launching import launch, launched_now
from trainings import ADAPTER, adapter_settings, last_step

from sgdmix_hub.runtime import signals


@pytest.fixture(scope="module")
def settings(mixing):
    """A generation in 12 shards, without any model."""
    return mixing | {"rows_per_shard": 2}


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory):
    """The files that `settings` end in when nothing happens."""
    return digests(whole_run(settings, tmp_path_factory.mktemp("reference") / "run") / "repo")


def started(settings: dict, output: Path) -> tuple[Started, list[psutil.Process]]:
    """A launch in two processes that has finished a shard, and whose rank 0 halts; with all its
    processes, workers included.
    """
    script = Halting(output.parent, shard=2).script
    launched = launched_now([script, *arguments(settings | {"output_dir": output})], 2)
    wait_for_records(launched, output)
    return launched, psutil.Process(launched.pid).children(recursive=True)


def error_of(output: Path) -> dict:
    return json.loads((output / "state" / "error.json").read_text())


def lines_of(stderr: str) -> list[str]:
    """What the product says, not what the launcher does."""
    return [line for line in stderr.splitlines() if line.startswith("sgdmix_hub: ")]


def finishes(settings: dict, output: Path, reference: dict, logs: Path) -> None:
    """The same command ends in the files of a run that nothing happened to, and forgets the
    failure.
    """
    ended = run_script(arguments(settings | {"output_dir": output}), logs)
    assert ended.returncode == 0, ended.stderr
    assert digests(output / "repo") == reference
    assert not (output / "state" / "error.json").exists()


# ---- killed without a word ----


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_rank_is_named_and_takes_the_launch_down(victim, settings, reference, tmp_path):
    output = tmp_path / "run"
    (output / "state").mkdir(parents=True)
    (output / "state" / "error.json").write_text(
        '{"exit_code": 75, "message": "of an earlier attempt"}'
    )
    launched, processes = started(settings, output)
    assert not (output / "state" / "error.json").exists()
    rank(victim, processes).kill()
    killed = time.monotonic()
    _, stderr = launched.communicate()
    assert launched.returncode != 0 and time.monotonic() - killed < 25
    assert not alive_in_the_end(processes)
    (line,) = lines_of(stderr)
    assert f"rank {victim} was killed or crashed" in line and "memory" in line
    assert error_of(output) == {"exit_code": 1, "message": line.removeprefix("sgdmix_hub: ")}
    assert not (output / "repo").exists() and len(records(output)) < 12
    finishes(settings, output, reference, tmp_path / "logs")


@pytest.mark.slow
def test_killed_rank_of_a_training_is_named_without_the_broken_connection(
    birds, tiny_base, tmp_path
):
    output = tmp_path / "run"
    training = adapter_settings(birds, tiny_base, output, num_train_samples=10**5, logging_steps=1)
    launched = launched_now([ADAPTER, *arguments(training)], 2)
    while last_step(output) < 2:
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.05)
    processes = psutil.Process(launched.pid).children(recursive=True)
    rank(1, processes).kill()
    _, stderr = launched.communicate()
    assert launched.returncode != 0 and not alive_in_the_end(processes)
    (line,) = lines_of(stderr)
    assert "rank 1 was killed or crashed" in line
    assert error_of(output)["exit_code"] == 1


# ---- stopped, refused ----


@pytest.mark.slow
def test_second_run_is_refused_and_sigterm_to_the_first_is_75(settings, reference, tmp_path):
    output = tmp_path / "run"
    launched, processes = started(settings, output)
    for process in processes:
        process.suspend()
    while not all(is_at_rest(process) for process in processes):
        time.sleep(0.01)
    before = snapshot(output)
    second = launch([SCRIPT, *arguments(settings | {"output_dir": output})], 2)
    assert second.returncode != 0
    (line,) = lines_of(second.stderr)
    assert "in use by another run" in line
    assert snapshot(output) == before
    for process in processes:
        process.resume()
    stops_with_75(launched, launched, processes, output)
    finishes(settings, output, reference, tmp_path / "logs")


def is_at_rest(process: psutil.Process) -> bool:
    """Whether all threads of a suspended process have stopped: one may finish what it is at first,
    such as a rename.
    """
    states = [
        path.read_text().rpartition(")")[2].split()[0]
        for path in Path(f"/proc/{process.pid}/task").glob("*/stat")
    ]
    return all(state in "TtZ" for state in states)


@pytest.mark.soak
def test_sigterm_to_one_rank_stops_all(settings, tmp_path):
    output = tmp_path / "run"
    launched, processes = started(settings, output)
    stops_with_75(rank(1, processes), launched, processes, output)


def stops_with_75(
    told: Started | psutil.Process,
    launched: Started,
    processes: list[psutil.Process],
    output: Path,
):
    told.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    _, stderr = launched.communicate()
    assert launched.returncode != 0 and time.monotonic() - stopped < 30
    assert not alive_in_the_end(processes)
    (line,) = lines_of(stderr)
    assert "SIGTERM" in line and "died" not in stderr
    assert error_of(output)["exit_code"] == 75 and not (output / "repo").exists()


STUCK = """
import os
import time
import torch
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime import signals
from sgdmix_hub.runtime.ranks import say, start_processes

signals.STOP_SECONDS = 2.0


def main(settings):
    state = start_processes(1)
    os.write(1, b"stuck\\n")  # in one write: two processes share the file
    if state.is_main_process:
        torch.distributed.barrier()
    time.sleep(600)


launch(main, AugmentSettings)
"""


@pytest.mark.slow
def test_sigterm_is_75_where_a_process_never_comes_to_look(mixing, tmp_path):
    """Rank 0 waits for rank 1 in a collective, where Python hands it no signal."""
    (tmp_path / "stuck.py").write_text(STUCK)
    output = tmp_path / "run"
    launched = launched_now([tmp_path / "stuck.py", *arguments(mixing | {"output_dir": output})], 2)
    while launched.stdout_so_far() != "stuck\n" * 2:
        assert launched.poll() is None
        time.sleep(0.01)
    processes = psutil.Process(launched.pid).children(recursive=True)
    time.sleep(1)  # for rank 0 to be in its collective
    launched.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    _, stderr = launched.communicate()
    assert 1.5 < time.monotonic() - stopped < 15 < signals.STOP_SECONDS < 30
    assert not alive_in_the_end(processes)
    assert len(lines_of(stderr)) == 1 and error_of(output)["exit_code"] == 75, stderr


# ---- no room ----


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that holds a part of the run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "sgdmix-hub-test", folder],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def temporary_files(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if path.is_file() and path.name.endswith(".tmp")]


@pytest.mark.slow
def test_full_disk_is_one_line_and_the_finished_shards_are_kept(settings, small_disk, tmp_path):
    settings = settings | {"resolution": 256}
    output = small_disk / "run"
    one_line(
        run_script(arguments(settings | {"output_dir": output}), tmp_path / "logs"),
        "no space left on device",
        str(output),
        "rerun the same command",
    )
    assert error_of(output)["exit_code"] == 2
    finished = records(output)
    assert finished and not temporary_files(output) and not (output / "repo").exists()
    kept = {
        number: (output / "state" / "shards" / f"shard-{number:05d}.parquet").stat().st_mtime_ns
        for number in finished
    }
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    reference = digests(whole_run(settings, tmp_path / "whole") / "repo")
    finishes(settings, output, reference, tmp_path / "logs")
    assert kept == {
        number: (output / "state" / "shards" / f"shard-{number:05d}.parquet").stat().st_mtime_ns
        for number in finished
    }


# ---- no memory, and what libraries say of a full disk in words ----

ENDS = """
import resource
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.stopping import lock_folder


def main(settings):
    output = Path(settings.output_dir)
    with lock_folder(output / "state"):
        {statement}


launch(main, AugmentSettings)
"""


def ends(statement: str, mixing: dict, output: Path, folder: Path):
    (folder / "ends.py").write_text(ENDS.format(statement=statement))
    return run_script(
        arguments(mixing | {"output_dir": output}), folder / "logs", str(folder / "ends.py")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "np.empty(2**56, np.uint8)",
            ("out of memory", "--batch_size (it is 8)", "Unable to allocate 64.0 PiB"),
        ),
        (
            "torch.empty(2**56)",
            ("out of memory", "--batch_size (it is 8)", "can't allocate memory"),
        ),
    ],
)
def test_no_memory_is_one_line_that_names_the_batch_size(statement, words, mixing, tmp_path):
    one_line(ends(statement, mixing, tmp_path / "run", tmp_path), *words)
    assert error_of(tmp_path / "run")["exit_code"] == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_no_gpu_memory_is_one_line_that_names_the_batch_size(mixing, tmp_path):
    (tmp_path / "ends.py").write_text(ENDS.format(statement="torch.empty(2**46, device='cuda')"))
    ended = start(
        [
            sys.executable,
            tmp_path / "ends.py",
            *arguments(mixing | {"output_dir": tmp_path / "run"}),
        ]
    )
    _, stderr = ended.communicate()
    (line,) = lines_of(stderr)
    assert ended.returncode == 2 and "Traceback" not in stderr
    assert all(
        words in line
        for words in ("out of GPU memory", "--batch_size (it is 8)", "Tried to allocate")
    )


WRITES = [
    "(output / 'many').write_bytes(bytes(2**23))",
    "np.save(output / 'many.npy', np.ones(2**20))",
    "save_file({'many': torch.ones(2**21)}, output / 'many.safetensors')",
    "torch.save(torch.ones(2**21), output / 'many.pt')",
]


@pytest.mark.slow
@pytest.mark.parametrize("statement", WRITES)
def test_full_disk_is_told_from_what_libraries_say(statement, mixing, small_disk, tmp_path):
    output = small_disk / "run"
    one_line(
        ends(statement, mixing, output, tmp_path),
        "no space left on device",
        str(output),
        "rerun the same command",
    )
    assert error_of(output)["exit_code"] == 2  # there was room left for it


@pytest.mark.slow
def test_limit_on_the_size_of_files_is_one_line(mixing, tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16)); "
    one_line(
        ends(limit + WRITES[0], mixing, tmp_path / "run", tmp_path), "file too large", "ulimit -f"
    )
