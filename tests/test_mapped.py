"""SGDMixPipeline used alone, and mapped over a dataset in hand: the rows are those of a generation."""

import io
import warnings

import numpy as np
import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from generations import arguments, published_rows, run_script
from PIL import Image

from sgdmix_hub.errors import UserError
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline

METHOD = {
    "preset": "recommended",
    "strength": [0.5, 1.0],
    "foreground_strength": 0.25,
    "num_inference_steps": 4,
    "num_variants": 2,
    "guidance_scale": 1.0,
    "batch_size": 4,
    "resolution": 32,
}
MIXING = METHOD | {"strength": 0, "foreground_strength": 0.0}


@pytest.fixture(scope="module")
def pipeline(adapter, tiny_base):
    return SGDMixPipeline.from_pretrained(str(adapter), pretrained_model_name_or_path=str(tiny_base), **METHOD)


@pytest.fixture(scope="module")
def generated(birds, adapter, tiny_base, tmp_path_factory):
    """What a generation with the same settings publishes."""
    output = tmp_path_factory.mktemp("generated")
    values = METHOD | {"dataset_name": birds, "adapter": adapter, "pretrained_model_name_or_path": tiny_base, "output_dir": output}
    strengths = ["--strength", *map(str, values.pop("strength"))]
    ended = run_script([*arguments(values), *strengths], output / "logs")
    assert ended.returncode == 0, ended.stderr
    return published_rows(output)


@pytest.fixture(scope="module")
def dataset(birds):
    return load_dataset(str(birds), split="train")


def test_a_mapped_split_gives_the_rows_of_a_generation(pipeline, dataset, generated):
    mapped = MappedSplit(pipeline, dataset)
    rows = dataset.map(mapped, **mapped.options)
    assert rows.features["label"].names == dataset.features["label"].names
    assert list(rows.cast_column("image", ImageFeature(decode=False))) == generated


def test_a_mapped_split_is_cached_by_its_settings(pipeline, dataset, tiny_base, adapter):
    mapped = MappedSplit(pipeline, dataset)
    assert mapped.options["new_fingerprint"] == MappedSplit(pipeline, dataset).options["new_fingerprint"]
    others = [MappedSplit(pipeline, dataset, seed=1), MappedSplit(SGDMixPipeline.from_pretrained(**MIXING), dataset)]
    assert len({split.options["new_fingerprint"] for split in (mapped, *others)}) == 3


def test_a_call_refines_images_with_the_targets_that_it_is_given(pipeline, dataset, generated):
    """The same images as a generation's, for its own pairs."""
    rows = [row for row in generated if row["strength"] == 0.5][:6]
    refined = pipeline(
        [dataset[row["source_index"]]["image"] for row in rows],
        [dataset[row["target_index"]]["image"] for row in rows],
        [row["label"] for row in rows],
        seeds=[row["seed"] for row in rows],
        strength=0.5,
    )
    for image, row in zip(refined, rows, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))))


def test_an_image_that_cannot_be_used_is_none_with_a_warning(pipeline, dataset):
    images = [Image.new("RGB", (40, 40), "grey"), dataset[0]["image"]]
    with pytest.warns(UserWarning, match="image 0: empty mask"):
        outcome = pipeline(images, [dataset[5]["image"]] * 2, [0, 0], seeds=[1, 2], strength=1.0)
    assert outcome[0] is None and outcome[1].size == (32, 32)


def test_corrupt_rows_are_left_out_of_a_mapped_split_with_a_warning(dataset):
    cells = dataset.cast_column("image", ImageFeature(decode=False))[:8]
    cells["image"][3]["bytes"] = b"no image"
    broken = dataset.select(range(8)).map(lambda rows: cells, batched=True, features=dataset.features)
    mapped = MappedSplit(SGDMixPipeline.from_pretrained(**MIXING), broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = broken.map(mapped, **mapped.options)
    assert sorted(set(rows["source_index"])) == [0, 1, 2, 4, 5, 6, 7] and len(rows) == 14
    assert any("row 3, variant 1: corrupt image" in str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ({"strength": 0.5}, "adapter"),
        ({"strength": 0, "saliency_method": "grad-cam"}, "classifier"),
        ({"strength": 1.5}, "strength"),
        ({"strength": 0, "preset": "paper"}, "grad-cam needs a classifier"),
    ],
)
def test_a_pipeline_that_lacks_something_says_what(method, named):
    with pytest.raises(UserError, match=named):
        SGDMixPipeline.from_pretrained(**({"preset": "recommended"} | method))


def test_a_call_with_something_missing_says_what(pipeline, dataset, classifier):
    image = dataset[0]["image"]
    with pytest.raises(ValueError, match="choose a strength"):
        pipeline([image], [image], [0], seeds=[0])
    looking = SGDMixPipeline.from_pretrained(strength=0, resolution=32, classifier=str(classifier))
    with pytest.raises(ValueError, match="target_labels"):
        looking([image], [image], [0], seeds=[0])
    (mixed,) = looking([image], [dataset[20]["image"]], [0], seeds=[0], target_labels=[dataset[20]["label"]])
    assert mixed is None or mixed.size == (32, 32)
    with pytest.raises(ValueError, match="mask-column"):
        SGDMixPipeline.from_pretrained(strength=0, saliency_method="mask-column")([image], [image], [0], seeds=[0])
