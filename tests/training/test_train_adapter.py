"""The adapter's training: stopped at any moment, spread over processes or looked at, it learns the
same.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from generations import arguments, flip, one_line, snapshot
from launching import launch
from trainings import (
    ADAPTER,
    adapter_settings,
    kill,
    last_step,
    learned,
    run,
    train,
    unfinished,
    weights,
)

from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.fields import names_where
from sgdmix_hub.training.log import TrainingLog

STEPS = 12
VARIANTS = {
    "prior": {"with_prior_preservation": True, "num_class_images": 3, "prior_loss_weight": 0.5},
    "velocity": {
        "snr_gamma": 5.0,
        "per_device_train_batch_size": 1,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 3,
        "cache_latents": True,
    },
}


@pytest.fixture(scope="module")
def velocity_base(tiny_base, tmp_path_factory):
    """The tiny base, said to predict the velocity."""
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("models") / "velocity-base")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    return folder


@pytest.fixture(scope="module")
def settings_of(birds, tiny_base, velocity_base):
    """Settings of one of the variants, at an output folder. Checkpoints lie between two lines of
    the log.
    """

    def made(variant, output, **more):
        base = velocity_base if variant == "velocity" else tiny_base
        common = {
            "lora_dropout": 0.2,
            "num_train_samples": 2 * STEPS,
            "checkpointing_steps": 3,
            "logging_steps": 2,
        }
        return adapter_settings(birds, base, output, **(common | VARIANTS[variant] | more))

    return made


@pytest.fixture(scope="module")
def finished(settings_of, tmp_path_factory):
    """By variant, the folder of a training that nothing disturbed."""
    folders = {}

    def folder_of(variant):
        if variant not in folders:
            folders[variant] = train(
                settings_of(variant, tmp_path_factory.mktemp("finished") / variant)
            )
        return folders[variant]

    return folder_of


def checkpoints(folder):
    """The names of the checkpoints in place."""
    return sorted(path.name for path in (folder / "state" / "checkpoints").glob("step-*"))


def worst_difference(first, second):
    """The largest and the median difference of two adapters' weights."""
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    differences = torch.cat([(first[name] - second[name]).abs().flatten() for name in first])
    return differences.max().item(), differences.median().item()


# ---- stopped and going on ----


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_killed_at_any_moment_ends_as_one_that_was_not(
    variant, settings_of, finished, tmp_path
):
    """Before the first checkpoint, while one is written, between two, and at the end: dropout,
    order and noise must go on too.
    """
    folder = tmp_path / "adapter"
    state = folder / "state"
    moments = [
        lambda: last_step(folder) >= 2,
        lambda: any(path.name.endswith("0006") for path in (state / "checkpoints").glob("*step-*")),
        lambda: last_step(folder) >= 8,
        lambda: (state / "validation" / f"step-{STEPS:07d}.png").exists(),
    ]
    if variant == "velocity":  # the other one is killed at every moment
        moments = moments[1:3]
    args = arguments(settings_of(variant, folder))
    killed = [kill(args, tmp_path / "logs", ADAPTER, moment) for moment in moments]
    assert sum(killed) >= len(moments) - 1
    ended = run(args, tmp_path / "logs", ADAPTER)
    assert ended.returncode == 0, ended.stderr
    assert learned(folder) == learned(finished(variant))


@pytest.mark.slow
def test_checkpoints_are_no_more_than_asked_and_the_newest(finished, settings_of, tmp_path):
    assert checkpoints(finished("prior")) == ["step-0000009", "step-0000012"]
    folder = train(
        settings_of(
            "prior",
            tmp_path / "adapter",
            num_train_samples=8,
            checkpointing_steps=1,
            checkpoints_total_limit=3,
        )
    )
    assert checkpoints(folder) == ["step-0000002", "step-0000003", "step-0000004"]


@pytest.mark.slow
def test_a_checkpoint_can_be_given_and_one_that_is_not_whole_does_not_count(
    finished, settings_of, tmp_path
):
    folder = unfinished(shutil.copytree(finished("prior"), tmp_path / "adapter"))
    given = folder / "state" / "checkpoints" / "step-0000009"
    half = shutil.copytree(given, given.with_name("step-0000099"))
    (half / "training.json").unlink()
    settings = settings_of("prior", folder)
    refused = run(
        arguments(settings | {"resume_from_checkpoint": half}), tmp_path / "logs", ADAPTER
    )
    one_line(refused, "not a checkpoint", "step-0000099")
    assert learned(train(settings | {"resume_from_checkpoint": str(given)})) == learned(
        finished("prior")
    )
    unfinished(folder)
    shutil.rmtree(folder / "state" / "checkpoints" / "step-0000012")
    assert learned(train(settings)) == learned(finished("prior"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.bin", "training.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    name, finished, settings_of, tmp_path, capsys
):
    folder = unfinished(shutil.copytree(finished("prior"), tmp_path / "adapter"))
    path = folder / "state" / "checkpoints" / "step-0000012" / name
    flip(path, 0)
    assert learned(train(settings_of("prior", folder))) == learned(finished("prior"))
    assert f"{path} is damaged: resuming from an older checkpoint" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"learning_rate": 0.02},
        {"seed": 1},
        {"snr_gamma": 5.0},
        {"num_train_samples": 26},
        {"metaclass": "finch"},
        {"total_batch_size": 4},
    ],
    ids=lambda other: next(iter(other)),
)
def test_going_on_with_another_setting_is_refused_by_its_name_and_touches_nothing(
    other, finished, settings_of, tmp_path
):
    folder = unfinished(shutil.copytree(finished("prior"), tmp_path / "adapter"))
    before = snapshot(folder)
    refused = run(arguments(settings_of("prior", folder, **other)), tmp_path / "logs", ADAPTER)
    one_line(refused, *other, "--resume_from_checkpoint none")
    after = snapshot(folder)
    assert after.pop("state/error.json")
    assert {name: facts for name, facts in after.items() if "lock" not in name} == {
        name: facts for name, facts in before.items() if "lock" not in name
    }


