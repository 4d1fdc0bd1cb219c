"""Where refinement could help: the order of the runs, the masks, and what the tables say."""

import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from PIL import ImageChops

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.evidence.placebos import ROUND_TRIP, with_masks
from parts.method.arms import BASE, settings_from
from parts.photograph_base.measures import load_vae, round_trip
from parts.regimes.experiments import EXPERIMENTS, MASKED, MIXED, RESIDUAL
from parts.regimes.residual import foreground_error, give_back
from parts.regimes.tables import NOT_RUN, report, verdict
from regimes import jobs

from sgdmix_hub import augment
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

GIVEN = {"dataset_name": "d", "output_dir": "o"}


def test_the_primary_arms_of_all_seeds_run_first_and_everything_runs_once():
    keys = ["backgrounds", "edges"]
    order = jobs(keys, only_primary=False)
    assert (
        len(set(order))
        == len(order)
        == sum(len(EXPERIMENTS[key].arms) * len(EXPERIMENTS[key].seeds) for key in keys)
    )
    first = jobs(keys, only_primary=True)
    assert order[: len(first)] == first
    assert {arm for key, _, arm in first if key == "edges"} == set(EXPERIMENTS["edges"].primary[0])


@pytest.mark.parametrize("key", EXPERIMENTS)
def test_every_arm_is_a_generation_that_programs_accept(key):
    experiment = EXPERIMENTS[key]
    for arm in experiment.arms.values():
        if arm.generation is None:
            continue
        values = GIVEN | BASE | experiment.generation | arm.generation
        if "strength_choice" in values:
            values["pilot_classifier"] = "c/d"
        if experiment.with_adapter:
            values["adapter"] = "a/b"
        if arm.with_bank:
            values["background_dataset_name"] = "e/f"
        settings = apply_preset(settings_from(AugmentSettings, **values))
        assert settings.max_skipped == 1
    assert set(experiment.first_arms) <= set(experiment.arms)


def test_masks_of_other_images_are_of_other_classes():
    rows = make_dataset(3, 2, 1, 1, seed=0, resolution=32)["train"]
    masked = with_masks(rows)
    same_class = {
        (row, other)
        for row in range(len(rows))
        for other in range(len(rows))
        if rows[row]["label"] == rows[other]["label"]
    }
    for row, one in enumerate(masked):
        alike = [
            other
            for other in range(len(rows))
            if ImageChops.difference(one["other_mask"], rows[other]["mask"]).getbbox() is None
        ]
        assert alike and not {(row, other) for other in alike} & same_class


@pytest.mark.slow
def test_the_round_trip_keeps_every_image_but_for_a_pixel(tmp_path):
    rows = with_masks(make_dataset(2, 2, 1, 1, seed=0)["train"])
    save_dataset(DatasetDict({"train": rows}), tmp_path / "images")
    given = BASE | MASKED | ROUND_TRIP | {"num_variants": 1, "num_inference_steps": 2}
    given |= {"dataset_name": str(tmp_path / "images"), "output_dir": str(tmp_path / "run")}
    augment.main(settings_from(AugmentSettings, **given))
    made = load_published(str(tmp_path / "run" / "repo"))
    assert len(made.dataset) == 4
    for row in range(4):
        original = rows[int(made.sources[row])]["image"]
        away = np.asarray(made.image(row), float) - np.asarray(original, float)
        assert 0 < np.abs(away).mean() < 12  # the autoencoder's loss


def figures_of(key, differences):
    """Figures in which the first primary arm is better than the second by these differences."""
    (first, second), *_ = EXPERIMENTS[key].primary
    seeds = [str(seed) for seed in EXPERIMENTS[key].seeds[: len(differences)]]

    def figures(values):
        made = zip(seeds, values, strict=True)
        return {seed: {"accuracy": value, "seconds": 1.0} for seed, value in made}

    return {first: figures([0.5 + one for one in differences]), second: figures([0.5] * len(seeds))}


def test_the_residual_is_given_back_in_the_foreground_alone_and_once(tmp_path):
    images = tmp_path / "images"
    save_dataset(make_dataset(2, 2, 1, 1, seed=0, resolution=32), images)
    values = BASE | MASKED | {"resolution": 32, "num_variants": 1}
    values |= EXPERIMENTS["edges"].arms[RESIDUAL].generation
    values |= {"dataset_name": str(images), "output_dir": str(tmp_path / "out")}
    augment.main(settings_from(AugmentSettings, **values))
    repo, vae = tmp_path / "out/repo", load_vae(TINY_BASE)
    before = list(load_published(str(repo)).dataset)
    error = foreground_error(repo)
    for _ in range(2):
        give_back(tmp_path / "out")
    after = list(load_published(str(repo)).dataset)
    assert len(after) == len(before) > 0
    for old, new in zip(before, after, strict=True):
        image, mixed, changed = (
            np.array(picture.convert("RGB"), np.int16)
            for picture in (old["image"], old["mixed"], new["image"])
        )
        kept = np.array(old["mask"].convert("L")) > 0
        lost = mixed - round_trip(vae, mixed[None].astype(np.uint8))[0]
        assert np.array_equal(changed[~kept], image[~kept])
        assert np.array_equal(changed[kept], (image + lost).clip(0, 255)[kept])
    assert 0 < foreground_error(repo) < error


def test_what_did_not_run_says_so_and_seed_0_counts_nowhere():
    figures = {"backgrounds": figures_of("backgrounds", [0.1, 0.12, 0.11])}
    figures["backgrounds"][MIXED]["0"] = {"accuracy": 0.0, "seconds": 1.0}
    text = report(figures, {})
    assert "+0.110 ± 0.025 (3 seeds)" in text and "| helps |" in text
    assert f"| {MIXED} | 0.500 ± 0.000 |" in text
    assert text.count(NOT_RUN) > 10


@pytest.mark.parametrize(
    ("differences", "p", "said"),
    [
        ([0.05, 0.06], 0.01, "helps"),
        ([-0.05, -0.06], 0.01, "costs"),
        ([0.0, 0.001, -0.001], 0.9, "no difference beyond ± 0.02"),
        ([0.05, -0.05], 0.9, "not resolved"),
        ([0.05], float("nan"), "one seed"),
    ],
)
def test_a_difference_is_denied_only_within_the_margin(differences, p, said):
    assert verdict(np.array(differences), p) == said
