"""Background shift on photographs, in small: made-up objects and grounds, no pretrained network."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parts.photograph_shift import task
from parts.photograph_shift.arms import ARMS, REAL, SEGMENTER, TRUE
from parts.photograph_shift.classifiers import LITE0, SCRATCH, from_scratch, linear_head
from parts.photograph_shift.tables import tables
from parts.photograph_shift.task import make_task, write_domain
from photograph_shift import run


@pytest.fixture
def domain(monkeypatch):
    """Three objects and five places, for tasks of two classes with two training images."""
    for name, value in {"CLASSES": 2, "TRAIN": 2, "STRAYS": 1}.items():
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
    return objects, grounds


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
    classifiers = {LITE0: linear_head(lambda: means), SCRATCH: from_scratch(2, batch=4)}
    given = [1], list(ARMS), tmp_path / "lines.jsonl", *domain, tmp_path, classifiers
    whole = run(*given, test=2)
    assert len(whole) == len(ARMS) * len(classifiers)
    written = given[2].read_text()
    given[2].write_text(written[: written.rindex("{") + 20])
    resumed = run(*given, test=2)
    timeless = [[{**line, "seconds": 0} for line in lines] for lines in (whole, resumed)]
    assert timeless[0] == timeless[1]
    by_arm = {line["arm"]: line for line in whole}
    assert by_arm[TRUE]["iou"] == by_arm[SEGMENTER]["iou"] == 1 and "iou" not in by_arm[REAL]
    assert all(f"| {name} | {arm} |" in tables(whole) for name in classifiers for arm in ARMS)


def test_training_images_do_not_depend_on_the_number_of_test_images(domain):
    few, many = (make_task(3, *domain, test=test) for test in (1, 4))
    assert few[0] == many[0] and np.array_equal(few[1].pixels, many[1].pixels)
    assert len(many[2].labels) == 8
