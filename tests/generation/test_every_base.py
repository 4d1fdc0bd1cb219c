"""Whole runs on every family of base models, without an adapter: the rows of one process are those
of several and of `Dataset.map`, and the kept foreground is the source's.
"""

import io

import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from generations import published_rows, undecoded
from PIL import Image
from tiny_bases import BUILD

from sgdmix_hub import augment
from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.generation.plan_file import PlanFile
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.generation.worker import make_shards
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.models.bases.families import BY_NAME, FAMILIES
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
METHOD = {
    "preset": "recommended",
    "mask_column": "mask",
    "strength": [0.5, 0.8],
    "foreground_strength": 0.25,
    "scheduler": "euler",
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "batch_size": 4,
    "resolution": 32,
    "num_variants": 1,
}


@pytest.fixture(scope="module")
def few_birds(birds, tmp_path_factory):
    """Eight rows of the birds, of all their classes."""
    folder = tmp_path_factory.mktemp("few") / "birds"
    load_dataset(str(birds), split="train").select(range(0, 24, 3)).to_parquet(
        folder / "data" / "train-00000-of-00001.parquet"
    )
    return folder


@pytest.fixture(scope="module", params=[family.name for family in FAMILIES])
def family(request):
    return BY_NAME[request.param]


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    BUILD[family.name]().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def settings(few_birds, base, tmp_path_factory):
    return AugmentSettings(
        **METHOD,
        pretrained_model_name_or_path=str(base),
        dataset_name=str(few_birds),
        output_dir=str(tmp_path_factory.mktemp("generated") / "run"),
        rows_per_shard=2,
        image_format="png",
        num_workers=1,
        max_skipped=0.0,
    )


@pytest.fixture(scope="module")
def generated(settings):
    augment.main(settings)
    return OutputFolder(settings.output_dir)


def made_by(count, settings, output):
    """The rows as the ranks of `count` processes make them: each has models of its own, and every
    n-th shard.
    """
    chosen, made = apply_preset(settings), {}
    inputs = resolve_inputs(chosen, output.state)
    maps = compute_maps(chosen, inputs.split, None, 0, 1, CPU)
    shards = Shards(output.shards, PlanFile(output).path, chosen.rows_per_shard)

    def write(number, rows, skipped, seconds):
        made[number] = rows

    for rank in range(count):
        maker = RowMaker(chosen, inputs, maps)
        maker.load_refiner(CPU)
        mine = range(rank, len(shards), count)
        own = ((number, shards.rows(number)) for number in mine)
        make_shards(maker, own, 1, write, lambda rows: None)
    return [row for number in range(len(shards)) for row in made[number]]


@pytest.mark.slow
def test_the_rows_do_not_depend_on_the_number_of_processes(settings, generated):
    """Three processes make two, one and one of the four shards."""
    expected = published_rows(generated.path)
    assert len(expected) == 8
    assert made_by(3, settings, generated) == expected


@pytest.mark.slow
def test_a_mapped_split_gives_the_rows_of_the_generation(base, few_birds, generated):
    pipeline = SGDMixPipeline.from_pretrained(
        pretrained_model_name_or_path=str(base),
        class_names=load_dataset(str(few_birds), split="train").features["label"].names,
        **METHOD,
    )
    dataset = load_dataset(str(few_birds), split="train")
    mapped = MappedSplit(pipeline, dataset, image_format="png")
    rows = dataset.map(mapped, **mapped.options)
    assert undecoded(rows) == published_rows(generated.path)


@pytest.mark.slow
def test_the_kept_foreground_is_the_sources_to_the_bit(generated, few_birds):
    """`recommended` pastes it: inside the mask's soft edge, refined pixels are the source's."""
    sources = undecoded(load_dataset(str(few_birds), split="train"))
    compared = 0
    for row in published_rows(generated.path):
        source = sources[row["source_index"]]
        mask = np.asarray(Image.open(io.BytesIO(source["mask"]["bytes"])).convert("L")) > 127
        inside = mask.copy()
        for axis in (0, 1):
            for step in (-2, -1, 1, 2):
                inside &= np.roll(mask, step, axis)
        pixels = np.asarray(Image.open(io.BytesIO(source["image"]["bytes"])).convert("RGB"))
        made = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert np.array_equal(made[inside], pixels[inside])
        assert not np.array_equal(made, pixels)
        compared += inside.sum()
    assert compared > 30


@pytest.mark.slow
def test_rows_and_card_say_where_the_noise_begins(family, generated):
    rows = published_rows(generated.path)
    assert {row["strength"] for row in rows} == {0.5, 0.8}
    for row in rows:
        steps = family.num_steps(4, row["strength"])
        assert row["effective_strength"] == steps / 4 and 0.2 < row["sigma_start"] <= 1
    levels = {row["strength"]: row["sigma_start"] for row in rows}
    assert levels[0.5] < levels[0.8]
    card = (generated.repo / "README.md").read_text()
    shares = ", ".join(f"{family.num_steps(4, s) / 4:g}" for s in (0.5, 0.8))
    assert f"(effective {shares}: 4 steps, euler" in card
    assert f"from noise level {levels[0.5]:g}, {levels[0.8]:g})" in card
    config = yaml.safe_load((generated.repo / "sgdmix/default/config.yaml").read_text())
    assert "strength_unit" not in config
