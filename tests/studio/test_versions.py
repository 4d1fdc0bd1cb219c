"""Versions read by need: finished, on their way, compared with others, or made by a stranger."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generations import pixels_of, published_rows
from hypothesis import given
from hypothesis import strategies as st

from sgdmix_hub.errors import Unusable, UserError
from sgdmix_hub.studio.originals import Originals
from sgdmix_hub.studio.places import Place, place_of
from sgdmix_hub.studio.selection import Selection, selected_positions
from sgdmix_hub.studio.shard_files import LocalFile
from sgdmix_hub.studio.version_rows import DAMAGED, KEY, VersionRows

NUMBERS = st.floats(0, 1, width=32) | st.just(float("nan"))


def key(rows, position):
    return tuple(int(rows.columns[name][position]) for name in KEY)


def test_every_row_is_read_as_it_was_published(first_version):
    rows = VersionRows(place_of(str(first_version), "default"))
    published = published_rows(first_version)
    assert len(rows) == len(published) == 12
    found = rows.read(range(11, -1, -1))
    for position, row in enumerate(published):
        assert key(rows, position) == (row["source_index"], row["variant"])
        assert rows.position_of(key(rows, position)) == position
        np.testing.assert_array_equal(np.asarray(found[position]["image"]), pixels_of(row))
        for name in rows.numbers:
            value = row[name]
            assert found[position][name] == value
            assert value is None or rows.columns[name][position] == value
    assert rows.position_of((10**6, 0)) is None
    assert {"saliency_distance", "strength", "mask_confidence"} <= set(rows.numbers)
    assert not {"label", "target_label"} & set(rows.numbers)
    again = VersionRows(place_of(str(first_version / "repo"), "default"))
    assert again.columns.keys() == rows.columns.keys()


def test_a_run_on_its_way_shows_the_shards_that_are_finished(first_version, evil_source, tmp_path):
    going = shutil.copytree(first_version, tmp_path / "going")
    shutil.rmtree(going / "repo")
    (going / "state" / "shards" / "shard-00001.json").unlink()
    place = place_of(str(going), "default")
    rows = VersionRows(place)
    published = published_rows(first_version)
    assert (len(rows), place.planned) == (7, 12)
    wanted = [*published[:5], *published[10:]]
    assert [key(rows, position)[0] for position in range(7)] == [r["source_index"] for r in wanted]
    originals = Originals(place, str(evil_source))
    assert originals.settings.saliency_method == "spectral-residual"
    (going / "state" / "shards" / "shard-00002.json").write_text("{}")
    assert len(VersionRows(place_of(str(going), "default"))) == 5
    for record in (going / "state" / "shards").glob("*.json"):
        record.unlink()
    assert len(VersionRows(place_of(str(going), "default"))) == 0


def test_a_mixture_that_was_not_published_is_made_again(first_version, evil_source):
    place = place_of(str(first_version), "default")
    originals = Originals(place, str(evil_source))
    for row in published_rows(first_version):
        np.testing.assert_array_equal(originals.mixed(row), pixels_of(row))


def test_another_dataset_is_not_taken_for_the_source(first_version, birds):
    place = place_of(str(first_version), "default")
    with pytest.raises(UserError, match="is not the dataset"):
        Originals(place, str(birds))
    with pytest.raises(UserError, match="start with --dataset_name"):
        Originals(place, None)


def shard(folder, table):
    path = folder / "train-00000-of-00001.parquet"
    pq.write_table(table, path)
    return Place("org/strange", [LocalFile(path)], {})


def changed(first_version, **columns):
    path = min((first_version / "repo" / "data").glob("*.parquet"))
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(place, table.schema.field(name), column)
    return table


def test_a_path_in_an_image_cell_is_never_opened(first_version, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(published_rows(first_version)[0]["image"]["bytes"])
    cells = [{"bytes": None, "path": str(secret)}] * 5
    rows = VersionRows(shard(tmp_path, changed(first_version, image=cells)))
    assert rows.read([0])[0]["image"] == Unusable("no image")
    cells = [{"bytes": b"GIF89a and no more", "path": "/etc/passwd"}] * 5
    rows = VersionRows(shard(tmp_path, changed(first_version, image=cells)))
    reason = rows.read([4])[4]["image"].reason
    assert "corrupt" in reason and "/etc" not in reason


@pytest.mark.parametrize(
    "columns", [{"label": [0, 1, 7, 0, 1]}, {"label": [-1] * 5}, {"source_index": [-4] * 5}]
)
def test_numbers_that_no_generation_writes_are_refused(first_version, tmp_path, columns):
    with pytest.raises(UserError, match="org/strange"):
        VersionRows(shard(tmp_path, changed(first_version, **columns))).read_all_numbers()
    with pytest.raises(UserError, match="org/strange"):
        VersionRows(shard(tmp_path, changed(first_version, **columns))).read([0])


def test_what_is_no_version_is_refused_in_one_line(first_version, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no augmented dataset"):
        place_of(str(tmp_path / "empty"), "default")
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"train-0.parquet"):
        VersionRows(Place("x", [LocalFile(tmp_path / "train-0.parquet")], {}))
    changed_bytes = shutil.copytree(first_version, tmp_path / "changed")
    path = min((changed_bytes / "repo" / "data").glob("*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IEND", b"IENQ", 1))  # of the same size
    rows = VersionRows(place_of(str(changed_bytes), "default"))
    assert rows.read([0])[0]["image"] == Unusable(DAMAGED)
    assert not isinstance(rows.read([11])[11]["image"], Unusable)
    torn = shutil.copytree(first_version, tmp_path / "torn")
    path = next((torn / "repo" / "data").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="missing or not the published files"):
        place_of(str(torn), "default")


@given(
    st.lists(st.tuples(st.integers(0, 3), NUMBERS), max_size=30),
    st.sets(st.integers(0, 3), max_size=2),
    st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)),
    st.booleans(),
)
def test_selected_rows_are_all_that_fit_in_their_order(rows, labels, ends, descending):
    columns = {
        "label": np.array([label for label, _ in rows], np.int64),
        "score": np.array([score for _, score in rows], np.float64),
        "source_index": np.arange(len(rows)),
        "variant": np.zeros(len(rows), np.int64),
    }
    ranges = {"score": ends} if ends != (None, None) else {}
    chosen = Selection(sorted(labels), ranges, None, "score", descending)
    found = selected_positions(columns, chosen).tolist()
    low, high = ends

    def fits(position):
        label, score = rows[position]
        inside = (low is None or score >= low) and (high is None or score <= high)
        return inside and (not labels or label in labels)

    assert sorted(found) == [position for position in range(len(rows)) if fits(position)]
    scores = columns["score"][found]
    known = scores[~np.isnan(scores)]
    assert np.isnan(scores[len(known) :]).all()
    assert sorted(known, reverse=descending) == known.tolist()
    only = Selection(keys=frozenset({(2, 0), (99, 0)}))
    assert selected_positions(columns, only).tolist() == [2][: len(rows) > 2]
