"""Rows of a split that are read by need, where the dataset is: nothing of it is copied.

One pass makes an index: of a WebDataset where every field of every sample is, of Parquet files
which rows their row groups hold. It is kept, by the dataset's pin. Rows have the numbers and the
values that `datasets.load_dataset` gives them.

A field of a WebDataset costs one request. A row of a Parquet file costs its whole row group, which
stays on disk for the next ones.
"""

from __future__ import annotations

import re
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetBuilder, Features, IterableDataset
from datasets import Image as ImageFeature

from sgdmix_hub.errors import UserError, first_line, one_line, shown
from sgdmix_hub.files import write_atomically
from sgdmix_hub.hub.pins import Pin

from .caches import cache_of
from .class_names import STATED
from .row_groups import BUFFER_BYTES, LARGEST_GROUP, KeptGroups

OPEN_GROUPS = 4  # in memory if there is no room for them on disk
BATCH_ROWS = 2**14  # of the index
SMALL_FIELD = 1024  # bytes; such fields are in the index itself: labels, captions
SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # of a WebDataset: key and field
INDEX_SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("key", pa.string()),
        ("fields", pa.list_(pa.string())),
        ("starts", pa.list_(pa.int64())),
        ("sizes", pa.list_(pa.int64())),
        ("contents", pa.list_(pa.binary())),
    ]
)


