"""Launches on bases trained by flow matching: the bytes do not depend on the number of processes
nor on kills, in a generation and in the training of its adapter. Z-Image in every run of the tests,
the other families in `make soak`.
"""

import psutil
import pytest
from generations import (
    SCRIPT,
    alive_in_the_end,
    arguments,
    digests,
    kill_all,
    records,
    wait_for_records,
    whole_run,
)
from halting import Halting
from launching import launch, launched_now
from tiny_bases import BUILD
from trainings import ADAPTER, adapter_settings, kill, last_step, learned, run, train

from sgdmix_hub.models.bases.families import FAMILIES

METHOD = {
    "preset": "recommended",
    "mask_column": "mask",
    "strength": 0.6,
    "foreground_strength": 0.25,
    "scheduler": "euler",
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "batch_size": 4,
    "resolution": 32,
    "rows_per_shard": 3,
    "num_workers": 1,
    "image_format": "png",
}
SHARDS = 8
TRAINING = {
    "num_train_samples": 16,
    "checkpointing_steps": 3,
    "logging_steps": 1,
    "learning_rate": 0.05,
    "lora_dropout": 0.2,
    "cache_latents": True,
}


OTHERS = [
    family.name
    for family in FAMILIES
    if family.denoiser == "transformer" and family.name != "z-image"
]


@pytest.fixture(
    scope="module",
    params=["z-image", *(pytest.param(name, marks=pytest.mark.soak) for name in OTHERS)],
)
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow") / "base"
    BUILD[request.param]().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def adapter(birds, base, tmp_path_factory):
    """The folder of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    return train(adapter_settings(birds, base, folder, **TRAINING))


@pytest.fixture(scope="module")
def settings(birds, base, adapter):
    models = {"pretrained_model_name_or_path": base, "adapter": adapter}
    return METHOD | models | {"dataset_name": birds}


@pytest.fixture(scope="module")
def generated(settings, tmp_path_factory):
    return whole_run(settings, tmp_path_factory.mktemp("generated") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_published_bytes_do_not_depend_on_the_launch(num_processes, settings, generated, tmp_path):
    """Nor on that of three processes, which finishes the killed one below."""
    done = launch([SCRIPT, *arguments(settings | {"output_dir": tmp_path / "run"})], num_processes)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run" / "repo") == digests(generated / "repo")


@pytest.mark.slow
def test_a_killed_launch_is_continued_to_the_same_bytes(settings, generated, tmp_path):
    """By a launch of another number of processes."""
    output = tmp_path / "run"
    args = arguments(settings | {"output_dir": output})
    halting = Halting(tmp_path, shard=4)
    launched = launched_now([halting.script, *args], 2)
    wait_for_records(launched, output, 2)
    halting.wait()
    processes = psutil.Process(launched.pid).children(recursive=True)
    kill_all([launched, *processes])
    launched.communicate()
    assert not alive_in_the_end(processes)
    assert 2 <= len(records(output)) < SHARDS and not (output / "repo").exists()
    done = launch([SCRIPT, *args], 3)
    assert done.returncode == 0, done.stderr
    assert digests(output / "repo") == digests(generated / "repo")


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_was_not(birds, base, adapter, tmp_path):
    """Before the first checkpoint, after it, and between two."""
    folder = tmp_path / "adapter"
    args = arguments(adapter_settings(birds, base, folder, **TRAINING))
    killed = [
        kill(args, tmp_path / "logs", ADAPTER, lambda step=step: last_step(folder) >= step)
        for step in (2, 4, 7)
    ]
    assert sum(killed) >= 2
    ended = run(args, tmp_path / "logs", ADAPTER)
    assert ended.returncode == 0, ended.stderr
    assert learned(folder) == learned(adapter)
