"""One classifier, one transform: whoever asks a trained classifier gets the answer that its
training measured.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf
from generations import arguments, one_line
from tiny_classifiers import save_tiny
from trainings import CLASSIFIER, run

from sgdmix_hub import train_classifier
from sgdmix_hub.data.splits import load_evaluation_split, load_split
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.sources import judge_on_real
from sgdmix_hub.files import read_json
from sgdmix_hub.generation.saliency_maps import doubts_of_size
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.cam import CamSaliency
from sgdmix_hub.models.classifier import Classifier, Judge
from sgdmix_hub.models.preprocessing import measured_preprocessing, recorded_preprocessing
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.training import ClassifierSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def oblong_birds(tmp_path_factory):
    """The species of `birds` in images that are no squares: 24 to train on, 64 to test."""
    folder = tmp_path_factory.mktemp("data") / "oblong"
    splits = make_dataset(4, 6, 1, 16, seed=3, resolution=48)
    for name, rows in splits.items():
        splits[name] = rows.map(
            lambda row, place: {"image": row["image"].resize([(70, 44), (40, 62)][place % 2])},
            with_indices=True,
        )
    save_dataset(splits, folder)
    return folder


@pytest.fixture(scope="module")
def settings_at(oblong_birds, classifier):
    def made(output, **more):
        settings = {
            "dataset_name": str(oblong_birds),
            "model": str(classifier),
            "output_dir": str(output),
            "eval_split": "test",
        }
        settings |= {
            "num_train_epochs": 1.0,
            "total_batch_size": 8,
            "image_size": 32,
            "learning_rate": 0.05,
        }
        return settings | more

    return made


def train(settings):
    train_classifier.main(ClassifierSettings(**settings))
    return Path(settings["output_dir"])


def facts_of(folder):
    return read_json(folder / CLASSIFIER_FACTS)


def splits_of(dataset):
    settings = DataSettings(dataset_name=str(dataset), output_dir="unused")
    split = load_split(settings, resolve(str(dataset), "dataset"))
    return split, load_evaluation_split(settings, "test", split)


# ---- the same answer ----


@pytest.fixture(scope="module", params=[None, 40], ids=["whole", "cropped"])
def trained(request, settings_at, tmp_path_factory):
    """A classifier that learned enough to be right now and then, on stretched images or on crops of
    them.
    """
    folder = tmp_path_factory.mktemp("trained") / "classifier"
    return train(
        settings_at(folder, resize_size=request.param, num_train_epochs=20.0, learning_rate=0.1)
    )


@pytest.mark.slow
def test_accuracy_is_the_same_to_the_last_image_whoever_measures_it(trained, oblong_birds):
    split, test = splits_of(oblong_birds)
    labels, images = test.labels, [test.image(row) for row in test.subset]
    accuracy = facts_of(trained)["metrics"]["accuracy"]
    assert 0.3 < accuracy < 1
    pin = resolve(str(trained))
    judge = Judge(pin, split.class_names, CPU)
    cam = CamSaliency(Classifier(pin, CPU), "grad-cam")
    # This leaves no state behind in the network.
    cam.image_maps(images[:3], labels[:3].tolist(), "stretch")
    evaluation = EvaluationSettings(
        synthetic="unused", judge=str(trained), output_dir="unused", eval_split="test"
    )
    recipe = AugmentSettings(dataset_name=str(oblong_birds), output_dir="unused", resolution=32)
    of_real, by_label = judge_on_real(evaluation, recipe, split, judge)
    found = {
        "training": accuracy,
        "judge": float(np.mean(judge.predict(images) == labels)),
        "one by one": float(
            np.mean(
                [
                    judge.predict([image])[0] == label
                    for image, label in zip(images, labels, strict=True)
                ]
            )
        ),
        "cam": float(np.mean(cam.classifier.predict(images) == labels)),
        "evaluation": of_real.accuracy,
        "its labels": sum(right for right, _ in by_label.values()) / len(labels),
    }
    assert set(found.values()) == {accuracy}, found
    assert of_real.images == len(labels) == 64


@pytest.mark.slow
def test_a_cam_sees_the_pixels_that_were_trained_on_and_what_was_cropped_around_them(
    trained, oblong_birds
):
    _, test = splits_of(oblong_birds)
    classifier = Classifier(resolve(str(trained)), CPU)
    recorded = recorded_preprocessing(facts_of(trained)["preprocessing"], "it")
    assert classifier.preprocessing == recorded
    assert classifier.size == 32
    assert recorded.interpolation == "bilinear"
    scale = classifier.whole_size
    assert scale == recorded.resize_size == (facts_of(trained)["settings"]["resize_size"] or 32)
    cam = CamSaliency(classifier, "grad-cam", input_size=scale)
    before = (scale - 32) // 2
    for row in test.subset[:8]:
        whole = cam.pixel_values(test.image(row), "stretch")
        assert torch.equal(
            whole[:, before : before + 32, before : before + 32],
            classifier.transform(test.image(row)),
        )


@pytest.mark.slow
def test_maps_far_above_the_trained_size_are_doubted(trained):
    classifier = Classifier(resolve(str(trained)), CPU)
    scale = classifier.whole_size
    for size, doubts in ((int(1.5 * scale), 0), (2 * scale, 1)):
        found = [
            doubt
            for doubt in doubts_of_size(CamSaliency(classifier, "grad-cam", input_size=size))
            if "was trained at" in doubt
        ]
        assert len(found) == doubts
        assert all(f"{scale}" in doubt and "saliency_input_size" in doubt for doubt in found)


# ---- for everybody else ----

BASES = {
    "resnet": {"image_size": 48, "resize_size": 64},
    "vit without normalisation": {"resize_size": 72},
    "convnext": {},
    "efficientnet": {},
    "mobilevit": {"resize_size": 80},
    "timm resnet": {"image_size": 48, "resize_size": 60},
    "timm vit": {},
    "swinv2": {},
}


@pytest.fixture(scope="module", params=BASES)
def tuned(request, settings_at, tmp_path_factory):
    """Classifiers of eight architectures, for two updates trained on from weights of elsewhere."""
    folder = tmp_path_factory.mktemp("tuned")
    base = save_tiny(request.param, folder / "base")
    chosen = {"model": str(base), "image_size": None, "learning_rate": 1e-3} | BASES[request.param]
    return train(settings_at(folder / "classifier", **chosen))


@pytest.mark.slow
def test_the_saved_image_processor_says_what_training_did(tuned):
    recorded = recorded_preprocessing(facts_of(tuned)["preprocessing"], "it")
    assert measured_preprocessing(hf.AutoImageProcessor.from_pretrained(tuned)) == recorded


@pytest.mark.slow
def test_the_stock_pipeline_gives_the_answers_of_the_classifier(tuned, oblong_birds):
    """To the bit of the input where nothing has to be resized, else to the rounding of a resize."""
    split, test = splits_of(oblong_birds)
    classifier = Classifier(resolve(str(tuned)), CPU)
    assert classifier.class_names == split.class_names
    images = [test.image(row) for row in test.subset[:12]]
    fitting = [image.resize((classifier.preprocessing.resize_size,) * 2) for image in images]
    processor = hf.AutoImageProcessor.from_pretrained(tuned)
    for image in fitting:
        stock = processor(images=image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(classifier.transform(image), stock, atol=2e-6, rtol=1e-5)
    pipeline = hf.pipeline("image-classification", model=str(tuned), top_k=None)
    for shown, tolerance in ((fitting, 1e-4), (images, 0.05)):
        scores = [
            {found["label"]: found["score"] for found in answer} for answer in pipeline(shown)
        ]
        stock = np.array([[of[name] for name in split.class_names] for of in scores])
        np.testing.assert_allclose(classifier.probabilities(shown), stock, atol=tolerance)
        sure = np.sort(stock, axis=1)[:, -1] - np.sort(stock, axis=1)[:, -2] > 2 * tolerance
        assert np.array_equal(classifier.predict(shown)[sure], stock.argmax(1)[sure])


# ---- told before the training, and what is measured after it ----


def changed(dataset, folder, split, column, value):
    """The dataset, with one value in a column of a split."""
    (path,) = (shutil.copytree(dataset, folder) / "data").glob(f"{split}-*")
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(
        table.set_column(
            place,
            table.schema.field(place),
            pa.array([value] * len(table), table.schema.field(place).type),
        ),
        path,
    )
    return folder


WITHHELD = ("label", -1, "has no labelled row")
CORRUPT = ("image", {"bytes": b"version https://git-lfs", "path": None}, "can be decoded")


@pytest.mark.parametrize(
    ("column", "value", "told"), [WITHHELD, CORRUPT], ids=["unlabelled", "corrupt"]
)
@pytest.mark.parametrize("setting", ["eval_split", "validation_split", "dataset_split"])
def test_a_split_of_which_nothing_can_be_used_is_told_before_the_first_step(
    setting, column, value, told, oblong_birds, settings_at, tmp_path
):
    split = "train" if setting == "dataset_split" else "validation"
    dataset = changed(oblong_birds, tmp_path / f"{setting}-{column}", split, column, value)
    with pytest.raises(UserError, match=told) as error:
        train(settings_at(tmp_path / "classifier", dataset_name=str(dataset), **{setting: split}))
    assert split in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("checkpoint*/*")) and not list(tmp_path.rglob("log.jsonl"))


def measured(folder):
    facts = facts_of(folder)
    return {name: facts.get(name) for name in ("metrics", "groups", "settings", "eval_dataset")}


@pytest.mark.slow
def test_a_finished_classifier_is_measured_on_another_split_without_training(
    settings_at, oblong_birds, tmp_path
):
    """Weights are the same whatever is measured: the figures are those of a training that had been
    asked for them at once.
    """
    folder = train(settings_at(tmp_path / "classifier", eval_split=None))
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    assert "metrics" not in facts_of(folder)
    groups = {"eval_split": "test", "group_column": "background"}
    at_once = train(settings_at(tmp_path / "at_once", **groups))
    for more in (
        groups,
        {"eval_split": "validation"},
        {"eval_split": "test", "many_shot": 5, "few_shot": 2},
        groups,
    ):
        assert train(settings_at(folder, **more)) == folder
        facts = facts_of(folder)
        assert {name: facts["settings"][name] for name in more} == more
        assert ("groups" in facts) == ("group_column" in more)
        assert f"{facts['metrics']['accuracy']:.4f}" in (folder / "README.md").read_text()
    assert measured(folder) == measured(at_once)
    assert facts_of(folder).keys() == facts_of(at_once).keys()
    before = (folder / CLASSIFIER_FACTS).stat().st_mtime_ns
    train(settings_at(folder, eval_split=None))  # asks for nothing that is not there
    train(settings_at(folder, **groups))
    assert (folder / CLASSIFIER_FACTS).stat().st_mtime_ns == before
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.slow
def test_what_is_measured_bars_nobody_from_going_on(settings_at, tmp_path):
    folder = train(
        settings_at(tmp_path / "classifier", checkpointing_steps=1, num_train_epochs=2.0)
    )
    (folder / CLASSIFIER_FACTS).unlink()
    shutil.rmtree(folder / "state" / "checkpoints" / "checkpoint-6")
    train(
        settings_at(
            folder,
            checkpointing_steps=1,
            num_train_epochs=2.0,
            eval_split="validation",
            many_shot=50,
        )
    )
    fresh = train(
        settings_at(tmp_path / "fresh", num_train_epochs=2.0, eval_split="validation", many_shot=50)
    )
    assert facts_of(folder)["metrics"] == facts_of(fresh)["metrics"]
    assert (folder / "model.safetensors").read_bytes() == (fresh / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="learning_rate"):
        train(settings_at(folder, num_train_epochs=2.0, learning_rate=0.01))


@pytest.mark.slow
@pytest.mark.parametrize(
    "processor",
    [hf.Siglip2ImageProcessor(), hf.DetrImageProcessor()],
    ids=["patches", "several sizes"],
)
def test_a_base_whose_images_cannot_be_made_is_told_before_the_training(
    processor, classifier, settings_at, tmp_path
):
    base = shutil.copytree(classifier, tmp_path / "base")
    processor.save_pretrained(base)
    refused = run(
        arguments(settings_at(tmp_path / "classifier", model=base)), tmp_path / "logs", CLASSIFIER
    )
    one_line(refused, type(processor).__name__)
