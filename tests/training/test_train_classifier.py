"""The classifier's training: stopped at any moment, spread over processes or loaded by workers, it
sees and learns the same.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from generations import arguments, flip, one_line, snapshot
from launching import launch
from safetensors.torch import load_file
from trainings import CLASSIFIER, kill, last_step, run, unfinished
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from sgdmix_hub import augment, train_classifier
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.classifier import build_for_training
from sgdmix_hub.runtime.ranks import show_warnings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.training.log import TrainingLog

STEPS = 18  # three epochs of six
# Everything that is drawn at random, of an image, a batch or an epoch.
EVERYTHING = {
    "augmentation": "randaugment",
    "mixup_alpha": 0.4,
    "cutmix_alpha": 1.0,
    "synthetic_probability": 0.5,
    "synthetic_gamma": 0.8,
}
EVERYTHING |= {
    "sampling": "balanced",
    "loss": "balanced-softmax",
    "validation_split": "validation",
    "eval_steps": 5,
}


@pytest.fixture(scope="module")
def settings_at(birds, classifier):
    """Settings at an output folder. Checkpoints lie between two lines of the log, and within epochs
    and at their ends.
    """

    def made(output, **more):
        settings = {
            "dataset_name": str(birds),
            "model": str(classifier),
            "output_dir": str(output),
            "eval_split": "test",
            "image_size": 32,
        }
        settings |= {
            "num_train_epochs": 3.0,
            "total_batch_size": 4,
            "checkpointing_steps": 4,
            "logging_steps": 3,
        }
        return settings | more

    return made


def train(settings):
    """Trains in this process."""
    train_classifier.main(ClassifierSettings(**settings))
    return Path(settings["output_dir"])


@pytest.fixture(scope="module")
def finished(settings_at, tmp_path_factory):
    """The folder of a training that nothing disturbed."""
    return train(settings_at(tmp_path_factory.mktemp("finished") / "classifier"))


@pytest.fixture(scope="module")
def plain():
    return {}


@pytest.fixture(scope="module")
def mixtures(mixing, tmp_path_factory):
    """The repository of an augmented dataset of the birds, one row a source."""
    output = tmp_path_factory.mktemp("mixtures") / "run"
    augment.main(
        AugmentSettings(
            **(mixing | {"dataset_name": str(mixing["dataset_name"]), "output_dir": str(output)})
        )
    )
    return output / "repo"


@pytest.fixture(scope="module")
def everything(mixtures):
    return EVERYTHING | {"synthetic": str(mixtures)}


@pytest.fixture(scope="module")
def finished_with_everything(settings_at, everything, tmp_path_factory):
    return train(settings_at(tmp_path_factory.mktemp("everything") / "classifier", **everything))


def facts_of(folder):
    return json.loads((folder / CLASSIFIER_FACTS).read_text())


def learned(folder):
    """What is not about circumstances: weights to the last bit, log, curve, metrics."""
    facts = facts_of(folder)
    log = (folder / "state" / "log.jsonl").read_text()
    told = {name: facts.get(name) for name in ("loss_curve", "metrics", "validation")}
    return told | {"weights": (folder / "model.safetensors").read_bytes(), "log": log}


def losses(folder):
    return [
        record["loss"]
        for record in TrainingLog(folder / "state" / "log.jsonl").records()
        if "loss" in record
    ]


def checkpoints(folder):
    return sorted(path.name for path in (folder / "state" / "checkpoints").glob("checkpoint-*"))


# ---- stopped and going on ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "more", "workers"),
    [("finished", "plain", 0), ("finished_with_everything", "everything", 2)],
)
def test_a_training_killed_at_any_moment_ends_as_one_that_was_not(
    reference, more, workers, settings_at, request, tmp_path
):
    """The references have no workers: who decodes an image must not matter to how it is cropped,
    nor to how a batch is mixed.
    """
    reference, more = (request.getfixturevalue(name) for name in (reference, more))
    folder = tmp_path / "classifier"
    moments = [
        lambda: last_step(folder) >= 3,
        lambda: (folder / "state" / "checkpoints" / "checkpoint-8").exists(),
        lambda: last_step(folder) >= 15,
        lambda: last_step(folder) >= STEPS,
    ]
    args = arguments(settings_at(folder, dataloader_num_workers=workers, **more))
    killed = [kill(args, tmp_path / "logs", CLASSIFIER, moment) for moment in moments]
    assert sum(killed) >= 3
    ended = run(args, tmp_path / "logs", CLASSIFIER)
    assert ended.returncode == 0, ended.stderr
    assert learned(folder) == learned(reference)


@pytest.mark.slow
def test_a_training_on_mixed_and_added_images_goes_on_from_any_checkpoint(
    settings_at, everything, tmp_path
):
    """48 images an epoch: 24 real ones and as many synthetic ones."""
    more = everything | {
        "synthetic_mode": "add",
        "num_train_epochs": 1.0,
        "checkpoints_total_limit": 9,
    }
    folder = train(settings_at(tmp_path / "classifier", **more))
    before = learned(folder)
    assert checkpoints(folder) == ["checkpoint-12", "checkpoint-4", "checkpoint-8"]
    for gone in (["checkpoint-12"], ["checkpoint-12", "checkpoint-8"]):
        unfinished(folder, CLASSIFIER_FACTS)
        for name in gone:
            shutil.rmtree(folder / "state" / "checkpoints" / name)
        assert learned(train(settings_at(folder, **more))) == before


@pytest.mark.slow
def test_a_line_of_the_log_ends_every_three_steps_and_at_checkpoints(finished):
    """A training that goes on from a checkpoint has the same lines, because none spans it."""
    steps = [record["step"] for record in TrainingLog(finished / "state" / "log.jsonl").records()]
    assert steps == [3, 4, 6, 8, 9, 12, 15, 16, 18]
    assert [step for step, _ in facts_of(finished)["loss_curve"]] == steps
    assert checkpoints(finished) == ["checkpoint-16", "checkpoint-18"]


@pytest.mark.slow
def test_a_checkpoint_can_be_given_and_one_that_is_not_whole_does_not_count(
    finished, settings_at, tmp_path
):
    folder = unfinished(shutil.copytree(finished, tmp_path / "classifier"), CLASSIFIER_FACTS)
    given = folder / "state" / "checkpoints" / "checkpoint-16"
    half = shutil.copytree(given, given.with_name("checkpoint-20"))
    (half / "trainer_state.json").unlink()
    cut_off = shutil.copytree(given, given.with_name("checkpoint-24"))
    (cut_off / "trainer_state.json").write_bytes((given / "trainer_state.json").read_bytes()[:100])
    for broken in (half, cut_off):
        refused = run(
            arguments(settings_at(folder, resume_from_checkpoint=broken)),
            tmp_path / "logs",
            CLASSIFIER,
        )
        one_line(refused, "not a checkpoint", broken.name)
    assert learned(train(settings_at(folder, resume_from_checkpoint=str(given)))) == learned(
        finished
    )
    unfinished(folder, CLASSIFIER_FACTS)
    shutil.rmtree(folder / "state" / "checkpoints" / "checkpoint-18", ignore_errors=True)
    assert learned(train(settings_at(folder))) == learned(finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "sealed.json"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    name, finished, settings_at, tmp_path, capsys
):
    folder = unfinished(shutil.copytree(finished, tmp_path / "classifier"), CLASSIFIER_FACTS)
    path = folder / "state" / "checkpoints" / "checkpoint-18" / name
    flip(path, 0)
    assert learned(train(settings_at(folder))) == learned(finished)
    assert f"{path} is damaged: resuming from an older checkpoint" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [{"learning_rate": 0.02}, {"seed": 1}, {"image_size": 48}],
    ids=lambda other: next(iter(other)),
)
def test_going_on_with_another_setting_is_refused_by_its_name_and_touches_nothing(
    other, finished, settings_at, tmp_path
):
    folder = unfinished(shutil.copytree(finished, tmp_path / "classifier"), CLASSIFIER_FACTS)
    before = snapshot(folder)
    refused = run(arguments(settings_at(folder, **other)), tmp_path / "logs", CLASSIFIER)
    one_line(refused, *other, "--resume_from_checkpoint none")
    after = snapshot(folder)
    assert after.pop("state/error.json") and after.pop("state/lock") and before.pop("state/lock")
    assert after == before


@pytest.mark.slow
def test_a_finished_training_on_a_read_only_place_is_complete(
    finished, settings_at, read_only, capsys
):
    folder, close = read_only
    shutil.copytree(finished, folder / "classifier")
    close()
    train(settings_at(folder / "classifier"))
    assert "is complete, nothing to train" in capsys.readouterr().out


@pytest.mark.slow
def test_none_starts_over(finished, settings_at, tmp_path):
    folder = unfinished(shutil.copytree(finished, tmp_path / "classifier"), CLASSIFIER_FACTS)
    over = train(settings_at(folder, seed=1, num_train_epochs=1.0, resume_from_checkpoint="none"))
    fresh = train(settings_at(tmp_path / "fresh", seed=1, num_train_epochs=1.0))
    assert learned(over) == learned(fresh)
    assert checkpoints(over) == ["checkpoint-4", "checkpoint-6"]


@pytest.fixture(scope="module")
def transformer(class_names, tmp_path_factory):
    """A tiny ViT with dropout."""
    folder = tmp_path_factory.mktemp("models") / "vit"
    torch.manual_seed(0)
    names = dict(enumerate(class_names))
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = ViTConfig(
        **small,
        hidden_dropout_prob=0.2,
        image_size=32,
        patch_size=8,
        id2label=names,
        label2id={name: label for label, name in names.items()},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_an_input_size_that_the_classifier_does_not_take_is_refused(transformer):
    pin = resolve(str(transformer))
    build_for_training(pin, ["a", "b"], 32, None, from_scratch=False)
    with pytest.raises(UserError, match="48 x 48, give another --image_size"):
        build_for_training(pin, ["a", "b"], 48, None, from_scratch=False)


def assert_same_training(folder, reference):
    np.testing.assert_allclose(losses(folder), losses(reference), rtol=1e-4)
    for name in ("metrics", "validation"):
        assert facts_of(folder)[name] == facts_of(reference)[name]
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, reference))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(transformer, settings_at, tmp_path):
    """Crops, dropout, and a total batch that does not divide the 24 images of an epoch."""
    settings = {
        "model": str(transformer),
        "num_train_epochs": 2.0,
        "total_batch_size": 10,
        "logging_steps": 1,
        "learning_rate": 1e-3,
    }
    settings |= {"validation_split": "validation", "sampling": "balanced"}
    one = train(settings_at(tmp_path / "one", **settings))
    done = launch([CLASSIFIER, *arguments(settings_at(tmp_path / "two", **settings))], 2)
    assert done.returncode == 0, done.stderr
    assert len(losses(one)) == 6
    assert_same_training(tmp_path / "two", one)


@pytest.mark.slow
def test_two_processes_go_on_from_where_one_stopped(
    finished_with_everything, settings_at, everything, tmp_path
):
    """With batch normalisation, and images that are mixed with those of the other process."""
    folder = unfinished(
        shutil.copytree(finished_with_everything, tmp_path / "classifier"), CLASSIFIER_FACTS
    )
    shutil.rmtree(folder / "state" / "checkpoints" / "checkpoint-18")
    done = launch([CLASSIFIER, *arguments(settings_at(folder, **everything))], 2)
    assert done.returncode == 0, done.stderr
    assert facts_of(folder)["num_processes"] == 2
    assert facts_of(folder)["batch_norm_samples"] == 4
    assert_same_training(folder, finished_with_everything)


@pytest.mark.slow
def test_accumulated_batches_train_as_one(transformer, classifier, settings_at, tmp_path, capsys):
    """Without batch normalisation; with it, the user is told over how many samples it is."""
    settings = {"num_train_epochs": 1.0, "logging_steps": 1, "validation_share": 0.25}
    settings |= {"model": str(transformer), "mixup_alpha": 0.4}
    one = train(settings_at(tmp_path / "one", **settings))
    settings |= {"per_device_train_batch_size": 2}
    assert_same_training(train(settings_at(tmp_path / "accumulated", **settings)), one)
    assert "batch normalisation" not in capsys.readouterr().out
    show_warnings()
    folder = tmp_path / "normalised"
    train(settings_at(folder, **settings | {"model": str(classifier), "num_train_epochs": 0.2}))
    assert "sees 2 of the 4 samples" in capsys.readouterr().out
    assert facts_of(folder)["batch_norm_samples"] == 2


@pytest.mark.slow
def test_half_precision_is_recorded_and_a_checkpoint_of_it_is_not_mixed_with_others(
    finished, settings_at, tmp_path
):
    half = train(settings_at(tmp_path / "half", num_train_epochs=1.0, mixed_precision="bf16"))
    assert (facts_of(half)["precision"], facts_of(finished)["precision"]) == ("bf16", "no")
    np.testing.assert_allclose(losses(half)[0], losses(finished)[0], rtol=0.02)
    assert losses(half)[0] != losses(finished)[0]
    weights = load_file(half / "model.safetensors")
    assert not any(value.dtype == torch.bfloat16 for value in weights.values())
    folder = unfinished(shutil.copytree(half, tmp_path / "mixed"), CLASSIFIER_FACTS)
    other = settings_at(folder, num_train_epochs=1.0, mixed_precision="no")
    one_line(run(arguments(other), tmp_path / "logs", CLASSIFIER), "precision", "none")


@pytest.mark.slow
def test_a_total_that_cannot_be_divided_is_refused_in_one_line(settings_at, tmp_path):
    uneven = settings_at(tmp_path / "classifier", per_device_train_batch_size=3)
    one_line(run(arguments(uneven), tmp_path / "logs", CLASSIFIER), "3 does not divide", "1, 2, 4")
    assert not (tmp_path / "classifier" / "state" / "checkpoints").exists()


@pytest.mark.slow
def test_tensorboard_is_told_the_losses_and_nothing_of_it_lies_beside_the_model(
    settings_at, tmp_path
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(
        settings_at(tmp_path / "classifier", num_train_epochs=1.0, report_to="tensorboard")
    )
    (events,) = folder.rglob("events.out.tfevents.*")
    assert events.relative_to(folder).parts[0] == "state"
    told = EventAccumulator(str(events.parent)).Reload().Scalars("train/loss")
    np.testing.assert_allclose([event.value for event in told], losses(folder), rtol=1e-6)