class Reader(Protocol):
    """The cells of rows, by their numbers. Raises `UserError` if the place fails."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> dict[str, Any]: ...

    def column(self, name: str) -> list: ...


@dataclass(frozen=True)
class IndexedRows:
    """What `Split` needs of a `datasets.Dataset`, without its files on this machine."""

    features: Features
    reader: Reader
    builder_name: str

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.reader.row(range(len(self))[number])

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def values(self, column: str) -> list:
        """A column of labels or other small values. Raises `UserError`."""
        return self.reader.column(column)


def indexed_rows(pin: Pin, builder: DatasetBuilder, split: str) -> IndexedRows:
    """The rows of a split whose builder reads Parquet files or a WebDataset. Raises `UserError`,
    and what `datasets` raises for unreadable data.
    """
    kind = builder.name
    if kind == "cache":  # what `datasets` reads if the Hub does not answer
        raise UserError(f"{pin.name} cannot be streamed without the Hub: leave --streaming out")
    if kind not in READERS:
        raise UserError(
            f"{pin.name} is read as {shown(kind)}, and streaming reads {' and '.join(READERS)}: "
            "leave --streaming out"
        )
    files = (builder.config.data_files or {}).get(split)
    if not files:
        raise UserError(f"{pin.name} has no files of a split {shown(split)!r}: give its whole name")
    places = [str(file) for file in files]
    check_places(pin, places)
    rows = builder.as_streaming_dataset(split=split)
    assert isinstance(rows, IterableDataset)
    features = rows.features
    assert features is not None, "both kinds of files state their columns"
    return IndexedRows(features, READERS[kind](pin, builder, places, features), kind)


def check_places(pin: Pin, places: list[str]) -> None:
    """Raises `UserError` if files of a Hub dataset are not in its repository at the commit.

    Those of a local folder are checked by `loading.check_data_files`.
    """
    start = f"hf://datasets/{pin.name}@{pin.revision}/"
    strange = [place for place in places if pin.path is None and not place.startswith(start)]
    if strange:
        raise UserError(f"{pin.name} names data outside its repository, {shown(strange[0])}")


class ParquetRows:
    """The rows of Parquet files. `metadata`: of every file. `folder`: for decoded row groups.
    Threads may share it. Raises `UserError`.
    """

    def __init__(self, places: list[str], metadata: list[pq.FileMetaData], folder: Path):
        self.places, self.metadata, self.kept = places, metadata, KeptGroups(folder)
        self._groups: list[tuple[int, int]] = []  # file, and row group in it
        sizes: list[int] = []
        for file, facts in enumerate(metadata):
            for number in range(facts.num_row_groups):
                group = facts.row_group(number)
                if group.total_byte_size > LARGEST_GROUP:
                    raise UserError(
                        f"{shown(places[file])} has row groups of "
                        f"{group.total_byte_size / 1e9:.1f} GB, and a row costs a whole one: leave "
                        "--streaming out, or write the files again with smaller ones"
                    )
                self._groups.append((file, number))
                sizes.append(group.num_rows)
        self._ends = list(accumulate(sizes))
        self._group = lru_cache(OPEN_GROUPS)(self._read)
        self._locks = [Lock() for _ in self._groups]

    def __reduce__(self) -> tuple:
        """Without the groups that are open."""
        return ParquetRows, (self.places, self.metadata, self.kept.folder)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> dict[str, Any]:
        place = bisect_right(self._ends, number)
        first = self._ends[place - 1] if place else 0
        return self._group(place).slice(number - first, 1).to_pylist()[0]

    def column(self, name: str) -> list:
        values = []
        for place, facts in zip(self.places, self.metadata, strict=True):
            with _reading(place), fsspec.open(place) as file:
                values += pq.ParquetFile(file, metadata=facts).read([name])[name].to_pylist()
        return values

    def _read(self, place: int) -> pa.Table:
        with self._locks[place]:  # one thread reads it, the others find it
            found = self.kept.kept(str(place))
            return self._decoded(place) if found is None else found

    def _decoded(self, place: int) -> pa.Table:
        file, group = self._groups[place]
        with _reading(self.places[file]), fsspec.open(self.places[file]) as opened:
            facts = self.metadata[file]
            source = pq.ParquetFile(opened, metadata=facts, buffer_size=BUFFER_BYTES)
            return self.kept.keep(str(place), source, group)


def parquet_rows(
    pin: Pin, builder: DatasetBuilder, places: list[str], features: Features
) -> ParquetRows:
    metadata = []
    for place in places:
        with _reading(place), fsspec.open(place) as file:
            metadata.append(pq.read_metadata(file))
    return ParquetRows(places, metadata, cache_of("groups", pin, places))


def stated_in(rows: IndexedRows) -> dict[str, bytes | None]:
    """By place, what `datasets` wrote into the footers of Parquet files."""
    if not isinstance(rows.reader, ParquetRows):
        return {}
    read = zip(rows.reader.places, rows.reader.metadata, strict=True)
    return {place: (facts.metadata or {}).get(STATED) for place, facts in read}


class Samples:
    """The samples of a WebDataset. `decoders`: field's ending -> value of its bytes, as `datasets`
    has them.
    """

    def __init__(
        self,
        places: list[str],
        index: Path,
        features: Features,
        decoders: dict[str, Callable[[bytes], Any]],
    ):
        self.places, self.index, self.features, self.decoders = places, index, features, decoders
        with pa.ipc.open_file(pa.memory_map(str(index))) as file:
            self._table = file.read_all()  # memory-mapped

    def __reduce__(self) -> tuple:
        return Samples, (self.places, self.index, self.features, self.decoders)

    def __len__(self) -> int:
        return len(self._table)

    def row(self, number: int) -> dict[str, Any]:
        return self._cells(number, list(self.features))

    def column(self, name: str) -> list:
        return [self._cells(number, [name])[name] for number in range(len(self))]

    def _cells(self, number: int, names: list[str]) -> dict[str, Any]:
        (sample,) = self._table.slice(number, 1).to_pylist()
        place = self.places[sample["file"]]
        found = {"__key__": sample["key"], "__url__": place}
        for name in set(names) - set(found):
            if name in sample["fields"]:
                found[name] = self._value(sample, name, place)
        return {name: found.get(name) for name in names}

    def _value(self, sample: dict, name: str, place: str) -> Any:
        at = sample["fields"].index(name)
        start, size, content = (sample[column][at] for column in ("starts", "sizes", "contents"))
        with _reading(place):
            if content is None:
                files, path = fsspec.core.url_to_fs(place)
                content = files.cat_file(path, start=start, end=start + size)
            if len(content) != size:
                raise UserError(f"{shown(place)} has changed since it was indexed: run again")
            if isinstance(self.features[name], ImageFeature):
                return {"path": f"{sample['key']}.{name}", "bytes": content}
            decode = self.decoders.get(name.rpartition(".")[2].lower())
            return content if decode is None else decode(content)


def samples(pin: Pin, builder: DatasetBuilder, places: list[str], features: Features) -> Samples:
    index = cache_of("indices", pin, places).with_suffix(".arrow")
    if not index.exists():
        write_atomically(index, lambda path: write_index(path, places))
    return Samples(places, index, features, getattr(builder, "DECODERS", {}))


def write_index(path: Path, places: list[str]) -> None:
    """Writes where the fields of all samples are, in the order of the archives. Raises `UserError`
    for archives that are compressed.
    """
    with pa.ipc.new_file(str(path), INDEX_SCHEMA) as writer:
        found: list[dict] = []
        for number, place in enumerate(places):
            for sample in samples_in(place):
                found.append(sample | {"file": number})
                if len(found) == BATCH_ROWS:
                    writer.write_batch(pa.RecordBatch.from_pylist(found, schema=INDEX_SCHEMA))
                    found = []
        writer.write_batch(pa.RecordBatch.from_pylist(found, schema=INDEX_SCHEMA))


def samples_in(place: str) -> Iterator[dict]:
    """The samples of one archive: consecutive files with the same name before the first dot."""
    sample: dict[str, Any] = {}
    with _reading(place), fsspec.open(place) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            named = SAMPLE.fullmatch(member.name)
            if not member.isreg() or named is None or _is_hidden(member.name):
                continue
            key, name = named.groups()
            if sample and sample["key"] != key:
                yield sample
                sample = {}
            sample = sample or {"key": key, "fields": [], "starts": [], "sizes": [], "contents": []}
            content = tar.extractfile(member) if member.size <= SMALL_FIELD else None
            sample["fields"].append(name)
            sample["starts"].append(member.offset_data)
            sample["sizes"].append(member.size)
            sample["contents"].append(None if content is None else content.read())
            vars(tar)["members"].clear()  # it would grow with the archive
    if sample:
        yield sample


def _is_hidden(name: str) -> bool:
    """Whether `datasets` leaves out a file of an archive."""
    return name.rpartition("/")[2].startswith((".", "__"))


@contextmanager
def _reading(place: str) -> Generator[None, None, None]:
    """Turns whatever a place raises into `UserError`: a lost connection is not a row's fault."""
    try:
        yield
    except (OSError, ValueError, tarfile.TarError, pa.ArrowException) as error:
        raise UserError(
            f"{shown(place)} cannot be streamed ({one_line(first_line(error))}): run the same "
            "command again, it continues where it stopped, or leave --streaming out"
        ) from error


READERS: dict[str, Callable[[Pin, DatasetBuilder, list[str], Features], Reader]] = {
    "parquet": parquet_rows,
    "webdataset": samples,
}
