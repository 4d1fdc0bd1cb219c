"""Helpers for tests of trainings: running them at tiny settings, killing them, comparing files."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from forking import Ended, fork
from generations import _script
from safetensors.torch import load_file

from sgdmix_hub import train_adapter
from sgdmix_hub.files import read_json
from sgdmix_hub.models.adapters import FACTS_FILE, LORA_FILE, TOKENS_FILE
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.log import TrainingLog

ADAPTER, CLASSIFIER = "scripts/train_adapter.py", "scripts/train_classifier.py"
# The learning rates are high enough for a few steps to change the output.
TINY = {
    "metaclass": "bird",
    "total_batch_size": 2,
    "rank": 2,
    "lora_alpha": 4,
    "learning_rate": 0.01,
    "token_learning_rate": 0.01,
    "resolution": 32,
    "num_inference_steps": 2,
    "guidance_scale": 1.5,
}


def adapter_settings(birds, tiny_base, output, **more) -> dict:
    return (
        TINY
        | {
            "dataset_name": str(birds),
            "pretrained_model_name_or_path": str(tiny_base),
            "output_dir": str(output),
        }
        | more
    )


def train(settings: dict) -> Path:
    """Trains an adapter in this process."""
    train_adapter.main(AdapterSettings(**settings))
    return Path(settings["output_dir"])


def learned(folder: Path) -> dict[str, bytes]:
    """Bytes of everything learned: LoRA, tokens, log and loss curve; no images, no run facts."""
    files = {name: (folder / name).read_bytes() for name in (LORA_FILE, TOKENS_FILE)}
    curve = str(read_json(folder / FACTS_FILE)["loss_curve"])
    return files | {"log": (folder / "state" / "log.jsonl").read_bytes(), "curve": curve.encode()}


def weights(folder: Path) -> dict:
    """LoRA weights and learned tokens, by name."""
    return load_file(folder / LORA_FILE) | load_file(folder / TOKENS_FILE)


def last_step(folder: Path) -> int:
    """Last step in the log; 0 if the log is empty."""
    return max(
        [record["step"] for record in TrainingLog(folder / "state" / "log.jsonl").records()],
        default=0,
    )


def step_of(name: str) -> int:
    return int(re.search(r"\d+", name)[0])


def unfinished(folder: Path, facts_file: str = FACTS_FILE) -> Path:
    """Makes a finished training look killed between its last checkpoint and its end."""
    (folder / facts_file).unlink()
    return folder


def run(args: list[str], logs: Path, script: str) -> Ended:
    """Runs a script to its end, without a launcher."""
    logs.mkdir(exist_ok=True)
    process = fork(_in_own_group, script, args, logs)
    process.join()
    return Ended(process.exitcode, *((logs / name).read_text() for name in ("stdout", "stderr")))


def kill(args: list[str], logs: Path, script: str, when: Callable[[], bool]) -> bool:
    """Runs a script and sends SIGKILL to its process group once `when()` is true.

    Returns whether the script was killed before its end.
    """
    logs.mkdir(exist_ok=True)
    process = fork(_in_own_group, script, args, logs)
    try:
        while process.is_alive() and not when():
            time.sleep(0.002)
    finally:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL), (logs / "stderr").read_text()
    return process.exitcode != 0


def _in_own_group(script: str, args: list[str], logs: Path) -> None:
    os.setsid()
    # Data loaders start their workers as in a script that was not forked.
    multiprocessing.set_start_method("fork", force=True)
    _script(script, args, logs)
