"""The evidence's statistics, tables and plots, from figures made up for the purpose; and which runs
belong to it.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from evidence import BEGIN, END, RESULTS, ablation_jobs, arm_jobs, collected, take_up, with_tables
from parts.evidence.arms import (
    ABLATIONS,
    ARMS,
    CEILING,
    GENERATION,
    PAPER,
    REAL,
    RECOMMENDED,
    TASKS,
    point_arm,
)
from parts.evidence.cifar import ANIMALS, make_photographs
from parts.evidence.placebos import PLACEBOS, THROUGH_VAE
from parts.evidence.plots import ablation_lines, draw_ablations, draw_tasks
from parts.evidence.runs import slug
from parts.evidence.tables import (
    chosen_probability,
    comparisons,
    floors,
    overview,
    placebo_overview,
    test_accuracies,
)
from parts.intervals import holm, interval, paired_p
from parts.method.arms import BASE, settings_from

from sgdmix_hub.files import write_json
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.training import ClassifierSettings

test_accuracies.__test__ = False  # no test, whatever its name


def seed_figures(rng, arms=ARMS, points=()):
    accuracies = {
        arm: {"accuracy": {"0": both(rng)}} if recipe.generation is None else synthetic(rng)
        for arm, recipe in arms.items()
    }
    return {
        "hours": 0.5,
        "judge": 0.8,
        "arms": accuracies | {point: {"accuracy": {"0.5": both(rng)}} for point in points},
    }


def synthetic(rng):
    return {"accuracy": {"0.1": both(rng), "0.5": both(rng)}, "label kept": rng.uniform()}


def both(rng):
    return {"validation": rng.uniform(), "test": rng.uniform()}


@pytest.fixture
def seeds():
    rng = np.random.default_rng(0)
    return {str(number): seed_figures(rng) for number in range(1, 6)}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_exactly_what_the_step_down_procedure_rejects(p_values):
    """Holm's procedure as he wrote it down: from the smallest on, until one is not below alpha over
    the number that is left.
    """
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = np.zeros(len(p_values), bool)
        for rank, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] * (len(p_values) - rank) > alpha:
                break
            rejected[index] = True
        assert np.array_equal(adjusted <= alpha, rejected)
    assert (adjusted >= np.array(p_values) - 1e-15).all() and (adjusted <= 1).all()


def test_holm_counts_real_comparisons_alone():
    assert holm([0.01, float("nan"), 0.04]) == pytest.approx(
        [0.02, float("nan"), 0.04], nan_ok=True
    )


def test_p_is_that_of_the_paired_t_test(seeds):
    first, second = (
        [seed["arms"][arm]["accuracy"]["0.5"]["test"] for seed in seeds.values()]
        for arm in (RECOMMENDED, "true masks")
    )
    differences = np.subtract(first, second)
    t = differences.mean() / (differences.std(ddof=1) / 5**0.5)
    assert paired_p(first, second) == pytest.approx(2 * stats.t.sf(abs(t), 4))


def test_the_validation_images_choose_the_probability_and_the_test_images_have_no_say(seeds):
    for seed in seeds.values():
        accuracies = seed["arms"][RECOMMENDED]["accuracy"]
        accuracies["0.1"] = {"validation": 0.9, "test": 0.2}
        accuracies["0.5"] = {"validation": 0.5, "test": 0.95}
    assert chosen_probability(list(seeds.values()), RECOMMENDED) == "0.1"
    assert set(test_accuracies(seeds, RECOMMENDED).values()) == {0.2}


def test_tables_say_what_was_not_run_and_pair_by_seed(seeds):
    for number in ("1", "2"):
        del seeds[number]["arms"]["cutmix"]
    for seed in seeds.values():
        del seed["arms"]["mixup"]
        seed["arms"].pop(CEILING)
    table = overview({"shift": seeds, "full": seeds})
    lines = {line.split(" | ")[0]: line for line in table.splitlines() if line.startswith("| ")}
    assert "(3 of 5 seeds)" in lines["| cutmix"]
    assert lines["| mixup"] == "| mixup |" + " not run |" * len(TASKS)
    # The other tasks have no tie, so they have no ceiling.
    assert lines[f"| {CEILING}"] == f"| {CEILING} | not run |" + "  |" * (len(TASKS) - 1)
    text = comparisons(seeds)
    row = next(line for line in text.splitlines() if line.startswith("| cutmix"))
    ours = test_accuracies(seeds, RECOMMENDED)
    theirs = [
        seeds[number]["arms"]["cutmix"]["accuracy"]["0"]["test"] for number in ("3", "4", "5")
    ]
    difference = np.mean(np.subtract([ours[number] for number in ("3", "4", "5")], theirs))
    assert f"| {difference:+.3f} ± " in row and "mixup" not in text


def test_placebos_stand_in_tables_of_their_own(seeds):
    """So that they do not change Holm's p-values of the arms."""
    before = comparisons(seeds)
    for number in ("1", "2", "3"):
        seeds[number]["arms"][THROUGH_VAE] = synthetic(np.random.default_rng(int(number)))
    assert comparisons(seeds) == before
    assert "(3 of 5 seeds)" in placebo_overview({"shift": seeds})
    (line,) = [line for line in floors({"shift": seeds}).splitlines() if THROUGH_VAE in line]
    differences = np.subtract(
        *(
            [test_accuracies(seeds, arm)[number] for number in ("1", "2", "3")]
            for arm in (THROUGH_VAE, REAL)
        )
    )
    assert f"| {differences.mean():+.3f} ± " in line and "(3 seeds)" in line


