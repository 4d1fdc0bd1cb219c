"""The judge of an adapter: what it counts, whom it takes, and that its say depends on nothing but
what is judged.
"""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from generations import arguments, one_line
from hypothesis import given
from hypothesis import strategies as st
from launching import launch
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_matrix
from trainings import ADAPTER, adapter_settings, run, train
from transformers import AutoImageProcessor, AutoModelForImageClassification

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.adapter import class_scores, fidelity_line, mixed_sources
from sgdmix_hub.evaluation.confusion import confusion_matrix
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.bases.schedulers import with_scheduler
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.models.sampling import draw_images
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.adapter_training import AdapterSettings

ARMS = {"mixed", "noise, base", "mixed, base", "noise, adapter", "mixed, adapter"}


def test_what_the_judge_saw_is_said_in_one_sentence():
    shares = {"mixed": 0.75, "noise, base": 0.125, "mixed, base": 0.5, "noise, adapter": 0.25}
    arms = {arm: {"accuracy": share} for arm, share in (shares | {"mixed, adapter": 0.625}).items()}
    assert fidelity_line(arms, 0.7) == (
        "adapter: the judge recognises the class in 0.250 of the images drawn from noise (base "
        "alone: 0.125), and in 0.625 of the mixed images refined at S = 0.7 (base alone: 0.500; "
        "before refinement: 0.750)"
    )


def facts_of(folder):
    return json.loads((folder / FACTS_FILE).read_text())


@pytest.fixture(scope="module")
def settings_at(few_birds, tiny_base, classifier):
    """Settings of an adapter that is judged at an output folder."""

    def made(output, **more):
        judging = {
            "judge": str(classifier),
            "num_judged_images": 2,
            "judged_strength": 0.5,
            "num_train_samples": 4,
            "total_batch_size": 2,
        }
        return adapter_settings(few_birds, tiny_base, output, **(judging | more))

    return made


@pytest.fixture(scope="module")
def judged(settings_at, tmp_path_factory):
    """The folder of an adapter that was trained and judged."""
    return train(settings_at(tmp_path_factory.mktemp("judged") / "adapter"))


@pytest.fixture
def copied(judged, tmp_path):
    return shutil.copytree(judged, tmp_path / "adapter")


# ---- what is counted ----

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(pairs=pairs)
def test_scores_are_counts_with_wilsons_interval(pairs):
    labels, predicted = (list(column) for column in zip(*pairs, strict=True))
    scores = class_scores(predicted, labels)
    count = len(pairs)
    right = sum(label == guess for label, guess in pairs)
    share, z = right / count, 1.959963984540054
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        / (1 + z * z / count)
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    )
    assert scores["images"] == count and scores["accuracy"] == round(share, 4)
    assert scores["interval"] == pytest.approx([middle - half, middle + half], abs=1e-4)
    assert 0 <= scores["interval"][0] <= share <= scores["interval"][1] <= 1
    confused = {}
    for label, guess in pairs:
        if label != guess:
            confused[label, guess] = confused.get((label, guess), 0) + 1
    assert {(label, guess): times for label, guess, times in scores["confused"]} == confused
    assert right + sum(times for _, _, times in scores["confused"]) == count
    assert scores["by_class"] == [
        [label, pairs.count((label, label)), labels.count(label)] for label in sorted(set(labels))
    ]
    matrix = confusion_matrix(scores, 5)
    assert np.allclose(matrix, sklearn_matrix(labels, predicted, labels=range(5), normalize="true"))


# ---- who judges ----


