"""On a GPU, as `--accelerate gpu1` launches it: the promises that the other tests keep on a CPU."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from datasets import load_dataset
from generations import (
    NUM_SHARDS,
    SCRIPT,
    arguments,
    digests,
    kill_all,
    manifest_of,
    pixels_of,
    published_rows,
    records,
    start,
    undecoded,
    wait_for_records,
)
from halting import Halting
from launching import ROOT, launch
from run_stages import stages
from trainings import ADAPTER, TINY

from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.method import MethodSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def on_gpu(script: str, settings: dict) -> list[str]:
    """The command line of a launch on one GPU."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return [
        *command,
        "--config_file",
        str(ROOT / "sgdmix_hub" / "accelerate_configs" / "gpu1.yaml"),
        script,
        *arguments(settings),
    ]


def finish(script: str, settings: dict) -> None:
    launched = start(on_gpu(script, settings))
    _, stderr = launched.communicate()
    assert launched.returncode == 0, stderr


@pytest.mark.parametrize(
    "method",
    [{"dtype": "float16"}, {"dtype": "bfloat16", "compile": True}],
    ids=["float16", "bfloat16 compiled"],
)
def test_killed_run_is_continued_to_the_same_bytes(method, generation_settings, tmp_path):
    settings = generation_settings | method
    finish(SCRIPT, settings | {"output_dir": tmp_path / "whole"})
    again = settings | {"output_dir": tmp_path / "killed"}
    launched = start(on_gpu(Halting(tmp_path, shard=4).script, again))
    wait_for_records(launched, tmp_path / "killed", 2)
    kill_all([launched, *psutil.Process(launched.pid).children(recursive=True)])
    launched.communicate()
    assert len(records(tmp_path / "killed")) < NUM_SHARDS
    finish(SCRIPT, again)
    assert digests(tmp_path / "killed" / "repo") == digests(tmp_path / "whole" / "repo")
    assert not manifest_of(tmp_path / "whole")["skipped"]


def test_images_are_the_cpus_up_to_rounding(generation_settings, tmp_path):
    finish(SCRIPT, generation_settings | {"output_dir": tmp_path / "gpu"})
    done = launch([SCRIPT, *arguments(generation_settings | {"output_dir": tmp_path / "cpu"})])
    assert done.returncode == 0, done.stderr
    pairs = list(
        zip(published_rows(tmp_path / "gpu"), published_rows(tmp_path / "cpu"), strict=True)
    )
    plan = ("source_index", "variant", "target_index", "seed")
    assert all(gpu[name] == cpu[name] for gpu, cpu in pairs for name in plan)
    differences = [np.abs(pixels_of(gpu).astype(int) - pixels_of(cpu)).mean() for gpu, cpu in pairs]
    # Of 255. A map value at the threshold may move the edge of a mask.
    assert np.median(differences) < 1 and max(differences) < 8


def test_adapter_trained_in_half_precision_refines(generation_settings, tmp_path):
    training = TINY | {
        "dataset_name": generation_settings["dataset_name"],
        "output_dir": tmp_path / "adapter",
    }
    base = {"pretrained_model_name_or_path": generation_settings["pretrained_model_name_or_path"]}
    finish(
        ADAPTER,
        training
        | base
        | {
            "mixed_precision": "bf16",
            "num_train_samples": 8,
            "judged_strength": 0.5,
            "num_inference_steps": 4,
        },
    )
    finish(
        SCRIPT,
        generation_settings
        | {"adapter": tmp_path / "adapter", "dtype": "bfloat16", "output_dir": tmp_path / "run"},
    )
    assert (
        len(published_rows(tmp_path / "run")) + len(manifest_of(tmp_path / "run")["skipped"]) == 48
    )


def test_run_refines_in_bfloat16_where_torch_says_that_the_gpu_has_it(tmp_path):
    has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    *_, generation, _ = stages(tmp_path)
    assert generation.dtype == ("bfloat16" if has_it else "float32")


def test_the_python_api_computes_in_float32_as_the_programs_do(
    generation_settings, birds, tmp_path
):
    """With another precision of matrix products, images would differ in their last bits."""
    finish(SCRIPT, generation_settings | {"output_dir": tmp_path / "run"})
    names = {field.name for field in dataclasses.fields(MethodSettings)} | {
        "adapter",
        "classifier",
        "pretrained_model_name_or_path",
    }
    given = {name: value for name, value in generation_settings.items() if name in names}
    torch.set_float32_matmul_precision("highest")
    pipeline = SGDMixPipeline.from_pretrained(
        **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    )
    assert torch.get_float32_matmul_precision() == "high"
    dataset = load_dataset(str(birds), split="train")
    mapped = MappedSplit(pipeline, dataset, image_format="png")
    assert undecoded(dataset.map(mapped, **mapped.options)) == published_rows(tmp_path / "run")
