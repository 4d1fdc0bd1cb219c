"""Solar cells, in small: made-up cells, no pretrained network."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.method.arms import settings_from
from parts.photograph_shift.classifiers import LITE0, linear_head
from parts.photograph_shift.runs import class_accuracies
from parts.regimes.tables import NOT_RUN
from parts.solar_cells import cells as cell_parts
from parts.solar_cells import runs
from parts.solar_cells.arms import (
    ARMS,
    EVERY,
    FIXED,
    FIXED_SAME,
    GENERATION,
    OTHERS,
    PAPER,
    PRIMARY,
    REAL,
    RECOMMENDED,
)
from parts.solar_cells.cells import (
    BLOCK,
    DEFECTIVE,
    FUNCTIONAL,
    MONO,
    Cells,
    deal,
    drawn,
    labels_of,
    make_task,
    neighbour_ratio,
)
from parts.solar_cells.judge import Judge, lost, warns
from parts.solar_cells.masks import busbars, mask_figures
from parts.solar_cells.runs import Run, other_masks
from parts.solar_cells.tables import measured, primary_table, report
from solar_cells import accuracies, measures

from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

SIDE, BARS = 100, (20, 50, 80)
METHODS = {PAPER: "grad-cam"} | dict.fromkeys((OTHERS, FIXED, FIXED_SAME), "mask-column")


def cell(rng, label, bars=BARS):
    """A grey cell with busbars; a defective one has a dark crack across it."""
    grey = np.full((SIDE, SIDE), 150.0) + rng.normal(0, 3, (SIDE, SIDE))
    for bar in bars:
        grey[bar : bar + 2] *= 0.7
    if label == DEFECTIVE:
        where = np.arange(SIDE)
        for step in range(6):
            grey[where, np.clip(where + rng.integers(-10, 10) + step, 0, SIDE - 1)] = 30
    return np.clip(grey, 0, 255).astype(np.uint8)


@pytest.fixture
def few(monkeypatch):
    """96 cells, every third of them unsure, of which four a class train."""
    monkeypatch.setattr(cell_parts, "TRAIN", 4)
    monkeypatch.setattr(cell_parts, "MOST", 6)
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3 - 1
    return Cells(np.stack([cell(rng, label) for label in labels]), labels)


def test_cells_between_functional_and_defective_have_no_label():
    assert labels_of(np.array([0, 1 / 3, 2 / 3, 1])).tolist() == [0, -1, -1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_block_of_files_is_never_divided(seed):
    labels = np.random.default_rng(seed).integers(-1, 2, 40 * BLOCK + 5)
    parts = deal(labels, np.random.default_rng(seed), 20)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    blocks = [set((part // BLOCK).tolist()) for part in parts]
    assert sum(map(len, blocks)) == len(set.union(*blocks))
    taken = drawn(parts[0], labels, 20, np.random.default_rng(0))
    assert np.bincount(labels[taken]).tolist() == [20, 20] and set(taken) <= set(parts[0])


def test_a_part_without_enough_of_a_class_is_refused():
    labels = np.zeros(20 * BLOCK, int)
    with pytest.raises(ValueError, match="no deal of 20 blocks"):
        deal(labels, np.random.default_rng(0), 20)


def test_neighbours_that_are_alike_are_seen():
    rng = np.random.default_rng(0)
    modules = np.repeat(rng.integers(60, 200, 12), 20)
    ordered = np.clip(modules[:, None, None] + rng.normal(0, 4, (240, 24, 24)), 0, 255)
    ordered = ordered.astype(np.uint8)
    assert neighbour_ratio(ordered) < 0.3
    assert neighbour_ratio(ordered[rng.permutation(240)]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("label", [FUNCTIONAL, DEFECTIVE])
def test_busbars_are_found_and_cracks_are_not(label):
    found = busbars(cell(np.random.default_rng(1), label))
    assert np.flatnonzero(found.all(axis=1)).tolist() == [
        row for bar in BARS for row in (bar, bar + 1)
    ]
    assert found.sum() == 6 * SIDE
    assert not busbars(cell(np.random.default_rng(1), label, bars=())).any()


def test_shares_in_busbars_leave_out_cells_without_any():
    rng = np.random.default_rng(0)
    greys = np.stack([cell(rng, FUNCTIONAL), cell(rng, FUNCTIONAL, bars=())])
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, BARS[0] : BARS[0] + 2] = True  # nothing but a bar
    masks[1, 10:40, 10:40] = True
    figures = mask_figures(masks, np.array([0.9, 0.1]), greys)
    assert figures["mask in bars"] == 1 and figures["image in bars"] == pytest.approx(0.06)
    assert figures["with bars"] == figures["trusted"] == 0.5


def test_every_cell_gets_the_mask_of_another():
    masks = {row: np.full((2, 2), row) for row in range(0, 12, 2)}
    given = other_masks(masks, 12, seed=3)
    taken = [int(mask[0, 0]) for mask in given]
    assert all(taken[row] != row for row in range(12))
    assert sorted(taken[row] for row in masks) == sorted(masks)
    with pytest.raises(ValueError, match="exchange"):
        other_masks({0: masks[0]}, 4, seed=0)


@pytest.mark.parametrize("arm", [arm for arm, values in ARMS.items() if values is not None])
def test_every_arm_is_a_generation_that_the_program_accepts(arm):
    values = {"dataset_name": "d", "output_dir": "o", **GENERATION, **ARMS[arm]}
    if arm == PAPER:
        values["classifier"] = "c/d"
    settings = apply_preset(settings_from(AugmentSettings, **values))
    settings.validate()
    assert settings.saliency_method == METHODS.get(arm, "consensus")


def test_a_comparison_without_any_difference_still_counts_for_holm():
    lines = [
        {"classifier": LITE0, "seed": seed, "arm": arm, "accuracy": [value], "seconds": 1}
        for arm, offset in {REAL: 0, RECOMMENDED: 0, EVERY: 0.1}.items()
        for seed, value in ((1, 0.5 + offset), (2, 0.6 + offset), (3, 0.7 + 1.01 * offset))
    ]
    table = primary_table(measured(lines, LITE0)).splitlines()
    assert "+0.000 ± 0.000 (3 seeds) | 1.000 | no difference beyond" in table[2]
    adjusted = float(table[3].split("|")[3].replace("<", ""))
    assert adjusted <= 0.001 and "helps" in table[3]
    assert NOT_RUN in table[4]


def test_what_is_lost_is_counted_by_class_and_a_class_without_images_says_nothing():
    labels = np.array([0, 0, 0, 0])
    assert lost(np.array([0, 1, 1, 0]), labels) == {"functional": 0.5, "defective": None}
    assert class_accuracies(np.array([0, 1, 1]), np.array([0, 0, 1])) == [0.5, 1.0]


def test_a_test_that_calls_everything_defective_does_not_warn():
    assert not warns({"functional": [0.0, 0.0], "defective": [1.0, 1.0]})
    assert warns({"functional": [0.2, 0.6], "defective": [0.5, 0.5]})


def means(inputs):
    """Mean colours and contrasts, float32 (n, 6)."""
    return np.concatenate([inputs.mean((2, 3)).numpy(), inputs.std((2, 3)).numpy()], axis=1)


def test_a_judge_tells_cracked_cells_from_whole_ones(few):
    _, judged_by, test = make_task(few, seed=1)
    judge = Judge(means, judged_by)
    assert np.mean(judge.predict(test.pixels) == test.labels) > 0.9
    assert len(judge.predict(test.pixels[:0])) == 0


@pytest.mark.slow
def test_a_run_that_was_cut_off_resumes_and_its_tables_name_every_arm(few, tmp_path, monkeypatch):
    monkeypatch.setitem(runs.SALIENCY, "num_train_epochs", 1)
    given = tmp_path, MONO, few, [2], {LITE0: linear_head(lambda: means)}, (REAL, FIXED, PAPER)
    whole = accuracies(*given)
    assert [line["arm"] for line in whole] == [REAL, FIXED, PAPER]
    path = tmp_path / f"{MONO}.jsonl"
    written = path.read_text()
    path.write_text(written[: written.rindex("{") + 20])
    resumed = accuracies(*given)
    timeless = [[{**line, "seconds": 0} for line in lines] for lines in (whole, resumed)]
    assert timeless[0] == timeless[1]
    assert accuracies(*given[:-1], tuple(ARMS), deadline=0) == resumed
    told = tmp_path, MONO, few, [2], lambda: means
    assert measures(*told, deadline=0) == {}
    found = measures(*told)["2"]
    assert set(found["trust"]) == {PAPER, "judge"} and FIXED in found["labels"]
    assert found["masks"]["made"] == 0, "the cells are grey"
    assert "mirrored" not in found["masks"]
    figures = {MONO: {"lines": whole, "measures": {"2": found}, "neighbours": 0.5}}
    text = report(figures)
    assert all(f"| {arm} |" in text for arm in ARMS)
    assert all(f"| {' - '.join(pair)} |" in text for pair in PRIMARY)
    assert NOT_RUN in text


@pytest.mark.slow
def test_sources_and_labels_of_mixtures_are_those_of_the_cells(few, tmp_path):
    run = Run(tmp_path, MONO, 1, few)
    mixed = run.mixtures(EVERY)
    assert np.array_equal(mixed.labels, run.train.labels[mixed.sources])
    assert mixed.pixels.shape[1:] == (128, 128, 3)
    assert not len(run.mixtures(REAL).labels)
