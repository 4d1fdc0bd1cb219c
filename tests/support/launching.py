"""Launches programs of this repository as a user would."""

import os
import sys

from forking import ROOT, Ended, Started, run_forked


def launch_command(args, num_processes=1):
    """Command line of `accelerate launch`; `args`: script path in the repository, and options."""
    config = (
        ROOT
        / "sgdmix_hub"
        / "accelerate_configs"
        / ("cpu1.yaml" if num_processes == 1 else "cpu2.yaml")
    )
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        str(config),
    ]
    if num_processes > 2:
        command += [
            "--num_processes",
            str(num_processes),
            f"--gpu_ids={','.join(['-1'] * num_processes)}",
        ]
    return [*command, *map(str, args)]


def launch_environment(env=None):
    """This process's environment without launch variables, with one thread, updated by `env`."""
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in launched and not name.startswith("ACCELERATE_")
    }
    return inherited | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | (env or {})


def launch(args, num_processes=1, env=None, timeout=600) -> Ended:
    """Runs `["scripts/augment_dataset.py", "--name", "value", ...]` in `num_processes` processes.

    They run on the CPU, from the repository root. The launcher and the ranks are forked.
    """
    words = launch_command(args, num_processes)[1:]
    return run_forked(words, launch_environment(env), timeout=timeout)


def launched_now(args, num_processes=1, start_new_session=False) -> Started:
    """`launch` that doesn't wait for the end."""
    words = launch_command(args, num_processes)[1:]
    return Started(words, launch_environment(), start_new_session=start_new_session)
