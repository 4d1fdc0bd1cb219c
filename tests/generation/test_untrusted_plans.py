"""Published plans that the settings cannot lead to are refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from untrusted import refused

from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.rerun import check_plan
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

PLAN = "sgdmix/default/plan.parquet"
CONFIG = "sgdmix/default/config.yaml"


@pytest.fixture(scope="module")
def repo(first_version) -> Path:
    return first_version / "repo"


def cells(name, value, row=0):
    """A plan with another value in one row."""

    def change(plan):
        values = plan[name].to_pylist()
        values[row] = value
        return plan.set_column(
            plan.column_names.index(name),
            plan.schema.field(name),
            pa.array(values, plan.schema.field(name).type),
        )

    return change


PLANS = {
    "a source below zero": cells("source_index", -1),
    "a source twice": cells("source_index", 1),
    "a source of another subset": cells("source_index", 12),
    "a variant": cells("variant", 7),
    "a target below zero": cells("target_index", -1),
    "a target beyond the split": cells("target_index", 12),
    "a target far beyond": cells("target_index", 2**62),
    "itself as target": cells("target_index", 0),
    "no target": cells("target_index", None),
    "a seed twice": lambda plan: cells("seed", plan["seed"][1].as_py())(plan),
    "a seed below zero": cells("seed", -5),
    "a strength": cells("strength", 1.0),
    "a strength that is none": cells("strength", float("nan")),
    "a distance that is none": cells("saliency_distance", float("nan")),
    "a distance below zero": cells("saliency_distance", -1.0),
    "a prompt below the first": cells("prompt", -1),
    "a prompt after the last": cells("prompt", 1),
    "a reason of control characters": lambda plan: cells("target_index", -1)(
        cells("skip", "\x1b[2J")(plan)
    ),
    "a long reason": lambda plan: cells("target_index", -1)(cells("skip", "x" * 100_000)(plan)),
    "a reason beside a target": cells("skip", "no candidate"),
    "a row twice": lambda plan: pa.concat_tables([plan, plan.slice(0, 1)]),
    "a row less": lambda plan: plan.slice(1),
    "other columns": lambda plan: plan.drop_columns("skip"),
    "other types": lambda plan: plan.set_column(
        0, "source_index", plan["source_index"].cast(pa.int32())
    ),
    "another order": lambda plan: plan.take(list(reversed(range(len(plan))))),
    "none": lambda plan: plan.slice(0, 0),
}


@pytest.fixture(scope="module")
def planned(first_version, evil_source):
    """The settings and the split that the plan of `first_version` is of."""
    from sgdmix_hub.data.splits import load_split

    settings = parse_settings(
        AugmentSettings,
        [
            "--config",
            str(first_version / "repo" / CONFIG),
            f"--dataset_name={evil_source}",
            "--output_dir=out",
        ],
    )
    return settings, load_split(settings, resolve(str(evil_source), "dataset"))


@pytest.mark.parametrize("attack", PLANS)
def test_a_plan_that_these_settings_cannot_have_is_refused(attack, planned, repo, tmp_path):
    settings, split = planned
    pq.write_table(PLANS[attack](pq.read_table(repo / PLAN)), tmp_path / "plan.parquet")
    assert "plan.parquet" in refused(check_plan, tmp_path / "plan.parquet", settings, split)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\xff" * 1000])
def test_a_plan_that_is_no_parquet_file_is_refused(content, planned, tmp_path):
    (tmp_path / "plan.parquet").write_bytes(content)
    assert "plan.parquet" in refused(check_plan, tmp_path / "plan.parquet", *planned)


def test_a_plan_with_any_bit_flipped_is_read_or_refused(planned, repo, tmp_path):
    """Never a traceback of Arrow's: what its numbers mean is the manifest's checksum to keep."""
    whole, random = (repo / PLAN).read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[random.integers(len(whole))] ^= 1 << random.integers(8)
        (tmp_path / "plan.parquet").write_bytes(content)
        try:
            check_plan(tmp_path / "plan.parquet", *planned)
        except UserError as error:
            assert str(error).isprintable()


def test_a_plan_whose_targets_are_of_forbidden_classes_is_refused(planned, repo):
    settings, split = planned
    check_plan(repo / PLAN, settings, split)
    for classes in ("other", "same"):
        assert "another subset" in refused(
            check_plan, repo / PLAN, dataclasses.replace(settings, target_classes=classes), split
        )


def test_a_plan_whose_targets_are_outside_the_subset_is_refused(planned, repo, tmp_path):
    """They would leak other rows into a few-shot set."""
    settings, split = planned
    few = dataclasses.replace(split, subset=split.subset[:6])
    plan = pq.read_table(repo / PLAN).slice(0, 6)
    inside = np.array([(row + 1) % 6 for row in range(6)])
    for targets, fits in ((inside, True), (inside + 6, False)):
        pq.write_table(
            plan.set_column(2, "target_index", pa.array(targets)), tmp_path / "plan.parquet"
        )
        if fits:
            check_plan(tmp_path / "plan.parquet", settings, few)
        else:
            refused(check_plan, tmp_path / "plan.parquet", settings, few)
