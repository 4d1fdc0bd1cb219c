"""The SLURM script of the docs: what it queues again, and what its nodes do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from generations import (
    ROOT,
    SCRIPT,
    alive_in_the_end,
    arguments,
    rank,
    wait_for_records,
)
from halting import Halting
from launching import launch_environment
from nodes import Nodes

SLURM = ROOT / "docs" / "slurm.sh"


@pytest.fixture(scope="module")
def settings(mixing):
    """A generation in 12 shards, without any model."""
    return mixing | {"rows_per_shard": 2}


def stubs(folder: Path, srun: str) -> dict[str, str]:
    """The environment of a batch script: SLURM's variables, and its commands, which this machine
    has not.
    """
    folder.mkdir()
    scontrol = f"""#!/bin/bash
if [[ $1 == show ]]; then printf '127.0.0.1\\nsecond\\n'; else echo "$*" >> {folder}/requeued; fi
"""
    for name, program in {"srun": srun, "scontrol": scontrol}.items():
        (folder / name).write_text(program)
        (folder / name).chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
    }
    return launch_environment(job | {"PATH": path})


@pytest.mark.parametrize(
    ("status", "report", "requeued"),
    [
        (0, None, False),
        (75, 75, True),
        (75, 1, False),  # a rank of many on its node was killed
        (75, None, True),  # SIGTERM came before the programs had begun
        (100, 75, False),  # a node's only process was killed, then srun stopped the others
        (100, 2, False),
        (137, None, False),
    ],
)
def test_slurm_script_queues_again_what_was_stopped_and_nothing_else(
    status, report, requeued, tmp_path
):
    output = tmp_path / "the output"
    (output / "state").mkdir(parents=True)
    (output / "state" / "error.json").write_text(
        json.dumps({"exit_code": 2, "message": "of an earlier attempt"})
    )
    write = (
        f"""echo '{{"exit_code": {report}, "message": "why"}}' > '{output}/state/error.json'"""
        if report is not None
        else ""
    )
    environment = stubs(
        tmp_path / "bin",
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/words\n{write}\nexit {status}\n',
    )
    ended = subprocess.run(
        ["bash", SLURM, output, SCRIPT, "--strength", "0"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == (0 if requeued or status == 0 else 1), ended.stderr
    assert (tmp_path / "bin" / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "bin" / "requeued").read_text() == f"requeue {os.getpid()}\n"
    assert (tmp_path / "words").read_text().splitlines()[-5:] == [
        SCRIPT,
        "--strength",
        "0",
        "--output_dir",
        str(output),
    ]


# Two tasks beside each other, on the machine that there is. Like SLURM's, it passes SIGTERM on,
# stops the others when one fails, and ends with the highest of their codes.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys, time

command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
tasks = [
    subprocess.Popen(
        command, env=os.environ | {{"SLURM_NODEID": str(node)}}, start_new_session=True
    )
    for node in range(2)
]


def stop(*signal_and_frame):
    for task in tasks:
        if task.poll() is None:
            os.killpg(task.pid, signal.SIGTERM)


signal.signal(signal.SIGTERM, stop)
while (
    all(task.poll() in (None, 0) for task in tasks)
    and not all(task.poll() == 0 for task in tasks)
):
    time.sleep(0.1)
if any(task.poll() is None for task in tasks):
    stop()
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "event", ["time is up", pytest.param("a node's only process is killed", marks=pytest.mark.soak)]
)
def test_slurm_script_on_two_nodes(event, settings, tmp_path):
    output = tmp_path / "run"
    job = stubs(tmp_path / "bin", SRUN)
    script = Halting(tmp_path, shard=3).script
    command = ["bash", SLURM, output, script, *arguments(settings)]
    with Nodes(tmp_path / "bin") as nodes:
        batch = subprocess.Popen(
            command, cwd=ROOT, env=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for_records(batch, output)
        (srun,) = psutil.Process(batch.pid).children()
        step = [*srun.children(recursive=True), *nodes.processes()]
        if event == "time is up":
            srun.terminate()
        else:
            rank(1, step).kill()
        _, stderr = batch.communicate()
    assert not alive_in_the_end(step)
    assert (tmp_path / "bin" / "requeued").exists() == (event == "time is up"), stderr
    assert batch.returncode == (0 if event == "time is up" else 1)
    assert not (output / "repo").exists()
