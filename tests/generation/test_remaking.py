"""Images that a judge doubts are made again: with another seed, at half S, at last at S = 0."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import yaml
from generations import digests, generate, manifest_of, pixels_of, published_rows
from untrusted import refused

from sgdmix_hub.evaluation.sources import doubts
from sgdmix_hub.generation.contact_sheet import published_row
from sgdmix_hub.generation.plan import PlanRow
from sgdmix_hub.generation.remaking import attempts_at
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

STEPS, STRENGTH, ATTEMPTS = 4, 0.75, 4
EXPECTED = [0.75, 0.75, 0.375, 0.0]
DOUBT = "the judge doubts its label at every attempt"


@pytest.fixture(scope="module")
def settings(birds, adapter, tiny_base):
    return {
        "dataset_name": birds,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "saliency_method": "mask-column",
        "mask_column": "mask",
        "strength": STRENGTH,
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "foreground_strength": 0.25,
        "resolution": 32,
        "batch_size": 4,
        "rows_per_shard": 8,
        "image_format": "png",
        "max_skipped": 1.0,
    }


@pytest.fixture(scope="module")
def judge(classifier, class_names):
    return Judge(resolve(str(classifier)), class_names, torch.device("cpu"))


def probabilities_of(rows, judge):
    """What the judge gives to the labels of some rows."""
    given = judge.probabilities([pixels_of(row) for row in rows])
    return given[np.arange(len(rows)), [row["label"] for row in rows]]


@pytest.fixture(scope="module")
def plain(settings, tmp_path_factory):
    return published_rows(generate(settings, tmp_path_factory.mktemp("plain") / "out"))


@pytest.fixture(scope="module")
def judged_settings(settings, plain, judge, classifier):
    """The judge doubts most of the images of the first attempt."""
    least = float(np.quantile(probabilities_of(plain, judge), 0.7))
    return settings | {
        "judge": classifier,
        "min_label_probability": least,
        "max_attempts": ATTEMPTS,
    }


@pytest.fixture(scope="module")
def judged(judged_settings, tmp_path_factory):
    return generate(judged_settings, tmp_path_factory.mktemp("judged") / "out")


def test_every_published_image_reaches_the_asked_probability(judged, judge, judged_settings):
    rows = published_rows(judged)
    least = judged_settings["min_label_probability"]
    assert (probabilities_of(rows, judge) >= least - 1e-6).all()
    assert {row["attempts"] for row in rows} > {1}


def test_rows_that_the_judge_accepts_at_once_are_those_of_a_run_without_it(judged, plain):
    at_once = [row for row in published_rows(judged) if row["attempts"] == 1]
    known = {row["source_index"]: row for row in plain}
    for row in at_once:
        assert row == known[row["source_index"]] | {"attempts": 1}


def test_strength_and_seed_are_those_of_the_last_attempt(judged, plain):
    seeds = {row["source_index"]: row["seed"] for row in plain}
    for row in published_rows(judged):
        assert row["foreground_strength"] == min(0.25, row["strength"])
        assert row["strength"] == EXPECTED[row["attempts"] - 1]
        assert (row["seed"] == seeds[row["source_index"]]) == (row["attempts"] == 1)


def test_an_image_doubted_at_every_attempt_is_skipped_and_every_row_counted(judged):
    manifest = manifest_of(judged)
    assert all(row["reason"].startswith(DOUBT) for row in manifest["skipped"])
    assert len(published_rows(judged)) + len(manifest["skipped"]) == manifest["planned_rows"]
    assert manifest["skipped"], "the threshold is to reject some rows at strength 0 too"


def test_judge_and_counts_are_published(judged, classifier, judged_settings):
    pin = str(resolve(str(classifier)))
    assert manifest_of(judged)["pins"]["judge"] == pin
    config = yaml.safe_load((judged / "repo/sgdmix/default/config.yaml").read_text())
    assert (config["judge"], config["max_attempts"]) == (pin, ATTEMPTS)
    card = (judged / "repo/README.md").read_text()
    remade = sum(row["attempts"] > 1 for row in published_rows(judged))
    assert f"{remade} images took more than one attempt" in card
    assert f"min_label_probability: {judged_settings['min_label_probability']}" in card


def test_a_lost_shard_is_made_again_with_the_same_bytes(judged, judged_settings, tmp_path):
    copy = shutil.copytree(judged, tmp_path / "out")
    before = digests(copy / "repo")
    shutil.rmtree(copy / "repo")
    for lost in (copy / "state/shards").glob("shard-00001.*"):
        lost.unlink()
    assert digests(generate(judged_settings, copy) / "repo") == before


def test_the_contact_sheet_tells_the_strength_of_the_last_attempt(judged, plain):
    shards = Shards(judged / "state/shards", judged / "state/plan.parquet", 8)
    made = {row["source_index"]: row for row in published_rows(judged)}
    for position in range(len(plain)):
        (planned,) = shards.plan_rows(position, 1)
        if planned.source_index in made:
            row, _ = published_row(shards, position, planned)
            assert row.strength == made[row.source_index]["strength"]
            assert row.seed == made[row.source_index]["seed"]


def test_the_judges_own_figures_are_told_to_be_too_good(judge):
    trust = Trust(0.5, 0.25, 8)
    subset = {"dataset_config_name": None, "dataset_split": "train", "rows_sha256": "0"}
    (warning,) = doubts(judge, trust, subset | {"dataset": "o/n@main"}, str(judge.pin))
    assert "chose these images" in warning


# ---- the attempts at one row ----


def attempts(strength, allowed=None, **values):
    settings = apply_preset(
        AugmentSettings(
            dataset_name="d",
            output_dir="o",
            judge="j",
            strength=strength,
            max_attempts=allowed,
            num_inference_steps=STEPS,
            **values,
        )
    )
    row = PlanRow(3, 0, 5, 7, strength, 0.1, 0, None)
    made = attempts_at(row, settings)
    assert all(dataclasses.replace(one, strength=strength, seed=7) == row for one in made)
    assert len({one.seed for one in made}) == len(made) and made[0].seed == 7
    return [one.strength for one in made]


@pytest.mark.parametrize(
    ("allowed", "strengths"),
    [
        (1, [0.75]),
        (2, [0.75, 0.0]),
        (3, [0.75, 0.375, 0.0]),
        (None, EXPECTED),
        (6, [0.75, 0.75, 0.75, 0.75, 0.375, 0.0]),
    ],
)
def test_the_last_attempts_are_at_half_the_strength_and_without_refinement(allowed, strengths):
    assert attempts(0.75, allowed, foreground_strength=0.0) == strengths


def test_half_a_strength_is_left_out_below_one_step_or_the_foregrounds_strength():
    assert attempts(0.25, 4, foreground_strength=0.0) == [0.25, 0.25, 0.25, 0.0]
    assert attempts(0.75, 4, foreground_strength=0.5) == [0.75, 0.75, 0.75, 0.0]


@pytest.mark.parametrize(
    "values", [{"mixing_method": "none"}, {"prompt_class": "target", "target_classes": "any"}]
)
def test_no_attempt_publishes_the_source_or_another_label(values):
    assert attempts(0.75, 4, foreground_strength=0.0, **values) == [0.75, 0.75, 0.75, 0.375]
    assert attempts(0.75, 1, foreground_strength=0.0, **values) == [0.75]


def test_a_row_that_is_only_mixed_has_one_attempt():
    assert attempts(0.0) == [0.0]


@pytest.mark.parametrize("name", ["min_label_probability", "max_attempts"])
def test_settings_of_a_judge_need_one(name):
    settings = AugmentSettings(dataset_name="d", output_dir="o", strength=0.0, **{name: 1})
    assert "needs --judge" in refused(settings.validate)