def test_the_judge_sees_images_as_transformers_shows_them(classifier, class_names):
    """Through the classifier's own image processor, alone or among others."""
    judge = Judge(resolve(str(classifier)), class_names, torch.device("cpu"))
    images = (
        np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
        // np.arange(1, 41, dtype=np.uint8)[:, None, None, None]
    )
    predicted = judge.predict(images)
    processor = AutoImageProcessor.from_pretrained(classifier)
    model = AutoModelForImageClassification.from_pretrained(classifier)
    with torch.no_grad():
        inputs = processor([Image.fromarray(image) for image in images], return_tensors="pt")
        expected = model(**inputs).logits.argmax(-1).numpy()
    assert np.array_equal(predicted, expected)
    assert np.array_equal(
        np.concatenate([judge.predict(images[:7]), judge.predict(images[7:])]), predicted
    )
    assert len(judge.predict(images[:0])) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda names: names[::-1],
        lambda names: [*names[:-1], "other bird"],
        lambda names: [*names, "fifth bird"],
        lambda names: names[:2],
    ],
    ids=["other order", "other name", "one more", "fewer"],
)
def test_a_judge_of_other_classes_is_refused(change, classifier, class_names):
    """It would be asked about classes it does not know, and the share of right answers would be
    wrong without a word.
    """
    with pytest.raises(UserError, match="the judge classifier has other classes than the dataset"):
        Judge(resolve(str(classifier)), change(class_names), torch.device("cpu"))


def test_a_folder_that_is_no_classifier_is_refused(tiny_base, class_names):
    with pytest.raises(UserError, match="cannot load the judge"):
        Judge(resolve(str(tiny_base)), class_names, torch.device("cpu"))


