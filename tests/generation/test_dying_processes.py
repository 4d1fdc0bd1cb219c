"""Processes of a generation that die: the launch ends, and no orphan goes on writing."""

from pathlib import Path

import psutil
import pytest
from forking import Started
from generations import (
    SCRIPT,
    alive_in_the_end,
    arguments,
    records,
    shards_of,
    wait_for_records,
)
from launching import launched_now


@pytest.fixture
def settings(generation_settings):
    return generation_settings


@pytest.fixture
def reference(finished_generation):
    return finished_generation


def long_run(settings: dict, output: Path) -> tuple[Started, list[psutil.Process]]:
    """A launch in two processes whose every batch takes a while, with its first shard finished; and
    all its processes, encoders included.
    """
    slow = settings | {
        "output_dir": output,
        "num_inference_steps": 60,
        "rows_per_shard": 4,
        "num_variants": 4,
    }
    launched = launched_now([SCRIPT, *arguments(slow)], 2)
    wait_for_records(launched, output)
    return launched, psutil.Process(launched.pid).children(recursive=True)


@pytest.mark.soak
def test_dead_rank_fails_the_launch_and_leaves_no_orphan(settings, reference, tmp_path):
    output = tmp_path / "run"
    launched, processes = long_run(settings, output)
    next(process for process in processes if process.name() == "rank 1").kill()
    launched.communicate()
    assert launched.returncode != 0
    assert not alive_in_the_end(processes)
    shards = shards_of(output, 4)
    assert not (output / "repo").exists() and len(records(output)) < len(shards)
    assert all(shards.is_finished(number) for number in records(output))


@pytest.mark.slow
def test_killed_launcher_leaves_no_orphan(settings, reference, tmp_path):
    output = tmp_path / "run"
    launched, processes = long_run(settings, output)
    assert (
        sum(
            "sgdmix_hub.generation.encoding" in " ".join(process.cmdline()) for process in processes
        )
        >= 2
    )
    launched.kill()
    launched.communicate()
    assert not alive_in_the_end(processes)
    assert not (output / "repo").exists()
