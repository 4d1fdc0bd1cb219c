"""Every recipe driven through its stages without training, on data in its source's columns."""

import dataclasses
import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from pictures import disc_on_texture
from PIL import Image
from recipes import RECIPES, run_settings, stages_of
from transformers import CLIPTokenizer

from sgdmix_hub.data.splits import Split, load_evaluation_split, load_split
from sgdmix_hub.data.subsets import NO_LABEL, subset_indices
from sgdmix_hub.files import write_json
from sgdmix_hub.generation.inputs import Inputs, resolve_inputs
from sgdmix_hub.generation.plan import PlanRow, make_plan
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import read_adapter, save_adapter
from sgdmix_hub.models.classifier import build_for_training, save_classifier
from sgdmix_hub.models.prompts import prompt_ids
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.train_adapter import adapter_facts
from sgdmix_hub.train_classifier import classifier_facts, load_evaluation
from sgdmix_hub.training.adapter.model import load_adapted

ROOT = Path(__file__).parents[2]
DATA = {field.name for field in dataclasses.fields(DataSettings)} - {
    "seed",
    "output_dir",
    "num_threads",
}
TINY_RESNET = "sgdmix_hub/demo/tiny_resnet"
TINY = {"resolution": 32, "saliency_input_size": 128}  # the tiny ResNet's maps then have 8x8 cells
MODES = ("RGB", "L", "RGBA", "P", "CMYK")
PER_CLASS = 2
SIZES = ((97, 61), (45, 80), (160, 40), (24, 31))


@dataclass(frozen=True)
class Schema:
    """A dataset as its page on the Hub shows it: some of its class names, its splits, and its other
    columns.
    """

    names: list[str]
    splits: tuple[str, ...] = ("train", "test")
    more: dict = field(default_factory=dict)  # column -> feature


PLACES = {
    "place": ClassLabel(names=["land", "water"]),
    "bird": ClassLabel(names=["Black_footed_Albatross", "Laysan_Albatross"]),
}
AIRCRAFT = Schema(
    ["707-320", "747-100", "F/A-18", "F-16A/B", "Global Express"],
    splits=("train",),
    more={
        "family": ClassLabel(names=["Boeing 707", "F/A-18"]),
        "manufacturer": ClassLabel(names=["Boeing", "McDonnell Douglas"]),
        "clip_tags_LAION_ViT_H_14": List(Value("string")),
        "blip_caption": Value("string"),
        "id": Value("int64"),
    },
)
SCHEMAS = {
    "bentrevett/caltech-ucsd-birds-200-2011": Schema(
        [
            "001.Black_footed_Albatross",
            "022.Chuck_will_Widow",
            "067.Anna_Hummingbird",
            "100.Brown_Pelican",
            "200.Common_Yellowthroat",
        ],
        more={"bbox": List(Value("float64"))},
    ),
    "tanganke/stanford_cars": Schema(
        [
            "AM General Hummer SUV 2000",
            "Mercedes-Benz C-Class Sedan 2012",
            "Ram C/V Cargo Van Minivan 2012",
            "smart fortwo Convertible 2012",
        ],
        splits=("train", "test", "contrast", "gaussian_noise"),
    ),
    "dpdl-benchmark/oxford_flowers102": Schema(
        ["pink primrose", "colt's foot", "pink-yellow dahlia?", "cyclamen ", "black-eyed susan"],
        splits=("train", "validation", "test"),
        more={"file_name": Value("string")},
    ),
    "Donghyun99/Stanford-Dogs": Schema(
        ["Japanese_spaniel", "n02085620-Chihuahua", "Shih-Tzu", "wire-haired_fox_terrier", "dhole"]
    ),
    "Multimodal-Fatima/FGVC_Aircraft_train": AIRCRAFT,
    "Multimodal-Fatima/FGVC_Aircraft_test": dataclasses.replace(
        AIRCRAFT, splits=("test",), more={"other_caption": Value("string")}
    ),
    "grodino/waterbirds": Schema(
        ["landbird", "waterbird"], splits=("train", "validation", "test"), more=PLACES
    ),
}
# For a new recipe.
ANY = Schema(
    ["1", "2", "10", "Two words", "two words", "<class_0>"], splits=("train", "validation", "test")
)


def encoded(number: int) -> dict:
    """A disc on a texture, in an odd size and mode."""
    pixels, _, _ = disc_on_texture(number, size=64)
    mode, size = MODES[number % len(MODES)], SIZES[number % len(SIZES)]
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(
        buffer, "JPEG" if mode == "CMYK" else "PNG"
    )
    return {"bytes": buffer.getvalue(), "path": None}


