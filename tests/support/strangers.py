"""Outputs of generations as a stranger would change them."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq


def unfinished(output, folder):
    """A copy of an output folder without its repository, as of a run that is not finished."""
    copy = shutil.copytree(output, folder)
    shutil.rmtree(copy / "repo")
    return copy


def add_column(output, name):
    """Adds a column of numbers to every shard of an unfinished output."""
    for path in (output / "state" / "shards").glob("*.parquet"):
        table = pq.read_table(path)
        info = table.schema.metadata[b"huggingface"].decode()
        more = f'"features": {{"{name}": {{"dtype": "float64", "_type": "Value"}}, '
        table = table.append_column(name, pa.array([0.5] * len(table)))
        info = info.replace('"features": {', more, 1)
        pq.write_table(table.replace_schema_metadata({"huggingface": info}), path)
