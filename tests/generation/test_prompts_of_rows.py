"""Rows with several prompts: what is planned is what is made and published, by one process or two,
again from the published plan, over a mapped split, and by a call of the pipeline.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from generations import SCRIPT, arguments, pixels_of, published_rows, undecoded
from launching import launch

from sgdmix_hub import augment
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

PLACES = ["in the snow", "at dusk", "by the sea"]
METHOD = {
    "saliency_method": "spectral-residual",  # the quickest
    "strength": [0.5, 1.0],
    "foreground_strength": 0.25,
    "num_inference_steps": 4,
    "num_variants": 1,
    "guidance_scale": 3.0,
    "batch_size": 4,
    "resolution": 32,
    "prompt_template": ["a photo of a {token} {metaclass}", "a {token} {metaclass}, sharp"],
    "background_prompts": PLACES,
    "background_prompt_template": "a landscape {background}",
    "negative_prompt": "blurry",
}


def generate(output, birds, tiny_base, adapter, **settings):
    augment.main(
        AugmentSettings(
            dataset_name=str(birds),
            output_dir=str(output),
            adapter=str(adapter),
            pretrained_model_name_or_path=str(tiny_base),
            rows_per_shard=16,
            image_format="png",
            **METHOD | settings,
        )
    )
    return published_rows(output)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("prompted") / "run"


@pytest.fixture(scope="module")
def rows(output, birds, tiny_base, adapter):
    return generate(output, birds, tiny_base, adapter)


def planned(output):
    return pq.read_table(output / "repo" / "sgdmix" / "default" / "plan.parquet").to_pylist()


def told(label, number):
    """The prompt with this number, written out."""
    template, place = divmod(number, 3)
    own = [f"a photo of a <class_{label}> bird", f"a <class_{label}> bird, sharp"]
    return f"{own[template]} {PLACES[place]}"


def test_the_column_says_what_the_plan_has_drawn(rows, output):
    plan = {(row["source_index"], row["variant"]): row for row in planned(output)}
    assert len(rows) > 20
    for row in rows:
        number = plan[row["source_index"], row["variant"]]["prompt"]
        assert row["prompt"] == told(row["label"], number)
    assert len({row["prompt"].split(" bird")[1] for row in rows}) == 6


def test_the_card_tells_the_prompts(rows, output):
    card = (output / "repo" / "README.md").read_text()
    assert "| texts that follow the prompt, one drawn per row | in the snow; at dusk;" in card
    assert "| prompt | a photo of a &#123;token} &#123;metaclass};" in card
    assert "| negative prompt | blurry |" in card


def test_a_rerun_takes_the_prompts_of_the_published_plan(
    rows, output, birds, tiny_base, adapter, tmp_path
):
    config = output / "repo" / "sgdmix" / "default" / "config.yaml"
    words = {
        "config": config,
        "dataset_name": birds,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "output_dir": tmp_path / "again",
    }
    settings = parse_settings(AugmentSettings, arguments(words))
    augment.main(settings)
    assert published_rows(tmp_path / "again") == rows


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(rows, birds, tiny_base, adapter, tmp_path):
    config = tmp_path / "generate.yaml"
    lines = [f"{name}: {value!r}" for name, value in METHOD.items()]
    config.write_text("\n".join(lines))
    words = {
        "config": config,
        "dataset_name": birds,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "output_dir": tmp_path / "two",
        "rows_per_shard": 5,
        "image_format": "png",
    }
    ended = launch([SCRIPT, *arguments(words)], num_processes=2)
    assert ended.returncode == 0, ended.stderr
    assert published_rows(tmp_path / "two") == rows


def test_a_mapped_split_has_the_prompts_of_a_generation(rows, birds, tiny_base, adapter):
    dataset = load_dataset(str(birds), split="train")
    pipeline = SGDMixPipeline.from_pretrained(str(tiny_base), str(adapter), **METHOD)
    mapped = MappedSplit(pipeline, dataset, image_format="png")
    made = dataset.map(mapped, **mapped.options)
    assert undecoded(made) == rows
    other = SGDMixPipeline.from_pretrained(
        str(tiny_base), str(adapter), **METHOD | {"background_prompts": PLACES[::-1]}
    )
    fingerprints = {
        MappedSplit(one, dataset).options["new_fingerprint"] for one in (pipeline, other)
    }
    assert len(fingerprints) == 2
    chosen = [row for row in rows if row["strength"] == 0.5][:5]
    output = pipeline(
        [dataset[row["source_index"]]["image"] for row in chosen],
        [dataset[row["target_index"]]["image"] for row in chosen],
        [row["label"] for row in chosen],
        seeds=[row["seed"] for row in chosen],
        strength=0.5,
    )
    assert output.prompts == [row["prompt"] for row in chosen]
    for image, row in zip(output.images, chosen, strict=True):
        assert np.array_equal(np.asarray(image), pixels_of(row))
