"""`sgdmix launch`: the stages as jobs of datatrove's executors."""

import os
import re

import pytest
from generations import arguments, digests

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings

pytest.importorskip("datatrove", reason="needs the extra engines")
SBATCH = """#!/bin/sh
cat "$(eval echo \\${$#})" > "{folder}/job-$(ls {folder} | wc -l)"
echo "$@" >> {folder}/../words
echo "Submitted batch job $(ls {folder} | wc -l)"
"""


@pytest.fixture
def settings(birds):
    return {
        "dataset_name": birds,
        "saliency_method": "spectral-residual",
        "strength": 0,
        "resolution": 32,
        "rows_per_shard": 4,
        "num_workers": 1,
    }


def launch(settings: dict, *words: str) -> None:
    from sgdmix_hub.engines import main

    main([*words, *arguments(settings)])


@pytest.mark.soak
def test_the_local_engine_leaves_the_bytes_of_one_command(settings, tmp_path):
    output, alone = tmp_path / "launched", tmp_path / "alone"
    launch(
        settings | {"output_dir": output}, "--on", "local", "--workers", "2", "--option=workers=1"
    )
    augment.main(
        AugmentSettings(
            **settings | {"dataset_name": str(settings["dataset_name"])}, output_dir=str(alone)
        )
    )
    assert digests(output / "repo") == digests(alone / "repo")


@pytest.mark.slow
def test_slurm_gets_one_job_a_stage_each_after_the_one_before(settings, tmp_path, monkeypatch):
    """A stand-in for sbatch keeps what it is given: no job runs."""
    jobs = tmp_path / "jobs"
    for folder in (jobs, tmp_path / "bin"):
        folder.mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(SBATCH.replace("{folder}", str(jobs)))
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    words = ["--on", "slurm", "--workers", "7", "--map_workers", "3"]
    options = ["--option", "time=01:00:00", "--option", "partition=gpu", "--option=gpus_per_task=1"]
    launch(settings | {"output_dir": tmp_path / "run"}, *words, *options)
    scripts = [path.read_text() for path in sorted(jobs.iterdir())]
    launched = [text for text in scripts if "launch_pickled_pipeline" in text]
    assert [text.split("--array=")[1].split()[0] for text in launched] == [
        "0-2",
        "0-0",
        "0-6",
        "0-0",
    ]
    assert all("--partition=gpu" in text and "--gpus=1" in text for text in launched)
    assert [re.search("--job-name=(\\S+)", text)[1] for text in launched] == [
        f"sgdmix-{stage}" for stage in ("maps", "plan", "shards", "finish")
    ]
    words = (tmp_path / "words").read_text().splitlines()[::2]  # the others sum up statistics
    asked = [re.search("--dependency=([a-z]+):", line) for line in words]
    assert [found and found[1] for found in asked] == [None, "afterany", "afterok", "afterany"]


@pytest.mark.parametrize(
    "words, named",
    [
        (["--on", "slurm", "--workers", "2"], "--option time"),
        (["--on", "local", "--workers", "0"], "at least 1"),
        (["--on", "local", "--workers", "2", "--stage", "plan"], "leave stage out"),
        (["--on", "local", "--workers", "2", "--option", "fast"], "name=value"),
        (["--on", "local", "--workers", "2", "--option", "fast=1"], "fast"),
        (["--on", "local", "--workers", "2", "--no_such_setting", "1"], "no_such_setting"),
    ],
)
def test_mistakes_are_told_before_anything_starts(words, named, settings, tmp_path):
    with pytest.raises(UserError, match=named):
        launch(settings | {"output_dir": tmp_path / "run"}, *words)
    assert not (tmp_path / "run" / "state" / "run.json").exists()