@pytest.mark.slow
def test_a_finished_adapter_of_other_settings_is_not_trained_over(finished, settings_of, tmp_path):
    folder = shutil.copytree(finished("prior"), tmp_path / "adapter")
    before = learned(folder)
    refused = run(arguments(settings_of("prior", folder, rank=3)), tmp_path / "logs", ADAPTER)
    one_line(refused, "rank", "--output_dir")
    assert learned(folder) == before


@pytest.mark.slow
def test_none_starts_over_and_what_it_left_is_gone_on_from(finished, settings_of, tmp_path):
    """Nothing of the other training may come back: not its checkpoints, whose steps are higher, nor
    the base's images of its seed.
    """
    folder = unfinished(shutil.copytree(finished("prior"), tmp_path / "adapter"))
    changed = {"seed": 1, "learning_rate": 0.02}
    fresh = train(settings_of("prior", tmp_path / "fresh", **changed))
    settings = settings_of("prior", folder, **changed)
    over = arguments(settings | {"resume_from_checkpoint": "none"})
    assert kill(
        over,
        tmp_path / "logs",
        ADAPTER,
        lambda: "step-0000003" in checkpoints(folder) and last_step(folder) >= 4,
    )
    ended = run(arguments(settings), tmp_path / "logs", ADAPTER)
    assert ended.returncode == 0, ended.stderr
    assert learned(folder) == learned(fresh)
    assert learned(fresh)["log"] != learned(finished("prior"))["log"]


# ---- what must not matter ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"cache_latents": True, "gradient_checkpointing": True},
        {
            "dataloader_num_workers": 2,
            "checkpointing_steps": 100,
            "checkpoints_total_limit": 1,
            "validation_steps": 5,
            "logging_steps": 1,
        },
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_is_not_recorded_does_not_change_what_is_learned(
    changed, finished, settings_of, tmp_path
):
    assert changed.keys() <= set(names_where(AdapterSettings, changes="nothing"))
    folder = train(settings_of("prior", tmp_path / "adapter", **changed))
    before = weights(finished("prior"))
    assert all(torch.equal(value, before[name]) for name, value in weights(folder).items())


@pytest.fixture(scope="module")
def one_process(birds, tiny_base, tmp_path_factory):
    """Settings, and what one process makes of them in whole batches."""
    settings = adapter_settings(
        birds,
        tiny_base,
        "unused",
        num_train_samples=8,
        logging_steps=1,
        learning_rate=1e-3,
        token_learning_rate=1e-3,
        checkpointing_steps=2,
        lora_dropout=0.2,
        cache_latents=True,
    )
    settings |= {"with_prior_preservation": True, "num_class_images": 2}
    return settings, train(
        settings | {"output_dir": str(tmp_path_factory.mktemp("one") / "adapter")}
    )


def assert_same_training(folder, reference):
    losses = [
        [record["loss"] for record in TrainingLog(path / "state" / "log.jsonl").records()]
        for path in (folder, reference)
    ]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)
    largest, median = worst_difference(folder, reference)
    # Four steps of 1e-3: sums are rounded in another order, nothing else differs.
    assert median < 1e-6 and largest < 1e-4


@pytest.mark.slow
def test_accumulated_batches_train_as_one(one_process, tmp_path):
    settings, reference = one_process
    accumulated = settings | {
        "per_device_train_batch_size": 1,
        "output_dir": str(tmp_path / "adapter"),
    }
    assert_same_training(train(accumulated), reference)


@pytest.mark.slow
def test_two_processes_train_as_one(one_process, tmp_path):
    settings, reference = one_process
    shared = settings | {"output_dir": tmp_path / "adapter"}
    done = launch([ADAPTER, *arguments(shared)], 2)
    assert done.returncode == 0, done.stderr
    assert_same_training(tmp_path / "adapter", reference)
    assert json.loads((tmp_path / "adapter" / "adapter.json").read_text())["num_processes"] == 2
    assert "Traceback" not in done.stderr and done.stdout.count("nothing to train") == 0


@pytest.mark.slow
def test_two_processes_go_on_from_where_one_stopped(one_process, tmp_path):
    settings, reference = one_process
    folder = unfinished(shutil.copytree(reference, tmp_path / "adapter"))
    shutil.rmtree(folder / "state" / "checkpoints" / "step-0000004")
    done = launch([ADAPTER, *arguments(settings | {"output_dir": folder})], 2)
    assert done.returncode == 0, done.stderr
    assert_same_training(folder, reference)
