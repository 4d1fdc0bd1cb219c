"""`sgdmix launch`: the stages as jobs of datatrove's executors."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from forking import run_forked
from generations import arguments, digests, digests_but_pictures
from launching import launch_environment

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


@pytest.fixture
def reference(settings, tmp_path):
    """repo/ of one command."""
    alone = {"dataset_name": str(settings["dataset_name"]), "output_dir": str(tmp_path / "alone")}
    augment.main(AugmentSettings(**settings | alone))
    return digests(tmp_path / "alone" / "repo")


def rows_of(tmp_path: Path) -> dict[str, str]:
    """Of `reference`, what a program in a process of its own leaves too."""
    return digests_but_pictures(tmp_path / "alone" / "repo")


def launched(settings: dict, environment: dict, *words: str) -> subprocess.CompletedProcess:
    """`sgdmix launch`, started anew as a user does: engines look at how they were started."""
    command = [sys.executable, "-m", "sgdmix_hub.cli", "launch", *words, *arguments(settings)]
    return subprocess.run(
        command, env=launch_environment(environment), capture_output=True, text=True
    )


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_an_engine_on_this_machine_leaves_the_bytes_of_one_command(
    engine, settings, reference, tmp_path
):
    """The configuration is a local file, which the tasks get with their words."""
    if engine == "ray":
        pytest.importorskip("ray", reason="needs Ray")
    config = tmp_path / "generate.yaml"
    rest = settings | {"dataset_name": str(settings["dataset_name"])}
    config.write_text(yaml.safe_dump(rest))
    words = ["--on", engine, "--workers", "2", "--config", str(config)]
    done = launched({"output_dir": tmp_path / "launched"}, {"RAY_USAGE_STATS_ENABLED": "0"}, *words)
    assert done.returncode == 0, done
    assert digests_but_pictures(tmp_path / "launched" / "repo") == rows_of(tmp_path)


@pytest.mark.soak
def test_slurm_leaves_the_bytes_of_one_command(settings, reference, tmp_path):
    """On a cluster that is there, by its default partition."""
    try:
        partition = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs SLURM")
    if partition.returncode or not partition.stdout.strip():
        pytest.skip("needs a running SLURM")
    options = ["time=01:00:00", f"partition={partition.stdout.split()[0]}", "mem_per_cpu_gb=1"]
    words = [word for text in options for word in ("--option", text)]
    output = tmp_path / "launched"
    place = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = launched(
        settings | {"output_dir": output}, place, "--on", "slurm", "--workers", "3", *words
    )
    assert done.returncode == 0, done
    while subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout:
        time.sleep(1)
    assert digests_but_pictures(output / "repo") == rows_of(tmp_path)


@pytest.mark.slow
def test_a_stage_that_fails_is_one_line_with_the_place_of_its_logs(settings, tmp_path):
    output = tmp_path / "run"
    gone = settings | {"dataset_name": tmp_path / "nothing", "output_dir": output}
    with pytest.raises(UserError, match="local: stage plan failed .*exit code 2.*same command"):
        launch(gone, "--on", "local", "--workers", "1")
    (logs,) = (output / "state" / "engine").iterdir()
    assert list(logs.rglob("task_00000.log"))


JOBS = """
import sys

from huggingface_hub import HfApi

# The one call that a server on the loopback interface cannot answer: Xet's upload of the script.
HfApi._upload_scripts_to_bucket = lambda self, **options: []

from sgdmix_hub.engines import main

main(sys.argv[1:])
"""


@pytest.mark.soak
def test_jobs_of_the_hub_leave_the_bytes_of_one_command(settings, reference, tmp_path):
    """As far as the client goes: its calls are answered here, and the jobs run on this machine.
    A job that fails is started again, and no secret is in the store.
    """
    pytest.importorskip("s3fs", reason="needs the extra s3")
    pytest.importorskip("moto", reason="needs moto[server]")
    import s3fs
    from jobs_server import jobs_server
    from s3_server import SECRET, s3_environment, s3_server

    with s3_server() as endpoint, jobs_server() as server:
        access = s3_environment(endpoint)
        files = s3fs.S3FileSystem(
            key="nobody", secret=SECRET, endpoint_url=endpoint, skip_instance_cache=True
        )
        files.mkdir("engines")
        server.fails.add(1)
        token = "hf_secret_token_of_somebody"
        environment = launch_environment(
            access | {"HF_ENDPOINT": server.address, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
        )
        words = ["--on", "jobs", "--workers", "2", "--option", "flavor=l4x1"]
        words += ["--option", 'dependencies=["sgdmix_hub[engines]"]', "--option", "poll_interval=1"]
        done = run_forked(
            ["-c", JOBS, *words, *arguments(settings | {"output_dir": "s3://engines/run"})],
            environment,
        )
        assert done.returncode == 0, (done, server.jobs)
        files.get("engines/run/repo", str(tmp_path / "repo"), recursive=True)
        assert digests_but_pictures(tmp_path / "repo") == rows_of(tmp_path)
        asked = [job["labels"]["datatrove_job_name"] for job in server.jobs]
        assert sorted(asked) == sorted(["sgdmix-plan", *["sgdmix-shards"] * 3, "sgdmix-finish"])
        for job in server.jobs:
            assert job["secrets"] == access | {"HF_TOKEN": token} and job["flavor"] == "l4x1"
        for name in files.find("engines"):
            content = files.cat_file(name)
            assert SECRET.encode() not in content and token.encode() not in content, name
        assert SECRET not in done.stdout + done.stderr and token not in done.stdout + done.stderr


def test_options_are_what_their_json_says_or_text():
    from sgdmix_hub.engines import option

    assert option("time=20:00:00") == ("time", "20:00:00")
    assert option("gpus_per_task=1") == ("gpus_per_task", 1)
    assert option("requeue=false") == ("requeue", False)
    assert option('sbatch_args={"account": "birds"}') == ("sbatch_args", {"account": "birds"})
    with pytest.raises(UserError) as refused:
        option("hf_secret")
    assert "hf_secret" not in str(refused.value)


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
        (["--on", "jobs", "--workers", "2"], "in a store"),
        (["--on", "local", "--workers", "2", "--no_such_setting", "1"], "no_such_setting"),
    ],
)
def test_mistakes_are_told_before_anything_starts(words, named, settings, tmp_path):
    with pytest.raises(UserError, match=named):
        launch(settings | {"output_dir": tmp_path / "run"}, *words)
    assert not (tmp_path / "run" / "state" / "run.json").exists()