def value_of(feature, number: int):
    """Something that a column of this feature may hold."""
    if isinstance(feature, ClassLabel):
        return number % len(feature.names)
    if isinstance(feature, List):
        return [value_of(feature.feature, number)] * (number % 5)
    return f"text {number}" if feature.dtype == "string" else number


def write_split(
    folder: Path,
    schema: Schema,
    split: str,
    per_class: int,
    image_column: str = "image",
    label_column: str = "label",
) -> None:
    """A parquet file as the Hub's own push writes it, the classes mixed."""
    labels = list(range(len(schema.names))) * per_class
    columns = {
        name: [value_of(feature, number) for number in range(len(labels))]
        for name, feature in schema.more.items()
    }
    columns |= {
        image_column: [encoded(number) for number in range(len(labels))],
        label_column: labels,
    }
    features = Features(
        schema.more | {image_column: ImageFeature(), label_column: ClassLabel(names=schema.names)}
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(
        folder / "data" / f"{split}-00000-of-00001.parquet"
    )


@dataclass
class Driven:
    """A recipe on its tiny dataset: the settings of its stages, what they read, and the plan."""

    schema: Schema
    classifier: ClassifierSettings
    adapter: AdapterSettings
    generation: AugmentSettings
    downstream: ClassifierSettings
    inputs: Inputs
    labels: list[int]
    ids: torch.Tensor
    tokenizer: CLIPTokenizer
    plan: list[PlanRow]


@pytest.fixture(scope="module", params=RECIPES)
def driven(request, tiny_base, tmp_path_factory) -> Driven:
    recipe, folder = request.param, tmp_path_factory.mktemp(request.param)
    named = run_settings(recipe).dataset_name
    schema = SCHEMAS.get(named, ANY)
    first, *_ = stages_of(run_settings(recipe))
    for split in schema.splits:
        write_split(
            folder / "source",
            schema,
            split,
            PER_CLASS if split == first.dataset_split else 1,
            first.image_column,
            first.label_column,
        )
    given = {}
    if first.eval_dataset_name:
        schema_there = SCHEMAS[first.eval_dataset_name]
        write_split(
            folder / "evaluation",
            schema_there,
            first.eval_split,
            1,
            first.image_column,
            first.label_column,
        )
        given["eval_dataset_name"] = folder / "evaluation"
    given |= {
        "dataset_name": folder / "source",
        "output_dir": folder / "run",
        "model": TINY_RESNET,
        "pretrained_model_name_or_path": tiny_base,
        "resolution": TINY["resolution"],
    }
    classifier, adapter, generation, downstream = stages_of(
        run_settings(recipe, *(f"--{name}={value}" for name, value in given.items()))
    )
    tiny = {"saliency_input_size": TINY["saliency_input_size"]}
    if generation.segmenter is None:
        tiny["min_mask_confidence"] = 0.0  # at this size hardly any mask is trusted
    generation = apply_preset(dataclasses.replace(generation, **tiny))
    state = start_processes(1)

    split = load_split(adapter, resolve(adapter.dataset_name, "dataset"))
    write_classifier(classifier, split)
    tokenizer, ids = write_adapter(adapter, split)
    inputs = resolve_inputs(generation, folder / "run" / "state")
    maps = compute_maps(
        generation, inputs.split, inputs.classifier, 0, 1, state.device, inputs.segmenter
    )
    plan = list(make_plan(generation, inputs.split, maps))
    labels = list(range(len(schema.names))) * PER_CLASS
    return Driven(
        schema, classifier, adapter, generation, downstream, inputs, labels, ids, tokenizer, plan
    )


def write_classifier(settings: ClassifierSettings, split: Split) -> None:
    """What a training of the classifier leaves, without the training."""
    torch.manual_seed(0)
    pin = resolve(settings.model)
    network, preprocessing = build_for_training(
        pin, split.class_names, TINY["saliency_input_size"], None, from_scratch=True
    )
    # With positive weights, Grad-CAM of an untrained network is not blank in any image.
    with torch.no_grad():
        network.classifier[-1].weight.abs_()
    save_classifier(network, preprocessing, Path(settings.output_dir))
    facts = classifier_facts(settings, split, pin, None) | {"preprocessing": preprocessing.record()}
    write_json(Path(settings.output_dir) / CLASSIFIER_FACTS, facts)


def write_adapter(settings: AdapterSettings, split: Split) -> tuple[CLIPTokenizer, torch.Tensor]:
    """What a training of the adapter leaves, without the training; and the tokenizer with the ids
    of the prompts it would train on.
    """
    base = resolve(settings.pretrained_model_name_or_path)
    loaded, model = load_adapted(base, settings, len(split.class_names))
    (encoder,) = loaded.family.encoders
    tokenizer = loaded.tokenizer(encoder)
    ids = prompt_ids(
        encoder,
        tokenizer,
        len(split.class_names),
        settings.num_vectors,
        settings.metaclass,
        settings.prompt_template,
    )
    facts = adapter_facts(settings, split, base)
    save_adapter(
        Path(settings.output_dir),
        model.family,
        model.denoiser,
        dict(model.learned()),
        settings.num_vectors,
        facts,
    )
    return tokenizer, ids


@pytest.mark.slow
def test_all_stages_read_the_same_data(driven):
    settings = [driven.classifier, driven.adapter, driven.generation, driven.downstream]
    for name in DATA:
        assert len({str(getattr(each, name)) for each in settings}) == 1, name
    assert driven.adapter.resolution == driven.generation.resolution
    assert driven.adapter.resize == driven.generation.resize
    assert (
        driven.generation.pretrained_model_name_or_path
        == driven.adapter.pretrained_model_name_or_path
    )
    assert driven.adapter.judged_strength in driven.generation.strength
    for name in ("model", "eval_split", "eval_dataset_name"):
        assert getattr(driven.downstream, name) == getattr(driven.classifier, name)


@pytest.mark.slow
def test_labels_keep_the_names_and_the_evaluation_split_has_them_too(driven):
    split, stored = driven.inputs.split, driven.schema.names
    assert split.class_names == stored and driven.inputs.adapter.class_names == stored
    assert split.labels.tolist() == driven.labels
    settings = driven.classifier
    if settings.eval_split:
        pin = resolve(settings.eval_dataset_name, "dataset") if settings.eval_dataset_name else None
        assert pin or settings.eval_split != settings.dataset_split
        evaluations = [load_evaluation(settings, split, pin)]
        if settings.validation_split:
            evaluations.append(load_evaluation_split(settings, settings.validation_split, split))
        for evaluation in evaluations:
            assert evaluation.class_names == stored
            assert evaluation.labels.tolist() == list(range(len(stored)))
            assert len(evaluation.decodable()) == len(stored)
    else:
        assert driven.schema.splits == (settings.dataset_split,)


@pytest.mark.slow
def test_every_class_has_a_prompt_of_its_own_without_its_name(driven):
    """Whatever a class is called, there is nothing to clean: prompts hold tokens, and the tokenizer
    tells them apart.
    """
    adapter = read_adapter(driven.inputs.adapter_pin)
    names = driven.schema.names
    prompts = [adapter.prompt(label) for label in range(len(names))]
    assert prompts == [
        f"a photo of a <class_{label}> {driven.adapter.metaclass}" for label in range(len(names))
    ]
    # One prompt per class, and one without a class.
    assert len({tuple(row) for row in driven.ids.tolist()}) == len(names) + 1
    for label in range(len(names)):
        token = driven.tokenizer.convert_tokens_to_ids(f"<class_{label}>")
        assert [token in row for row in driven.ids.tolist()] == [
            other == label for other in range(len(names) + 1)
        ]


@pytest.mark.slow
def test_the_plan_has_every_variant_of_every_source(driven):
    settings, split = driven.generation, driven.inputs.split
    chosen = subset_indices(
        np.array(driven.labels),
        len(driven.schema.names),
        settings.subset_seed,
        None,
        settings.imbalance_factor,
    )
    assert split.subset.tolist() == chosen.tolist()
    assert (len(chosen) < len(driven.labels)) == (settings.imbalance_factor is not None)
    planned = [(row.source_index, row.variant) for row in driven.plan]
    assert planned == list(itertools.product(chosen.tolist(), range(settings.num_variants)))
    # The demo's segmenter looks for birds, and the images here are discs on textures.
    skipped = {row.skip for row in driven.plan if row.skip is not None}
    assert skipped <= ({"mask confidence 0.00: no bird found"} if settings.segmenter else set())
    assert len({row.seed for row in driven.plan}) == len(driven.plan)
    mixed = [row for row in driven.plan if row.skip is None]
    usable = {row.source_index for row in mixed}
    assert len(usable) > 1
    for source, rows in itertools.groupby(mixed, key=lambda row: row.source_index):
        rows = list(rows)
        targets = [row.target_index for row in rows]
        label = driven.labels[source]
        assert split.labels[source] == label != NO_LABEL
        assert source not in targets and set(targets) <= usable
        assert {row.strength for row in rows} <= set(settings.strength)
        if settings.target_classes == "other":
            assert label not in {driven.labels[target] for target in targets}
        pool = sum(
            settings.target_classes == "any" or driven.labels[row] != label
            for row in usable
            if row != source
        )
        assert len(set(targets)) == min(pool, settings.num_variants)
