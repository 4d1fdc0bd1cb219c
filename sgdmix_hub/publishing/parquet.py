"""Writes the Parquet files of a published dataset, and decides which shards share one.

Pages are cut where the content says (content-defined chunking), so that a version that differs in a
few rows shares most bytes with the one before: the Hub stores and sends only the others. A page
index and small row groups let the Hub's viewer read a few rows without the rest of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# as `datasets` writes it, under the same key of the file's metadata
CHUNKING_KEY = b"content_defined_chunking"
CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
LARGEST_GROUP = 100  # rows of a row group
FILE_BYTES = 500_000_000  # of a published file, about
MOST_FILES = 10_000  # in one folder, as the Hub recommends


def write_parquet(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Writes tables one after the other, in row groups of nearly equal size.

    A table without rows has no row group: `datasets` cannot read an empty one. Only one table is in
    memory. Images are neither dictionary-encoded, since no two are equal, nor compressed: their
    formats are. So an image is the same bytes in every file that holds it.
    """
    images = [field.name for field in schema if pa.types.is_struct(field.type)]
    plain = [name for name in schema.names if name not in images]
    compression = dict.fromkeys(plain, "snappy")
    for name in images:
        compression |= {f"{name}.bytes": "none", f"{name}.path": "snappy"}
    kept = {name: value for name, value in (schema.metadata or {}).items() if name != CHUNKING_KEY}
    with pq.ParquetWriter(
        path,
        schema.with_metadata(kept),
        use_dictionary=plain,
        compression=compression,
        use_content_defined_chunking=CHUNKING,
        write_page_index=True,
    ) as writer:
        for table in tables:
            if len(table):
                groups = -(-len(table) // LARGEST_GROUP)
                writer.write_table(table, row_group_size=-(-len(table) // groups))
        writer.add_key_value_metadata({CHUNKING_KEY: json.dumps(CHUNKING)})


def files_of(
    shard_bytes: list[int], file_bytes: int = FILE_BYTES, most_files: int = MOST_FILES
) -> list[range]:
    """Which consecutive shards each published file holds: a function of their sizes alone.

    A dataset of at most `file_bytes` and `most_files` shards keeps one file a shard. A larger one
    has files of as many shards as `file_bytes` holds, at least one; of more where there would be
    more than `most_files`.
    """
    numbers, total = range(len(shard_bytes)), sum(shard_bytes)
    if total <= file_bytes and len(numbers) <= most_files:
        return [range(number, number + 1) for number in numbers]
    files = _filled(shard_bytes, file_bytes)
    while len(files) > most_files:
        file_bytes *= 2
        files = _filled(shard_bytes, file_bytes)
    return files


def _filled(shard_bytes: list[int], file_bytes: int) -> list[range]:
    numbers = range(len(shard_bytes))
    files, first, held = [], 0, 0
    for number in numbers:
        if number > first and held + shard_bytes[number] > file_bytes:
            files.append(range(first, number))
            first, held = number, 0
        held += shard_bytes[number]
    return [*files, range(first, len(shard_bytes))]
