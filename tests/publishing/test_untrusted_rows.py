"""Published rows that no generation makes are refused, even with matching checksums."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from untrusted import refused

from sgdmix_hub.files import file_sha256, write_sealed
from sgdmix_hub.publishing.read import load_published

MANIFEST = "sgdmix/default/manifest.json"


@pytest.fixture(scope="module")
def repo(first_version) -> Path:
    return first_version / "repo"


@pytest.fixture
def copy(repo, tmp_path) -> Path:
    """A publication that a test may change."""
    return shutil.copytree(repo, tmp_path / "copy")


def with_shards(folder: Path, change, **values) -> Path:
    """Replaces tables of a publication and their checksums, as its owner can."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for path in sorted((folder / "data").glob("train-*")):
        table = change(pq.read_table(path))
        pq.write_table(table, path)
        manifest["files"][path.relative_to(folder).as_posix()] = {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
        }
    write_sealed(folder / MANIFEST, manifest | values)
    return folder


def column(name, value):
    """Every value of a column replaced by one."""

    def change(table):
        field = table.schema.field(name)
        return table.set_column(
            table.column_names.index(name), field, pa.array([value] * len(table), field.type)
        )

    return change


ROWS = {
    "an image that is a path": (
        column("image", {"bytes": None, "path": "/home/ada/private.png"}),
        "without image bytes",
    ),
    "no image": (column("image", None), "without image bytes"),
    "a mask that is a path": (
        column("mask", {"bytes": None, "path": "/home/ada/private.png"}),
        "without image bytes",
    ),
    "no mask": (column("mask", None), "without image bytes"),
    "images in a list, which the reader would open": (
        lambda table: table.append_column(
            "more", pa.array([[{"path": "/home/ada/x.png"}]] * len(table))
        ),
        "a column more that sgdmix_hub does not publish",
    ),
    "a label beyond the classes": (column("label", 3), "column label"),
    "a label below them": (column("label", -2), "column label"),
    "no label": (column("label", None), "column label"),
    "a source below zero": (column("source_index", -1), "column source_index"),
    "no source": (column("source_index", None), "column source_index"),
    "a strength that is none": (column("strength", float("nan")), "column strength"),
    "a strength beyond 1": (column("strength", 1e9), "column strength"),
    "no strength": (column("strength", None), "column strength"),
    "no column for images": (
        lambda table: table.drop_columns("image"),
        "no columns image and label",
    ),
    "no column for sources": (
        lambda table: table.drop_columns("source_index"),
        "no column source_index",
    ),
    "fewer rows": (lambda table: table.slice(1), "its manifest says 12"),
    "rows twice": (lambda table: pa.concat_tables([table, table]), "its manifest says 12"),
}


@pytest.mark.parametrize("attack", ROWS)
def test_rows_that_no_generation_publishes_are_refused_though_their_checksums_are_right(
    attack, copy
):
    change, words = ROWS[attack]
    with_shards(copy, lambda table: change(table).replace_schema_metadata(table.schema.metadata))
    assert words in refused(load_published, str(copy))


def test_a_manifest_that_lists_some_of_the_shards_gives_no_part_of_the_rows(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["files"]["data/train-00001-of-00003.parquet"]
    write_sealed(copy / MANIFEST, manifest)
    assert "data/train-00001-of-00003.parquet not in its manifest" in refused(
        load_published, str(copy)
    )


def test_a_shard_that_the_manifest_does_not_list_is_no_part_of_the_version(copy):
    shutil.copy(
        copy / "data/train-00000-of-00003.parquet", copy / "data/train-00003-of-00003.parquet"
    )
    assert "not in its manifest" in refused(load_published, str(copy))


def test_a_version_without_rows_is_told(copy):
    with_shards(copy, lambda table: table.slice(0, 0), rows=0)
    assert "has no rows" in refused(load_published, str(copy))


def test_a_folder_may_have_any_name(repo, tmp_path):
    for name in ("[glob]*?", "a[1]", "**", "ü {x}"):
        folder = shutil.copytree(repo, tmp_path / name / "repo")
        assert len(load_published(str(folder)).rows) == 12


def test_published_images_are_read_from_the_rows_alone(copy):
    rows = load_published(str(copy))
    rows.rows = rows.rows.select(range(1)).map(
        lambda row: {"image": {"bytes": None, "path": __file__}}
    )
    with pytest.raises(Exception, match="no image"):
        rows.image(0)
