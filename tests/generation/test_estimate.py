"""Dry runs: what they tell, and that they make nothing."""

import shutil

import pyarrow as pa
import pytest
from generations import arguments, digests, one_line, published_rows, records, run_script, snapshot

from sgdmix_hub.generation.dry_run import untrusted_text
from sgdmix_hub.settings.generation import AugmentSettings


@pytest.mark.slow
def test_a_dry_run_tells_and_makes_nothing(generation_settings, finished_generation, tmp_path):
    output = tmp_path / "run"
    mine = generation_settings | {"output_dir": output}
    told = run_script([*arguments(mine), "--dry_run", "--price_per_hour=36"], tmp_path / "logs")
    assert told.returncode == 0, told.stderr
    lines = dict(line.split(None, 1) for line in told.stdout.splitlines() if line)
    assert lines["rows"] == "48 in 8 shards of 6"
    assert lines["to"] == "make     48 rows in 8 shards; 0 shards are finished"
    assert lines["skipped"] == "by the plan: none; of 8 rows tried: 0"
    assert "images/s per process" in lines["speed"] and "accelerator-hours" in lines["time"]
    images = [
        cell
        for row in published_rows(finished_generation)
        for cell in row.values()
        if isinstance(cell, dict)
    ]
    kilobytes = sum(len(image["bytes"]) for image in images) / 48e3
    assert float(lines["size"].split("GB, ")[1].split()[0]) == pytest.approx(kilobytes, rel=0.2)
    files = "8 shards of the dataset, published in one commit; 16 in state/ meanwhile"
    assert lines["files"] == files
    assert lines["price"].endswith(", at 36 an accelerator-hour")
    assert not (output / "repo").exists()
    assert not (output / "state" / "plan.parquet").exists()
    assert not records(output)
    # other settings may follow, and the maps are not made again
    maps = [path.stat().st_mtime_ns for path in (output / "state" / "saliency").rglob("values.npy")]
    ended = run_script(arguments(mine), tmp_path / "logs")
    assert ended.returncode == 0
    assert digests(output / "repo") == digests(finished_generation / "repo")
    assert maps == [
        path.stat().st_mtime_ns for path in (output / "state" / "saliency").rglob("values.npy")
    ]


@pytest.mark.slow
def test_a_dry_run_of_a_run_that_has_begun_tells_what_is_left(
    generation_settings, finished_generation, tmp_path
):
    output = tmp_path / "run"
    shutil.copytree(finished_generation, output)
    shutil.rmtree(output / "repo")
    for number in range(3):
        (output / "state" / "shards" / f"shard-{number:05d}.json").unlink()
    before = snapshot(output)
    told = run_script(
        [*arguments(generation_settings | {"output_dir": output}), "--dry_run"], tmp_path / "logs"
    )
    assert told.returncode == 0
    assert "make     18 rows in 3 shards; 5 shards are finished" in told.stdout
    assert snapshot(output) == before
    refused = run_script(
        [
            *arguments(generation_settings | {"output_dir": output, "num_candidates": 7}),
            "--dry_run",
        ],
        tmp_path / "logs",
    )
    one_line(refused, "num_candidates 50 -> 7")


@pytest.mark.parametrize(
    "values, told",
    [
        ({"segmenter": "org/sam"}, "2 of 4 rows (50.0%) have no trusted mask: skip"),
        (
            {"low_confidence": "keep-unmixed"},
            "2 of 4 rows (50.0%) have no trusted mask: keep-unmixed",
        ),
        (
            {"saliency_method": "minimum-barrier"},
            "minimum-barrier states no confidence: every mask is used",
        ),
        (
            {"mask_column": "alpha"},
            "mask-column states no confidence: every mask is used "
            "(soft masks that a model made: give --saliency_method predicted-column)",
        ),
    ],
)
def test_rows_without_a_trusted_mask_are_counted(values, told):
    """One that is left out, one that keeps its source, and one with another fault."""
    settings = AugmentSettings(dataset_name="org/birds", output_dir="run", strength=0.0, **values)
    plan = pa.table(
        {
            "source_index": [0, 1, 2, 3],
            "target_index": [-1, 1, -1, 0],
            "skip": ["mask confidence 0.00: no bird found", None, "no candidate", None],
        }
    )
    assert untrusted_text(plan, settings) == told
