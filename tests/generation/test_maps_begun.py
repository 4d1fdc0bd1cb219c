"""A dry run whose maps would take longer than it waits: it extrapolates, and says so."""

import shutil

import pyarrow.parquet as pq
import pytest
from generations import digests, snapshot, tiny_run
from rowstores import many_rows

from sgdmix_hub import augment
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.generation import dry_run as dry_runs
from sgdmix_hub.generation import maps_begun, row_blocks
from sgdmix_hub.generation.maps_begun import MapsBegun
from sgdmix_hub.generation.row_store import BegunRows
from sgdmix_hub.settings.generation import AugmentSettings

BLOCKS, BLOCK_ROWS, BLANK = 6, 32, 12


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for module in (row_blocks, dry_runs):
        monkeypatch.setattr(module, "BLOCK_ROWS", BLOCK_ROWS)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Six blocks of images, of which 12 cannot be decoded."""
    folder = tmp_path_factory.mktemp("begun")
    run = tiny_run(folder / "birds", rows_per_shard=32)
    birds = make_dataset(4, 2, 1, 1, seed=0, resolution=32)
    rows = [{"image": row["image"], "label": row["label"]} for row in stored(birds, folder)]
    count = BLOCK_ROWS * (BLOCKS - 1) + 30
    many_rows(folder / "many", rows, count, damaged=list(range(0, count, count // BLANK))[:BLANK])
    # `paper` cuts masks without GrabCut, which would take a minute
    cheap = {"preset": "paper", "num_variants": 1, "max_skipped": 0.1}
    return run | cheap | {"dataset_name": str(folder / "many")}


def stored(dataset, folder):
    """The training rows, with images as bytes."""
    save_dataset(dataset, folder / "stored")
    (path,) = (folder / "stored").rglob("train-*.parquet")
    return pq.read_table(path).to_pylist()


def dry_run(settings, output, capsys, **more) -> dict[str, str]:
    """What a dry run tells, by the first word of each line."""
    capsys.readouterr()
    augment.main(
        AugmentSettings(**settings | more, output_dir=str(output), dry_run=True, price_per_hour=2.0)
    )
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines() if " " in line]
    return {word: rest.strip() for word, rest in lines}


@pytest.mark.slow
def test_a_dry_run_makes_a_few_maps_extrapolates_and_keeps_them(
    settings, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "run"
    monkeypatch.setattr(maps_begun, "SECONDS", 0.0)
    told = dry_run(settings, output, capsys)
    rows = BLOCK_ROWS * (BLOCKS - 1) + 30
    planned = f"{rows:,} in {-(-rows // 32)} shards of 32"
    assert told["rows"] == f"{planned}, if every image has a usable map"
    assert told["maps"].startswith(f"2 of {BLOCKS} blocks of {BLOCK_ROWS} images are made and kept")
    assert "in the sample: " in told["skipped"] and "cannot" in told["skipped"]
    assert "with the maps" in told["time"] and "extrapolated" in told["sample"]
    markers = {path.name for path in output.rglob("block-*.json")}
    assert len(markers) == 2 and not list(output.rglob("*.parquet"))
    # another one makes two more, of those that are missing; then the rest, and counts exactly
    told = dry_run(settings, output, capsys, num_variants=2)
    assert told["maps"].startswith(f"4 of {BLOCKS}")
    assert markers < {path.name for path in output.rglob("block-*.json")}
    told = dry_run(settings, output, capsys)
    assert told["rows"] == planned and "sample" not in told
    assert told["skipped"].startswith(f"by the plan: {BLANK} x")
    # the run uses these maps
    before = {path: path.stat().st_mtime_ns for path in output.rglob("values.npy")}
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    alone = tmp_path / "alone"
    augment.main(AugmentSettings(**settings, output_dir=str(alone)))
    assert digests(output / "repo") == digests(alone / "repo")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"images_per_class": 70, "num_variants": 0},
        {"selection_method": "novel-background", "target_classes": "same", "max_target_reuse": 1},
        {"excluded_rows": [1, 2, 3]},
    ],
    ids=lambda more: next(iter(more)),
)
def test_rows_are_counted_as_the_plan_will_count_them(
    settings, tmp_path, capsys, monkeypatch, more
):
    """If every image has a map: here all but 12, whose rows the plan names."""
    output = tmp_path / "run"
    monkeypatch.setattr(maps_begun, "SECONDS", 0.0)
    sampled = dry_run(settings, output, capsys, **more)
    monkeypatch.setattr(maps_begun, "SECONDS", 1000.0)
    whole = dry_run(settings, output, capsys, **more)
    lines = (told["rows"] for told in (sampled, whole))
    count = [int(line.partition(" ")[0].replace(",", "")) for line in lines]
    assert "sample" in sampled and "sample" not in whole
    assert count[0] == pytest.approx(count[1], abs=BLANK if "images_per_class" in more else 0)


@pytest.mark.slow
def test_a_run_with_a_plan_is_counted_exactly(settings, tmp_path, capsys, monkeypatch):
    output = tmp_path / "run"
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    shutil.rmtree(output / "repo")
    before = snapshot(output)
    monkeypatch.setattr(maps_begun, "SECONDS", 0.0)
    told = dry_run(settings, output, capsys)
    assert told["to"].startswith("make     0 rows in 0 shards") and "sample" not in told
    assert snapshot(output) == before


def test_the_time_of_the_maps_is_that_of_the_missing_blocks(tmp_path):
    parts = [BegunRows(None, 3, 10_157, 4.0), BegunRows(None, 2, 12, 1.0)]
    begun = MapsBegun(None, 0, None, parts)
    assert begun.seconds == (10_157 - 3) * 4.0 + 10
