"""The record of a training: whole lines that a training which goes on takes back, and a curve that
keeps what it averages.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sgdmix_hub.errors import UserError
from sgdmix_hub.figures.plots import CURVE_POINTS, draw_curve
from sgdmix_hub.training.log import TrainingLog, check_tracker

losses = st.floats(0, 1e6, allow_nan=False)
steps = st.lists(st.integers(1, 10**6), unique=True, max_size=30).map(sorted)


def written(folder, records) -> TrainingLog:
    log = TrainingLog(folder / "log.jsonl")
    log.rewind(0)
    for record in records:
        log.append(record)
    return log


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


@given(steps=steps, to=st.integers(0, 10**6), loss=losses)
def test_rewinding_leaves_the_lines_up_to_a_step(folder, steps, to, loss):
    records = [{"step": step, "loss": loss, "lr": 0.1} for step in steps]
    log = written(folder, records)
    assert log.records() == records
    log.rewind(to)
    assert log.records() == [record for record in records if record["step"] <= to]
    log.rewind(to)
    log.append({"step": to + 1, "loss": 0.5})
    assert log.records()[-1] == {"step": to + 1, "loss": 0.5}
    assert log.path.read_bytes().endswith(b"\n")
    assert not [path for path in folder.iterdir() if path != log.path]


@given(steps=steps.filter(bool), data=st.data())
def test_a_line_that_a_kill_cut_off_does_not_count(folder, steps, data):
    """Wherever it was cut: a training that goes on writes its own line there, not behind half of
    another.
    """
    log = written(folder, [{"step": step, "loss": 0.25} for step in steps])
    content = log.path.read_bytes()
    last_line = len(content.splitlines(keepends=True)[-1])
    log.path.write_bytes(content[: len(content) - data.draw(st.integers(1, last_line))])
    assert [record["step"] for record in log.records()] == steps[:-1]
    log.rewind(steps[-1])
    log.append({"step": steps[-1], "loss": 0.25})
    assert log.path.read_bytes() == content


def test_a_log_that_was_never_written_is_empty(tmp_path):
    log = TrainingLog(tmp_path / "state" / "log.jsonl")
    assert log.records() == [] and log.curve() == []
    log.rewind(10)
    log.append({"step": 11, "loss": 1.0})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [11]


@given(values=st.lists(losses, max_size=450), every=st.integers(1, 50))
def test_the_curve_keeps_the_mean_in_a_hundred_points_at_most(folder, values, every):
    """Each point is the mean of as many lines, the last one of the rest; records without a loss are
    no points.
    """
    log = TrainingLog(folder / "curve.jsonl")
    records = [{"step": (number + 1) * every, "loss": value} for number, value in enumerate(values)]
    others = [{"step": len(values) * every, "metric": 1.0}]
    log.path.write_text("".join(json.dumps(record) + "\n" for record in records + others))
    curve = log.curve()
    assert len(curve) <= CURVE_POINTS == 100
    if len(values) <= CURVE_POINTS:
        assert [step for step, _ in curve] == [record["step"] for record in records]
    else:
        assert len(curve) > CURVE_POINTS // 2
    ends = [0] + [step // every for step, _ in curve]
    counts = np.diff(ends)
    assert ends[-1] == len(values) and len(set(counts[:-1])) <= 1
    kept = sum(count * value for count, (_, value) in zip(counts, curve, strict=True))
    assert kept == pytest.approx(sum(values), rel=1e-9, abs=1e-5 * len(values))


@pytest.mark.parametrize("points", [0, 1, 2, 100])
def test_a_curve_of_any_length_is_drawn(points, tmp_path):
    path = tmp_path / "assets" / "loss.png"
    draw_curve([[10 * number, 1 / (number + 1)] for number in range(points)], path)
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_trackers_that_are_there_are_accepted():
    for tracker in ("none", "tensorboard"):
        check_tracker(tracker)
    with pytest.raises(UserError, match="pip install no_such_tracker"):
        check_tracker("no_such_tracker")
