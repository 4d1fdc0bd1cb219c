"""Selection on validation: what is held out, which weights are kept, and that the figures on the
card are theirs.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from generations import arguments, one_line
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import launch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from trainings import CLASSIFIER, run, unfinished

from sgdmix_hub import train_classifier
from sgdmix_hub.data.splits import load_evaluation_split, load_split
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.classifier import Classifier
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.training.classifier.accuracy import result_line
from sgdmix_hub.training.classifier.best_weights import best_steps, hold_out


def test_the_last_line_of_a_training_says_where_the_classifier_is_and_how_good():
    chosen = ClassifierSettings(dataset_name="a/b", output_dir="birds", eval_split="test")
    validation = {"accuracy": 0.875, "images": 40, "evaluations": 12, "kept_step": 300}
    assert result_line(Path("birds"), chosen, {}) == "classifier: saved in birds"
    facts = {"validation": validation, "metrics": {"accuracy": 0.75}}
    assert result_line(Path("birds"), chosen, facts) == (
        "classifier: saved in birds; accuracy 0.8750 on 40 validation images "
        "(best of 12 evaluations, step 300), 0.7500 on split test"
    )


label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array)


@given(labels=label_lists, share=st.floats(0.0, 0.99), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_of_each_class_the_share_is_held_out_and_never_all(labels, share, seed):
    rows = np.arange(0, len(labels), 2) if len(labels) > 3 else np.arange(len(labels))
    held = hold_out(labels, rows, share, seed)
    assert (np.diff(held) > 0).all() and set(held.tolist()) <= set(rows.tolist())
    for label in np.unique(labels[rows]):
        size, out = (labels[rows] == label).sum(), (labels[held] == label).sum()
        assert out == min(round(size * share), size - 1)
    assert np.array_equal(held, hold_out(labels.copy(), rows, share, seed))


@given(
    accuracies=st.lists(st.sampled_from([0.25, 0.5, 0.75]), max_size=8),
    moments=st.lists(st.integers(0, 50), max_size=3),
)
@settings(max_examples=60)
def test_the_best_so_far_is_the_first_that_nothing_before_or_until_then_beats(accuracies, moments):
    measured = [(5 * (index + 1), accuracy) for index, accuracy in enumerate(accuracies)]
    expected = set()
    for moment in moments:
        best = None
        for step, accuracy in measured:
            if step <= moment and (best is None or accuracy > best[1]):
                best = (step, accuracy)
        expected |= {best[0]} if best else set()
    assert best_steps(measured, moments) == expected


@pytest.fixture(scope="module")
def chosen(birds, classifier, tmp_path_factory):
    """A long-tailed training on all but some held-out images, measured by groups on another
    dataset.
    """
    folder = tmp_path_factory.mktemp("chosen")
    other = shutil.copytree(
        birds,
        folder / "other",
        ignore=shutil.ignore_patterns("README.md", "train-*", "validation-*"),
    )
    return ClassifierSettings(
        dataset_name=str(birds),
        model=str(classifier),
        output_dir=str(folder / "classifier"),
        imbalance_factor=0.5,
        validation_share=0.3,
        eval_steps=2,
        eval_dataset_name=str(other),
        eval_split="test",
        group_column="background",
        many_shot=3,
        few_shot=3,
        learning_rate=0.05,
        num_train_epochs=4.0,
        total_batch_size=4,
        checkpointing_steps=2,
        checkpoints_total_limit=9,
    )


@pytest.fixture(scope="module")
def trained(chosen) -> Path:
    train_classifier.main(chosen)
    return Path(chosen.output_dir)


def learned(folder):
    facts = read_json(folder / CLASSIFIER_FACTS)
    return (
        facts,
        (folder / "model.safetensors").read_bytes(),
        (folder / "state" / "log.jsonl").read_text(),
    )


def classes_by(folder, split, rows) -> np.ndarray:
    """What the classifier in a folder says of some images, one by one."""
    classifier = Classifier(resolve(str(folder)), torch.device("cpu"))
    return np.array([int(classifier.predict([split.image(row)])[0]) for row in rows])


@pytest.mark.slow
def test_the_kept_weights_are_those_of_the_best_evaluation(trained):
    """There is a checkpoint of each; their accuracies are in the log."""
    facts = read_json(trained / CLASSIFIER_FACTS)["validation"]
    lines = [
        line
        for line in (trained / "state" / "log.jsonl").read_text().splitlines()
        if "validation_accuracy" in line
    ]
    assert facts["evaluations"] == len(lines) == 6
    assert facts["kept_step"] < 12  # the last ones are others
    kept, best, last = (
        load_file(folder / "model.safetensors")
        for folder in (
            trained,
            *(
                trained / "state" / "checkpoints" / f"checkpoint-{step}"
                for step in (facts["kept_step"], 12)
            ),
        )
    )
    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert not all(torch.equal(kept[name], last[name]) for name in last)


@pytest.mark.slow
def test_all_figures_are_those_of_the_kept_weights(trained, chosen):
    facts = read_json(trained / CLASSIFIER_FACTS)
    split = load_split(chosen, resolve(chosen.dataset_name, "dataset"))
    held = hold_out(split.labels, split.subset, chosen.validation_share, chosen.subset_seed)
    assert facts["validation"]["images"] == len(held) == 5
    assert facts["validation"]["accuracy"] == accuracy_score(
        split.labels[held], classes_by(trained, split, held)
    )

    pin = resolve(chosen.eval_dataset_name, "dataset")
    assert facts["eval_dataset"] == str(pin) != facts["subset"]["dataset"]
    test = load_evaluation_split(chosen, "test", split, pin)
    predicted, metrics = classes_by(trained, test, test.subset), facts["metrics"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(test.labels, predicted))
    assert metrics["mean_class_accuracy"] == pytest.approx(
        balanced_accuracy_score(test.labels, predicted)
    )
    counts = np.bincount(split.labels[np.setdiff1d(split.subset, held)])
    assert counts.tolist() == [4, 3, 2, 2]
    recalls = [np.mean(predicted[test.labels == label] == label) for label in range(4)]
    shots = {"many": recalls[:1], "medium": recalls[1:2], "few": recalls[2:]}
    assert all(
        metrics[f"{name}_shot_accuracy"] == pytest.approx(np.mean(shares))
        for name, shares in shots.items()
    )

    backgrounds = [
        test.rows.features["background"].names[value] for value in test.rows["background"]
    ]
    hits = {}
    for label, background, right in zip(
        test.labels, backgrounds, predicted == test.labels, strict=True
    ):
        hits.setdefault((split.class_names[label], background), []).append(right)
    told = {
        (label, background): (images, share) for label, background, images, share in facts["groups"]
    }
    assert told == {
        group: (len(each), pytest.approx(np.mean(each))) for group, each in hits.items()
    }
    assert metrics["worst_group_accuracy"] == pytest.approx(min(map(np.mean, hits.values())))


def test_the_card_says_which_weights_were_kept_and_shows_the_groups(trained):
    facts, card = read_json(trained / CLASSIFIER_FACTS), ModelCard.load(trained / "README.md").text
    validation = facts["validation"]
    kept = (
        f"of step {validation['kept_step']}, the best of 6 evaluations "
        "on 5 validation images (held out of the data above)"
    )
    assert kept in card and f"accuracy {validation['accuracy']:.4f}" in card
    assert f"| {facts['metrics']['worst_group_accuracy']:.4f} |" in card
    assert all(
        f"| {label} | {background} | {images} | {share:.4f} |" in card
        for label, background, images, share in facts["groups"]
    )


@pytest.mark.slow
def test_a_training_goes_on_from_any_checkpoint_to_the_same_kept_weights(trained, chosen):
    before = learned(trained)
    for first_gone in (12, 6):
        unfinished(trained, CLASSIFIER_FACTS)
        for step in range(first_gone, 13, 2):
            shutil.rmtree(trained / "state" / "checkpoints" / f"checkpoint-{step}")
        train_classifier.main(chosen)
        assert learned(trained) == before


def test_without_validation_images_the_card_says_that_the_last_weights_were_kept(chosen, tmp_path):
    more = {
        "output_dir": str(tmp_path / "classifier"),
        "validation_share": 0.0,
        "eval_steps": None,
        "num_train_epochs": 0.2,
    }
    train_classifier.main(ClassifierSettings(**vars(chosen) | more))
    assert (
        "those of the last step, without validation images"
        in (tmp_path / "classifier" / "README.md").read_text()
    )
    assert "validation" not in read_json(tmp_path / "classifier" / CLASSIFIER_FACTS)


MISTAKES = {
    "resize_size": 8,
    "group_column": "place",
    "validation_share": 0.01,
    "eval_dataset_name": "nowhere/at-all",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_before_the_training(name, chosen, tmp_path):
    given = vars(chosen) | {name: MISTAKES[name], "output_dir": str(tmp_path / "classifier")}
    given = {name: value for name, value in given.items() if value is not None}
    one_line(run(arguments(given), tmp_path / "logs", CLASSIFIER), str(MISTAKES[name]))
    assert not (tmp_path / "classifier" / "state" / "log.jsonl").exists()


SHARES = """
import torch
from sgdmix_hub.training.classifier.accuracy import share_buffers
from sgdmix_hub.runtime.ranks import start_processes

rank = start_processes(1).index
layer = torch.nn.BatchNorm2d(3)
layer.running_mean += rank + 1
layer.num_batches_tracked += 5
share_buffers(layer)
assert torch.equal(layer.running_mean, torch.ones(3)), layer.state_dict()
assert layer.num_batches_tracked == 5, layer.state_dict()
# gloo's threads sometimes abort in Python's shutdown: none may be left by then.
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_every_process_measures_with_the_running_statistics_that_are_saved(tmp_path):
    """Batch normalisation's are each process's own after a training step."""
    (tmp_path / "shares.py").write_text(SHARES)
    done = launch([tmp_path / "shares.py"], 2)
    assert done.returncode == 0, done.stderr
