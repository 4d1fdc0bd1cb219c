"""What is seen of an adapter's training: sheets of images, a tracker, its precision."""

import importlib.util

import numpy as np
import pytest
import torch
from generations import arguments, one_line
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import (
    ADAPTER,
    adapter_settings,
    run,
    step_of,
    train,
    weights,
)

from sgdmix_hub.figures import counts
from sgdmix_hub.figures.panels import PANEL
from sgdmix_hub.training.log import TrainingLog

# ---- what is seen of it ----


@pytest.mark.slow
def test_sheets_of_images_come_when_asked_and_at_the_end(birds, tiny_base, tmp_path, monkeypatch):
    for name, value in {"SHOWN_CLASSES": 8, "SHOWN_IMAGES": 4}.items():  # as users get them
        monkeypatch.setattr(counts, name, value)
    settings = adapter_settings(
        birds, tiny_base, tmp_path / "adapter", num_train_samples=10, validation_steps=2
    )
    folder = train(settings)
    sheets = sorted((folder / "state" / "validation").iterdir())
    assert [step_of(path.name) for path in sheets] == [2, 4, 5]
    for path in sheets:
        with Image.open(path) as sheet:
            assert np.asarray(sheet.convert("L")).std() > 5
            assert sheet.width > 4 * PANEL and sheet.height > 4 * PANEL  # four classes
    assert (
        (folder / "assets" / "samples.png").read_bytes()
        == sheets[-1].read_bytes()
        != sheets[0].read_bytes()
    )
    assert Image.open(folder / "assets" / "loss.png").size[0] > 300


@pytest.mark.slow
def test_tensorboard_is_told_losses_rates_and_images(birds, tiny_base, tmp_path):
    settings = adapter_settings(
        birds,
        tiny_base,
        tmp_path / "adapter",
        num_train_samples=6,
        logging_steps=1,
        validation_steps=2,
    )
    folder = train(settings | {"report_to": "tensorboard"})
    (logs,) = {
        path.parent
        for path in (folder / "state").rglob("events.out.tfevents.*")
        if path.parent.name == "sgdmix_hub_adapter"
    }
    events = EventAccumulator(str(logs), size_guidance={"images": 0}).Reload()
    for name in ("loss", "lr", "token_lr"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        kept = [
            (record["step"], record[name])
            for record in TrainingLog(folder / "state" / "log.jsonl").records()
        ]
        np.testing.assert_allclose(told, kept, rtol=1e-6)
    images = events.Images("validation")
    assert [image.step for image in images] == [2, 3]
    with Image.open(folder / "assets" / "samples.png") as sheet:
        assert (images[-1].width, images[-1].height) == sheet.size
    assert not [
        path
        for path in folder.rglob("events.out.tfevents.*")
        if "state" not in path.relative_to(folder).parts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_trained(
    tracker, birds, tiny_base, tmp_path
):
    if importlib.util.find_spec(tracker):
        pytest.skip(f"{tracker} is installed")
    args = arguments(adapter_settings(birds, tiny_base, tmp_path / "adapter", report_to=tracker))
    one_line(run(args, tmp_path / "logs", ADAPTER), f"pip install {tracker}")
    assert not (tmp_path / "adapter" / "state" / "log.jsonl").exists()


# ---- precision ----


@pytest.mark.slow
def test_half_precision_trains_and_saves_float32(birds, tiny_base, tmp_path):
    settings = adapter_settings(
        birds, tiny_base, tmp_path / "half", num_train_samples=8, logging_steps=1
    )
    folder = train(settings | {"mixed_precision": "bf16"})
    whole = train(settings | {"output_dir": str(tmp_path / "whole")})
    half, single = weights(folder), weights(whole)
    assert {value.dtype for value in half.values()} == {torch.float32}
    # Weights that were rounded to bfloat16 would be equal to their own rounding.
    assert any(not torch.equal(value, value.bfloat16().float()) for value in half.values())
    assert any(not torch.equal(value, single[name]) for name, value in half.items())
    losses = [
        [record["loss"] for record in TrainingLog(path / "state" / "log.jsonl").records()]
        for path in (folder, whole)
    ]
    np.testing.assert_allclose(*losses, rtol=0.05)
