"""How published Parquet files are cut: pages by content, row groups by rows, files by bytes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

from sgdmix_hub.publishing.layout import shard_features
from sgdmix_hub.publishing.parquet import CHUNKING, LARGEST_GROUP, files_of, write_parquet


def table_of(rows: int, seed: int = 0, size: int = 20_000) -> pa.Table:
    """Rows with the published columns; images are random bytes."""
    rng, schema = np.random.default_rng(seed), shard_features(["a", "b"], []).arrow_schema
    values = {
        "image": [{"bytes": rng.bytes(size), "path": f"{row}.jpeg"} for row in range(rows)],
        "prompt": [f"a photo of {row % 2}" for row in range(rows)],
    }
    columns = {name: values.get(name, np.arange(rows) % 2) for name in schema.names}
    return pa.table(columns, schema=schema)


def test_files_have_a_page_index_small_groups_and_say_how_they_are_cut(tmp_path):
    table, path = table_of(230), tmp_path / "a.parquet"
    write_parquet(path, [table], table.schema)
    file = pq.ParquetFile(path)
    assert file.read().equals(table)
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [77, 77, 76]
    assert all(
        group.column(place).has_offset_index and group.column(place).has_column_index
        for group in groups
        for place in range(1, file.metadata.num_columns)
    )
    assert json.loads(file.metadata.metadata[b"content_defined_chunking"]) == CHUNKING
    assert b"huggingface" in file.metadata.metadata
    write_parquet(tmp_path / "b.parquet", [table], table.schema)
    assert path.read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_several_tables_become_one_file_in_their_order(tmp_path):
    tables = [table_of(rows, seed) for seed, rows in enumerate((30, 128, 1))]
    write_parquet(tmp_path / "a.parquet", tables, tables[0].schema)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.read().equals(pa.concat_tables(tables))
    counts = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
    assert counts == [30, 64, 64, 1] and max(counts) <= LARGEST_GROUP


@pytest.mark.parametrize("counts", [(0, 3), (3, 0), (0, 3, 0, 2)])
def test_files_and_tables_without_rows_are_read(counts, tmp_path):
    tables = [table_of(rows, seed, size=50) for seed, rows in enumerate(counts)]
    files = [tmp_path / f"{number}.parquet" for number in range(len(tables))]
    for path, table in zip(files, tables, strict=True):
        write_parquet(path, [table], table.schema)
    write_parquet(tmp_path / "all.parquet", tables, tables[0].schema)
    for data_files in (list(map(str, files)), str(tmp_path / "all.parquet")):
        given = {"data_files": data_files, "split": "train", "cache_dir": str(tmp_path)}
        assert len(load_dataset("parquet", **given)) == sum(counts)


def test_a_changed_row_leaves_most_pages_as_they_were(tmp_path):
    """Pages are cut by content: those after a row of another length are the same again."""
    table = table_of(100)
    images = table["image"].to_pylist()
    images[10] = {"bytes": b"longer" * 5000, "path": "10.jpeg"}
    other = table.set_column(0, table.schema.field(0), pa.array(images, table.schema.field(0).type))
    for name, one in (("a", table), ("b", other)):
        write_parquet(tmp_path / name, [one], table.schema)
    first, second = ((tmp_path / name).read_bytes() for name in "ab")
    window = 200_000  # the last of the image pages, by bytes
    assert first[1_500_000 : 1_500_000 + window] in second


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40), limit=st.integers(1, 200))
def test_files_hold_whole_shards_in_order_up_to_a_number_of_bytes(sizes, limit):
    files = files_of(sizes, limit)
    assert [number for numbers in files for number in numbers] == list(range(len(sizes)))
    if sum(sizes) <= limit:
        assert all(len(numbers) == 1 for numbers in files)
        return
    for numbers, following in zip(files, [*files[1:], None], strict=True):
        held = sum(sizes[number] for number in numbers)
        assert held <= limit or len(numbers) == 1
        assert following is None or held + sizes[following[0]] > limit  # as full as can be