@pytest.mark.slow
def test_every_arm_and_point_is_what_the_programs_take():
    """Before hours are spent: all recipes parse, and no two share a folder."""
    points = {
        name: arm
        for _, _, arms, _ in ablation_jobs(list(ABLATIONS), [1])
        for name, arm in arms.items()
    }
    names = [*ARMS, *points, *PLACEBOS]
    assert len({slug(name) for name in names}) == len(names)
    for arm in (ARMS | points | PLACEBOS).values():
        settings_from(ClassifierSettings, dataset_name="a", output_dir="o", **arm.training)
        if arm.generation is not None:
            given = {"dataset_name": "a", "output_dir": "o", "classifier": "c"} | (
                {} if arm.without_adapter else {"adapter": "d"}
            )
            apply_preset(
                settings_from(AugmentSettings, **(given | BASE | GENERATION | arm.generation))
            )


@pytest.mark.slow
def test_points_that_are_arms_of_the_table_are_measured_once():
    shared = {
        point_arm(*point)
        for point in (
            ("strength", "paper", "0.5"),
            ("masks", "paper", "Grad-CAM"),
            ("candidates", "paper", "50"),
        )
    }
    assert shared == {PAPER}
    assert point_arm("selection", "recommended", "l2") == RECOMMENDED
    # The arms of the table are mixed in another way.
    assert point_arm("masks", "paper", "true masks") == "masks paper true masks"
    names = {name for _, _, arms, _ in ablation_jobs(list(ABLATIONS), None) for name in arms}
    assert not names & set(ARMS)


def test_figures_of_an_earlier_folder_are_taken_up_and_own_ones_kept(seeds, tmp_path):
    write_json(tmp_path / RESULTS, {"figures": {"shift": seeds}})
    write_json(tmp_path / "work" / "shift" / "seed-2" / "figures.json", seeds["1"])
    take_up(tmp_path, tmp_path / "work")
    assert collected(tmp_path / "work") == {"shift": seeds | {"2": seeds["1"]}}


def test_jobs_are_whole_seeds_in_turn():
    jobs = arm_jobs(["shift", "full"], None, list(ARMS))
    assert [job[:2] for job in jobs[:4]] == [("shift", 1), ("full", 1), ("shift", 2), ("full", 2)]
    assert len(jobs) == len(TASKS["shift"].seeds) + len(TASKS["full"].seeds)
    assert [job[:2] for job in arm_jobs(["full"], [3], list(ARMS))] == [("full", 3)]


def test_tables_are_put_between_the_marks_again_and_again():
    once = with_tables(f"# Title\n\n{BEGIN}{END}\n\nProse.\n", "| 1 |")
    assert with_tables(once, "| 1 |") == once and "| 1 |" in once and once.endswith("\n\nProse.\n")
    again = with_tables(once, "| 2 |")
    assert "| 1 |" not in again and again.startswith("# Title")


@pytest.mark.slow
def test_pictures_are_drawn_of_what_there_is(seeds, tmp_path):
    rng = np.random.default_rng(1)
    points = [
        point_arm("strength", line, point)
        for line, points in ABLATIONS["strength"].points.items()
        for point in points
    ]
    for number in ("2", "4"):
        seeds[number]["arms"] |= {
            name: {"accuracy": {"0.5": both(rng)}} for name in points if name not in ARMS
        }
    seeds["5"]["arms"][points[0]] = {"accuracy": {"0.5": both(rng)}}  # of one that was stopped
    write_json(tmp_path / "shift" / "seed-10" / "figures.json", seeds["1"])
    write_json(tmp_path / "shift" / "seed-2" / "figures.json", seeds["2"])
    figures = collected(tmp_path)
    assert list(figures["shift"]) == ["2", "10"]
    lines = ablation_lines({"shift": seeds}, "strength")
    assert "2 of 5 seeds" in lines[0] and lines[-2].count("±") == lines[-1].count("±") == 5
    middle = [seeds[number]["arms"][PAPER]["accuracy"]["0.5"]["test"] for number in ("2", "4")]
    assert interval(middle) in lines[-2]  # S = 0.5 of the same seeds as the others
    assert ablation_lines({"shift": seeds, "full": seeds}, "candidates") == []
    draw_tasks({"shift": seeds}, tmp_path / "tasks.png")
    draw_ablations({"shift": seeds}, tmp_path / "ablations.png")
    for name in ("tasks.png", "ablations.png"):
        assert Image.open(tmp_path / name).width > 300


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm")
def test_photographs_come_from_the_package_and_no_split_shares_one(tmp_path):
    make_photographs(
        tmp_path / "photographs", tmp_path / "package", seed=1, train=4, validation=3, test=5
    )
    splits = load_dataset(str(tmp_path / "photographs"))
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 24,
        "validation": 18,
        "test": 30,
    }
    assert splits["train"].features["label"].names == list(ANIMALS.values())
    for name, rows in splits.items():
        assert rows[0]["image"].size == rows[0]["centre"].size == (32, 32)
        assert all(rows["label"].count(label) == len(rows) // 6 for label in range(6)), name
    seen = [rows[i]["image"].tobytes() for rows in splits.values() for i in range(len(rows))]
    assert len(set(seen)) == len(seen)
