"""The accelerate configurations that ship, launched for real on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.utils import DistributedType
from forking import Ended, run_forked
from launching import launch as launch_forked
from launching import launch_environment

CONFIGS = Path(__file__).parents[2] / "sgdmix_hub" / "accelerate_configs"

# what `accelerate config` writes for a machine of one's own; a missing one may become a warning at
# every launch
EXPECTED_KEYS = {
    "compute_environment",
    "debug",
    "distributed_type",
    "downcast_bf16",
    "enable_cpu_affinity",
    "gpu_ids",
    "machine_rank",
    "main_training_function",
    "mixed_precision",
    "num_machines",
    "num_processes",
    "rdzv_backend",
    "same_network",
    "use_cpu",
}

REPORT = """
import json, os, sys
import torch
from accelerate import PartialState

state = PartialState(cpu=not torch.cuda.is_available())
state.wait_for_everyone()
facts = {"world_size": state.num_processes, "rank": state.process_index}
facts |= {"backend": state.backend, "device": state.device.type}
with open(os.path.join(sys.argv[1], f"{os.getpid()}.json"), "w") as file:
    json.dump(facts, file)
state.destroy_process_group()
"""

FAIL = """
import os, sys, time
import torch
from accelerate import PartialState

state = PartialState(cpu=not torch.cuda.is_available())
if state.process_index == 0:
    with open(os.path.join(sys.argv[1], "busy.pid"), "w") as file:
        file.write(str(os.getpid()))
state.wait_for_everyone()
if state.process_index == 1:
    sys.exit(2)
time.sleep(60)
"""


def launch(
    config: str, program: str, folder: Path, anew: bool
) -> subprocess.CompletedProcess | Ended:
    """Runs the program under `accelerate launch --config_file`; it is told the folder to write
    into. `anew`: nothing is forked, so that what a library says at its import is heard too.
    """
    script = folder / "program.py"
    script.write_text(program)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = ["-m", "accelerate.commands.accelerate_cli", "launch"]
    words += ["--config_file", str(CONFIGS / config), str(script), str(folder)]
    if not anew:
        return run_forked(words, environment, timeout=180)
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=180
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "world_size", "backend"), [("cpu1.yaml", 1, None), ("cpu2.yaml", 2, "gloo")]
)
def test_cpu_configs_start_their_processes_without_a_warning(config, world_size, backend, tmp_path):
    done = launch(config, REPORT, tmp_path, anew=world_size > 1)
    assert done.returncode == 0, done.stderr
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(fact["rank"] for fact in facts) == list(range(world_size))
    for fact in facts:
        assert (fact["world_size"], fact["backend"], fact["device"]) == (world_size, backend, "cpu")
    assert "warn" not in done.stderr.lower(), done.stderr


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_launch_and_the_other_rank(tmp_path):
    (tmp_path / "program.py").write_text(FAIL)
    done = launch_forked([tmp_path / "program.py", tmp_path], 2)
    assert done.returncode == 1, done.stderr  # the launcher's own code, whatever the rank's was
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "busy.pid").read_text()), 0)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_holds_what_accelerate_expects(path):
    values = yaml.safe_load(path.read_text())
    assert values.keys() >= EXPECTED_KEYS
    config = ClusterConfig.from_yaml_file(path)  # refuses keys it does not know
    assert config.num_processes % config.num_machines == 0
    assert config.distributed_type == (
        DistributedType.MULTI_GPU if config.num_processes > 1 else DistributedType.NO
    )


def test_all_configs_are_there():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        "cpu1",
        "cpu2",
        "gpu1",
        "gpu8",
        "nodes",
    }


DIFFUSERS_FORGOTTEN = """
import logging, sys

for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
    del sys.modules[name]
logging.getLogger("diffusers").setLevel(logging.NOTSET)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("launched_first", [True, False])
def test_only_rank_0_shows_the_warnings_of_diffusers(rank, launched_first):
    lines = [
        "from sgdmix_hub.runtime.launch import quiet_other_ranks; quiet_other_ranks()",
        "from diffusers.utils import logging",
    ]
    lines = lines if launched_first else lines[::-1]
    asked = "print(logging.get_verbosity() <= logging.WARNING)"
    script = "\n".join([DIFFUSERS_FORGOTTEN, *lines, asked])
    ended = run_forked(["-c", script], launch_environment({"RANK": rank}))
    assert ended.stdout.strip() == str(rank == "0"), ended.stderr