@pytest.mark.slow
def test_a_judge_that_cannot_judge_is_refused_before_anything_is_trained(
    settings_at, classifier, tmp_path
):
    other = shutil.copytree(classifier, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    names = dict(enumerate(reversed(list(config["id2label"].values()))))
    (other / "config.json").write_text(
        json.dumps(
            config | {"id2label": names, "label2id": {name: label for label, name in names.items()}}
        )
    )
    refused = run(
        arguments(settings_at(tmp_path / "adapter", judge=other)), tmp_path / "logs", ADAPTER
    )
    one_line(refused, "other classes")
    assert not (tmp_path / "adapter" / FACTS_FILE).exists()
    assert not (tmp_path / "adapter" / "state" / "log.jsonl").exists()


# ---- what is judged ----


@pytest.fixture(scope="module")
def chosen(settings_at):
    start_processes(1)
    return AdapterSettings(**settings_at("unused"))


@pytest.mark.slow
def test_every_class_is_judged_on_as_many_of_its_mixed_images(chosen, tmp_path):
    split = load_split(chosen, resolve(chosen.dataset_name, "dataset"))
    sources = mixed_sources(chosen, split, tmp_path, 1)
    assert sources.images.shape == (4, 32, 32, 3) and sources.images.dtype == np.uint8
    assert sources.labels == sorted(sources.labels)
    assert {sources.labels.count(label) for label in range(4)} == {1}
    assert len(set(sources.seeds)) == 4
    assert len({image.tobytes() for image in sources.images}) == 4
    again = mixed_sources(chosen, split, tmp_path, 1)
    assert np.array_equal(again.images, sources.images)
    assert (again.labels, again.seeds) == (sources.labels, sources.seeds)
    more = mixed_sources(chosen, split, tmp_path, 100)
    assert len(more.labels) == 8
    other = mixed_sources(dataclasses.replace(chosen, seed=1), split, tmp_path, 1)
    assert not np.array_equal(other.images, sources.images)


@pytest.mark.slow
def test_a_drawn_image_depends_on_its_prompt_seed_and_source_alone(tiny_base):
    """Not on what else is drawn, so that processes may share the drawing; and it is what stock
    diffusers draws.
    """
    base = load_base(resolve(str(tiny_base)), torch.float32, "text_to_image")
    pipeline = with_scheduler(base.pipeline, "dpmsolver++")
    options = {"resolution": 32, "num_inference_steps": 3, "guidance_scale": 2.0, "batch_size": 2}
    prompts, seeds = (
        [f"a {color} bird" for color in ("red", "white", "blue", "yellow", "black")],
        [9, 8, 7, 6, 5],
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for source in ({}, {"images": images, "strength": 0.7}):
        whole = draw_images(base, prompts, seeds, **options, **source)
        assert whole.shape == images.shape and whole.dtype == np.uint8
        for rows in ([4, 1, 3], [2]):
            part = {"images": images[rows], "strength": 0.7} if source else {}
            drawn = draw_images(
                base,
                [prompts[row] for row in rows],
                [seeds[row] for row in rows],
                **options,
                **part,
            )
            assert np.array_equal(drawn, whole[rows])
    assert draw_images(base, [], [], **options).shape == (0, 32, 32, 3)
    stock = pipeline(
        prompts[:2],
        generator=[torch.Generator().manual_seed(seed) for seed in seeds[:2]],
        num_inference_steps=3,
        guidance_scale=2.0,
        height=32,
        width=32,
    ).images
    assert np.array_equal(
        draw_images(base, prompts[:2], seeds[:2], **options),
        np.stack([np.asarray(image) for image in stock]),
    )


# ---- what is left ----


@pytest.mark.slow
def test_what_the_judge_says_is_in_adapter_json_and_on_the_card(judged, classifier):
    fidelity = facts_of(judged)["fidelity"]
    assert fidelity["judge"] == str(resolve(str(classifier))) and fidelity["judge_accuracy"] is None
    assert (fidelity["per_class"], fidelity["strength"]) == (2, 0.5)
    assert fidelity["arms"].keys() == ARMS
    assert {scores["images"] for scores in fidelity["arms"].values()} == {8}
    card = (judged / "README.md").read_text()
    for name, scores in fidelity["arms"].items():
        low, high = scores["interval"]
        assert f"{scores['accuracy']:.3f} [{low:.3f}, {high:.3f}] of 8" in card, name
    assert "mixed images refined at S = 0.5" in card
    assert fidelity["judge"] in card
    assert "Not measured" not in card
    assert card.count("shown as") == min(5, len(fidelity["arms"]["noise, adapter"]["confused"]))
    assert str(classifier.parent) not in card + (judged / FACTS_FILE).read_text()


@pytest.mark.slow
def test_judged_again_by_the_same_judge_nothing_is_done(copied, settings_at):
    before = (
        (copied / FACTS_FILE).stat().st_mtime_ns,
        (copied / FACTS_FILE).read_bytes(),
        (copied / "README.md").read_bytes(),
    )
    train(settings_at(copied))
    assert (
        (copied / FACTS_FILE).stat().st_mtime_ns,
        (copied / FACTS_FILE).read_bytes(),
        (copied / "README.md").read_bytes(),
    ) == before
    train(settings_at(copied, judge=None))
    assert (copied / FACTS_FILE).read_bytes() == before[1]
    assert (copied / "README.md").read_bytes() == before[2]


@pytest.mark.slow
def test_another_judge_judges_again_and_its_own_accuracy_is_told(
    copied, classifier, settings_at, tmp_path
):
    before = facts_of(copied)
    other = shutil.copytree(classifier, tmp_path / "other")
    (other / "classifier.json").write_text(json.dumps({"metrics": {"accuracy": 0.875}}))
    train(settings_at(copied, judge=str(other), num_judged_images=1))
    after = facts_of(copied)
    assert after["fidelity"]["judge"] == str(resolve(str(other))) != before["fidelity"]["judge"]
    assert after["fidelity"]["judge_accuracy"] == 0.875
    assert after["fidelity"]["arms"]["mixed"]["images"] == 4
    assert {name: value for name, value in after.items() if name != "fidelity"} == {
        name: value for name, value in before.items() if name != "fidelity"
    }
    assert "accuracy 0.875 on real test images" in (copied / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_judge_as_one(copied, judged, settings_at):
    """Each draws its share, at the batch size of one: the same images, hence the same counts."""
    facts = facts_of(copied)
    said = facts.pop("fidelity")
    (copied / FACTS_FILE).write_text(json.dumps(facts))
    shutil.rmtree(copied / "state" / "judged")
    done = launch([ADAPTER, *arguments(settings_at(copied))], 2)
    assert done.returncode == 0, done.stderr
    assert facts_of(copied)["fidelity"] == said
    assert done.stdout.count("nothing to train") == 1
    assert done.stdout.count("the judge recognises the class") == 1
    assert (copied / "README.md").read_bytes() == (judged / "README.md").read_bytes()
