"""The tasks on photographs, in small: made-up objects and grounds, no pretrained network."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cv2 import erode
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.photograph_shift import arms, classifiers, refined, task
from parts.photograph_shift.arms import ARMS, NOW, REAL, SEGMENTER, TRUE, VARIANTS
from parts.photograph_shift.classifiers import LITE0, SCRATCH, from_scratch, linear_head
from parts.photograph_shift.refined import BACKGROUND, ROUND_TRIP, WHOLE, draw_sheet
from parts.photograph_shift.tables import PRIMARY, tables
from parts.photograph_shift.task import FEW_SHOT, SHIFT, TASKS, make_task, write_domain
from photograph_shift import arm_mixtures, run

from sgdmix_hub.demo.train_tiny_base import TINY_BASE


@pytest.fixture(params=[SHIFT])
def domain(monkeypatch, request):
    """A task of two classes with two training images; three objects, five places."""
    for name, value in {"CLASSES": 2, "STRAYS": 1}.items():
        monkeypatch.setattr(task, name, value)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :120]
    inside = ((x - 60) / 60) ** 2 + ((y - 40) / 40) ** 2 < 1
    objects = {
        name: np.dstack([np.tile(np.uint8(color), (80, 120, 1)), np.uint8(255 * inside)])
        for name, color in {"a": (220, 40, 40), "b": (40, 200, 60), "c": (30, 60, 220)}.items()
    }
    grounds = {
        f"place {number}": [rng.integers(90, 160, (300, 400, 3), np.uint8)] for number in range(5)
    }
    return replace(TASKS[request.param], train=2), objects, grounds


def means(images):
    """Mean colours, float (n, 3)."""
    return images.mean((2, 3)).numpy()


@pytest.mark.slow
def test_a_run_that_was_cut_off_resumes_and_its_tables_name_every_arm(domain, tmp_path):
    write_domain(tmp_path / "domain", [1], *domain)
    meta = json.loads((tmp_path / "domain/meta.json").read_text())
    for row in meta:
        mask = Image.fromarray(make_task(1, *domain)[1].masks[row["index"]])
        mask.convert("L").save(tmp_path / f"{row['set']}_{row['index']:03d}.png")
    two = {LITE0: linear_head(lambda: means), SCRATCH: from_scratch(2, batch=4)}
    given = [1], list(ARMS), tmp_path / "lines.jsonl", *domain, tmp_path, two
    whole = run(*given, test=2)
    assert len(whole) == len(ARMS) * len(two)
    written = given[2].read_text()
    given[2].write_text(written[: written.rindex("{") + 20])
    resumed = run(*given, test=2)
    timeless = [[{**line, "seconds": 0} for line in lines] for lines in (whole, resumed)]
    assert timeless[0] == timeless[1]
    by_arm = {line["arm"]: line for line in whole}
    assert by_arm[TRUE]["iou"] == by_arm[SEGMENTER]["iou"] == 1 and "iou" not in by_arm[REAL]
    assert all(f"| {name} | {arm} |" in tables(whole) for name in two for arm in ARMS)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [FEW_SHOT], indirect=True)
def test_few_shot_runs_and_its_primary_comparisons_are_adjusted_together(domain, tmp_path):
    classifier = {LITE0: linear_head(lambda: means)}
    lines = tmp_path / "lines.jsonl"
    ran = run([1], [REAL, TRUE], lines, *domain, None, classifier, test=2)
    assert [line["arm"] for line in ran] == [REAL, TRUE]
    gains = {REAL: [0, 0, 0], NOW: [0.1, 0.3, 0.2], TRUE: [0, 0, 0], BACKGROUND: [-0.1, 0, 0]}
    figures = [
        {**ran[0], "arm": arm, "seed": seed, "accuracy": [0.5 + gain] * 2}
        for arm, values in gains.items()
        for seed, gain in enumerate(values)
    ]
    text = tables(figures, PRIMARY[FEW_SHOT])
    assert f"| {NOW} - {REAL} | +0.200 ± 0.248 (p = 0.074) | 0.148 |" in text
    assert f"| {BACKGROUND} - {TRUE} | -0.033 ± 0.143 (p = 0.423) | 0.423 |" in text


@pytest.mark.slow
def test_arms_with_a_base_keep_what_they_say_and_both_classifiers_see_the_same(
    domain, tmp_path, monkeypatch
):
    for module in (arms, classifiers, refined):
        monkeypatch.setattr(module, "RESOLUTION", 32)
    names, train, _ = make_task(1, *domain, test=1)
    given = 1, train, names, None, TINY_BASE
    mixed, background, whole, returned = (
        arm_mixtures(arm, *given) for arm in (TRUE, BACKGROUND, WHOLE, ROUND_TRIP)
    )
    assert all(np.array_equal(arm[1], mixed[1]) for arm in (background, whole))
    inside = [erode(mask.astype(np.uint8), np.ones((49, 49)))[4::8, 4::8] for mask in train.masks]
    inside = np.stack(inside)[mixed[1]] > 0
    change = [np.abs(arm[0].astype(int) - mixed[0]).mean(-1) for arm in (background, whole)]
    assert change[0][inside].mean() < 1 < change[1][inside].mean() and change[0].mean() > 1
    assert len(returned[0]) == len(train.labels) * VARIANTS
    two = {LITE0: linear_head(lambda: means), SCRATCH: from_scratch(2, batch=4)}
    lines = tmp_path / "lines.jsonl"
    run([1], [BACKGROUND], lines, *domain, None, two, test=2, base=TINY_BASE)
    (kept,) = (tmp_path / "lines").iterdir()
    assert np.array_equal(np.load(kept)["images"], background[0])
    sheet = np.asarray(draw_sheet(train, {TRUE: mixed, BACKGROUND: background}))
    assert sheet.shape[1] > 3 * 32 and sheet.std() > 10


def test_training_images_do_not_depend_on_the_number_of_test_images(domain):
    few, many = (make_task(3, *domain, test=test) for test in (1, 4))
    assert few[0] == many[0] and np.array_equal(few[1].pixels, many[1].pixels)
    assert len(many[2].labels) == 8


def test_tasks_share_classes_and_test_images_and_differ_in_the_ties_of_training(domain):
    _, objects, grounds = domain
    names, shift, tested = make_task(3, TASKS[SHIFT], objects, grounds, test=1)
    same_names, few, same_tested = make_task(3, TASKS[FEW_SHOT], objects, grounds, test=1)
    assert names == same_names and np.array_equal(tested.pixels, same_tested.pixels)
    assert [list(np.bincount(images.labels)) for images in (shift, few)] == [[8, 8], [4, 4]]
    labels, rng = np.repeat([0, 1], 100), np.random.default_rng(0)
    assert (TASKS[SHIFT].places(labels, rng) != labels).sum() == 1
    assert 70 < (TASKS[FEW_SHOT].places(labels, rng) != labels).sum() < 130
