"""SGDMixPipeline alone and under `Dataset.map`: it gives the rows that a generation gives."""

import io
import shutil

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset
from datasets import Image as ImageFeature
from generations import arguments, published_rows, run_script, undecoded
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sgdmix_hub.errors import UserError
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.runtime import environment

METHOD = {
    "preset": "recommended",
    "saliency_method": "spectral-residual",  # the quickest
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
    return SGDMixPipeline.from_pretrained(str(tiny_base), str(adapter), **METHOD)


@pytest.fixture(scope="module")
def checking(adapter, tiny_base):
    """With the preset's own masks, which check each other and have a confidence."""
    return SGDMixPipeline.from_pretrained(
        str(tiny_base), str(adapter), **METHOD | {"saliency_method": "consensus"}
    )


@pytest.fixture(scope="module")
def generated(few_birds, adapter, tiny_base, tmp_path_factory):
    """What a generation with the settings of `checking` publishes."""
    output = tmp_path_factory.mktemp("generated")
    values = METHOD | {
        "saliency_method": "consensus",
        "allow_other_subset": True,
        "dataset_name": few_birds,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "output_dir": output,
        "image_format": "png",
    }
    strengths = ["--strength", *map(str, values.pop("strength"))]
    ended = run_script([*arguments(values), *strengths], output / "logs")
    assert ended.returncode == 0, ended.stderr
    return published_rows(output)


@pytest.fixture(scope="module")
def dataset(birds):
    return load_dataset(str(birds), split="train")


def test_a_mapped_split_gives_the_rows_of_a_generation(checking, few_birds, generated):
    dataset = load_dataset(str(few_birds), split="train")
    mapped = MappedSplit(checking, dataset, image_format="png")
    rows = dataset.map(mapped, **mapped.options)
    assert rows.features["label"].names == dataset.features["label"].names
    assert undecoded(rows) == generated


def test_a_mapped_split_is_cached_by_its_settings(pipeline, dataset, tiny_base, adapter):
    mapped = MappedSplit(pipeline, dataset)
    assert (
        mapped.options["new_fingerprint"]
        == MappedSplit(pipeline, dataset).options["new_fingerprint"]
    )
    others = [
        MappedSplit(pipeline, dataset, seed=1),
        MappedSplit(SGDMixPipeline.from_pretrained(**MIXING), dataset),
    ]
    assert len({split.options["new_fingerprint"] for split in (mapped, *others)}) == 3


def copied(folder, to, change):
    """A copy of a model's folder with its tensors of one file changed."""
    copy = shutil.copytree(folder, to / folder.name)
    change(copy)
    return copy


def with_other_lora(folder):
    file = folder / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({name: row + 0.5 for name, row in load_file(file).items()}, file, metadata)


def with_other_weights(folder):
    file = next(folder.rglob("model.safetensors"))
    weights = load_file(file)
    save_file(
        {name: row + 0.5 if row.is_floating_point() else row for name, row in weights.items()},
        file,
        metadata={"format": "pt"},
    )


def test_another_adapter_has_a_cache_of_its_own_and_the_same_one_has_the_same(
    adapter, tiny_base, dataset, tmp_path
):
    """Train again, map again: `map` must return images of the new adapter, not cached ones."""

    def mapped_with(folder):
        pipeline = SGDMixPipeline.from_pretrained(
            str(tiny_base), str(folder), **METHOD | {"strength": 1.0}
        )
        split = MappedSplit(pipeline, dataset.select(range(6)))
        rows = split.split.rows.map(split, **split.options)
        return split.options["new_fingerprint"], [
            row["bytes"] for row in rows.cast_column("image", ImageFeature(decode=False))["image"]
        ]

    first, again = mapped_with(adapter), mapped_with(adapter)
    moved = mapped_with(copied(adapter, tmp_path / "same", lambda folder: None))
    other = mapped_with(copied(adapter, tmp_path / "other", with_other_lora))
    assert first == again == moved
    assert other[0] != first[0] and other[1] != first[1]


def test_another_classifier_has_a_cache_of_its_own(classifier, dataset, tmp_path):
    def fingerprint(folder):
        pipeline = SGDMixPipeline.from_pretrained(
            preset="paper", classifier=str(folder), strength=0, resolution=32
        )
        return MappedSplit(pipeline, dataset).options["new_fingerprint"]

    other = copied(classifier, tmp_path, with_other_weights)
    assert fingerprint(classifier) == fingerprint(classifier) != fingerprint(other)


@pytest.mark.slow
def test_another_base_and_another_version_of_the_package_have_caches_of_their_own(
    tiny_base, dataset, class_names, tmp_path, monkeypatch
):
    few = dataset.select(range(6))

    def fingerprint(base):
        pipeline = SGDMixPipeline.from_pretrained(
            pretrained_model_name_or_path=str(base),
            class_names=class_names,
            **METHOD | {"strength": 0.5, "preset": "recommended"},
        )
        return MappedSplit(pipeline, few).options["new_fingerprint"]

    first = fingerprint(tiny_base)
    assert (
        first
        == fingerprint(tiny_base)
        != fingerprint(copied(tiny_base, tmp_path, with_other_weights))
    )
    monkeypatch.setattr(environment, "__version__", "99.0.0")
    assert fingerprint(tiny_base) != first


def test_a_base_without_an_adapter_has_prompts_with_the_names_of_the_classes(
    tiny_base, dataset, class_names
):
    template = "a drawing of a {class_name}"
    pipeline = SGDMixPipeline.from_pretrained(str(tiny_base), prompt_template=template, **METHOD)
    mapped = MappedSplit(pipeline, dataset.select(range(4)))
    rows = mapped.split.rows.map(mapped, **mapped.options)
    words = [" ".join(name.split("_")) for name in class_names]
    assert set(rows["prompt"]) == {f"a drawing of a {words[label]}" for label in rows["label"]}
    with pytest.raises(UserError, match="prompt_template must contain"):
        SGDMixPipeline.from_pretrained(str(tiny_base), prompt_template="a drawing", **METHOD)


def test_models_of_other_classes_do_not_go_together(classifier, class_names):
    with pytest.raises(UserError, match="classes are not the .* of the given class_names"):
        SGDMixPipeline.from_pretrained(
            preset="paper",
            strength=0,
            classifier=str(classifier),
            class_names=class_names[::-1],
        )


def test_a_split_whose_class_numbers_mean_something_else_is_refused(pipeline, classifier, dataset):
    swapped = dataset.cast_column("label", ClassLabel(names=dataset.features["label"].names[::-1]))
    for model in (
        pipeline,
        SGDMixPipeline.from_pretrained(
            preset="paper", strength=0, resolution=32, classifier=str(classifier)
        ),
    ):
        with pytest.raises(UserError, match="other classes"):
            MappedSplit(model, swapped)


def test_models_of_unknown_origin_are_not_cached(pipeline, dataset):
    with pytest.raises(ValueError, match="from_pretrained"):
        MappedSplit(SGDMixPipeline(pipeline.settings, pipeline.refiner), dataset)


def test_a_call_refines_images_with_the_targets_that_it_is_given(checking, few_birds, generated):
    """The same images as a generation's, for its own pairs."""
    dataset = load_dataset(str(few_birds), split="train")
    rows = [row for row in generated if row["strength"] == 0.5][:3]
    output = checking(
        [dataset[row["source_index"]]["image"] for row in rows],
        [dataset[row["target_index"]]["image"] for row in rows],
        [row["label"] for row in rows],
        seeds=[row["seed"] for row in rows],
        strength=0.5,
    )
    assert output.prompts == [row["prompt"] for row in rows]
    assert np.allclose(output.mask_confidences, [row["mask_confidence"] for row in rows])
    for image, row in zip(output.images, rows, strict=True):
        assert np.array_equal(
            np.asarray(image), np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        )


def test_an_image_that_cannot_be_used_is_none_with_a_warning(pipeline, dataset, caplog):
    images = [Image.new("RGB", (40, 40), "grey"), dataset[0]["image"]]
    output = pipeline(images, [dataset[5]["image"]] * 2, [0, 0], seeds=[1, 2], strength=1.0)
    assert caplog.messages[0] == f"image 0: {output.reasons[0]}"
    assert output.reasons[0].startswith("blank saliency map") and output.reasons[1] is None
    for shown in (output.images, output.mixed, output.masks):
        assert shown[0] is None and shown[1].size == (32, 32)


def test_corrupt_rows_are_left_out_of_a_mapped_split_with_a_warning(dataset, caplog):
    cells = dataset.cast_column("image", ImageFeature(decode=False))[:8]
    cells["image"][3]["bytes"] = b"no image"
    broken = dataset.select(range(8)).map(
        lambda rows: cells, batched=True, features=dataset.features
    )
    mapped = MappedSplit(SGDMixPipeline.from_pretrained(**MIXING), broken)
    rows = broken.map(mapped, **mapped.options)
    assert sorted(set(rows["source_index"])) == [0, 1, 2, 4, 5, 6, 7] and len(rows) == 14
    assert any("row 3, variant 1: corrupt image" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ({"strength": 0.5}, "adapter"),
        ({"strength": 0, "saliency_method": "grad-cam"}, "classifier"),
        ({"strength": 1.5}, "strength"),
        ({"strenght": 0.5}, "no such setting: strenght"),
        ({"dtype": "float16", "torch_dtype": "float16"}, "two names"),
        ({"strength": 0.5, "adapter": "typo"}, "typo: no such folder"),
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
    looking = SGDMixPipeline.from_pretrained(
        preset="paper", strength=0, resolution=32, classifier=str(classifier)
    )
    with pytest.raises(ValueError, match="target_labels"):
        looking([image], [image], [0], seeds=[0])
    output = looking(image, dataset[20]["image"], 0, dataset[20]["label"])
    assert output.images[0] is None or output.images[0].size == (32, 32)
    with pytest.raises(ValueError, match="mask-column"):
        SGDMixPipeline.from_pretrained(strength=0, saliency_method="mask-column")(
            [image], [image], [0], seeds=[0]
        )
