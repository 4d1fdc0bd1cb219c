"""What the browsing page shows and writes, without a browser."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from strangers import add_column, unfinished

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")

from sgdmix_hub.evaluation.drop_list import read_drop_list  # noqa: E402
from sgdmix_hub.studio.boxes import PAGE_ROWS  # noqa: E402
from sgdmix_hub.studio.browse_page import AS_STORED, Asked, BrowsePage  # noqa: E402
from sgdmix_hub.studio.marks import box_label  # noqa: E402
from sgdmix_hub.studio.row_views import key_in  # noqa: E402

ME, YOU = gr.Request(session_hash="me"), gr.Request(session_hash="you")
EVIL = "<img src=x onerror=alert(6)>"


@pytest.fixture
def going(first_version, tmp_path):
    """The output folder of a run that is not finished."""
    return unfinished(first_version, tmp_path / "going")


def page_of(folder, source=None, save_to=None):
    asked = Asked([str(folder)], "default", None if source is None else str(source))
    return BrowsePage(asked, save_to, 64)


def inputs(page, sort_by=AS_STORED, ranges=None):
    return [ME, 1, [], sort_by, False, False, *(ranges or [""] * (2 * len(page.first.numbers)))]


def shown(page, asked):
    """What the page shows in the end."""
    *_, values = page.show(*asked)
    return [*values, *page.boxes(asked[0])]


def key_at(page, position):
    return key_in(page.first.read([position])[position])


def ticked(key, is_ticked=True):
    """A row's box as the browser sends it."""
    return 0, is_ticked, box_label(key)


def shown_boxes(values):
    """Label and tick of the boxes that are sent and shown."""
    boxes = [box for box in values if isinstance(box, dict) and "label" in box]
    return [(box["label"], box["value"]) for box in boxes]


def test_a_run_without_a_finished_shard_gets_its_rows_and_classes_later(going, evil_source):
    shards = going / "state" / "shards"
    records = {path: path.read_text() for path in shards.glob("*.json")}
    for path in records:
        path.unlink()
    page = page_of(going, evil_source)
    page.build()
    asked = inputs(page, "saliency_distance")
    assert "0 of 0 rows; page 1 of 1. The run makes 12 rows." in shown(page, asked)[1]
    for path, text in records.items():
        path.write_text(text)
    *_, (classes, _, line, *_) = page.reload(*asked)
    assert "12 of 12 rows" in line
    assert len(shown_boxes(page.boxes(ME))) == PAGE_ROWS
    assert [label for _, label in classes["choices"]] == list(range(3))
    shutil.rmtree(going)
    assert 'role="alert"' in list(page.reload(*asked))[-1][2]


def test_numbers_of_a_stranger_are_shown_or_missed_and_never_end_the_page(going, evil_source):
    values = {
        "target_index": [10**12, 2**62, 0, 1, 2],
        "target_label": [None, 2**40, -5, 3, None],
        "strength": [None, float("inf"), float("nan"), -1e300, 0.0],
        "seed": [None, 2**62, -(2**62), 0, 1],
    }
    path = going / "state" / "shards" / "shard-00000.parquet"
    table = pq.read_table(path)
    for name, column in values.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.array(column, field.type))
    pq.write_table(table, path)
    page = page_of(going, evil_source)
    _, line, _, *slots = shown(page, inputs(page))
    assert "12 of 12 rows" in line
    assert len(shown_boxes(slots)) == PAGE_ROWS
    assert "the dataset has no such row" in slots[0]
    assert "target_label none" in slots[0]


def test_names_of_a_stranger_are_texts(going):
    add_column(going, EVIL)
    page = page_of(going)
    assert EVIL in page.first.numbers
    _, _, _, row, *_ = shown(page, inputs(page, EVIL))
    assert "<img src=x" not in row
    assert "&lt;img src=x" in row


@pytest.mark.parametrize("text", ["nan", "many", "1e"])
def test_a_range_that_is_no_number_is_refused(first_version, text):
    page = page_of(first_version)
    ranges = [text, *[""] * (2 * len(page.first.numbers) - 1)]
    (values,) = page.show(*inputs(page, ranges=ranges))
    assert f"{text} is not a number" in values[1]


def test_marks_are_added_to_the_list_and_no_other_file_is_replaced(first_version, tmp_path):
    path = tmp_path / "drop.csv"
    page, other = page_of(first_version, save_to=path), page_of(first_version, save_to=path)
    first, second, third = (key_at(page, row) for row in range(3))
    page.mark(ME, *ticked(first))
    other.mark(YOU, *ticked(second))
    assert read_drop_list(path) == {first, second}
    shown(page, inputs(page))
    path.write_text("my own notes\n")
    listed, line, *boxes = page.mark(ME, *ticked(third))
    assert "give a list of rows" in line
    assert len(listed.splitlines()) == len({"heading", first})
    assert shown_boxes(boxes) == [(box_label(third), False)]  # its tick is taken away again
    assert path.read_text() == "my own notes\n"


def test_why_a_mark_was_not_made_stays_until_something_else_is_asked_for(first_version, tmp_path):
    """A field that loses the focus to the box draws the rows again, after the mark."""
    path = tmp_path / "drop.csv"
    page = page_of(first_version, save_to=path)
    asked, turned = inputs(page), inputs(page)
    turned[1] = 2
    key = key_at(page, 0)
    for leave in (lambda: shown(page, turned), lambda: page.mark(ME, *ticked(key))):
        shown(page, asked)
        path.write_text("my own notes\n")
        assert "give a list of rows" in page.mark(ME, *ticked(key))[1]
        assert "give a list of rows" in shown(page, asked)[1]
        path.unlink()
        leave()
        assert "12 of 12 rows" in shown(page, asked)[1]


def test_a_tick_is_of_the_row_that_its_box_named_whatever_is_shown_by_now(first_version, tmp_path):
    page = page_of(first_version, save_to=tmp_path / "drop.csv")
    first, second = (key_at(page, row) for row in (0, 9))
    shown(page, inputs(page))
    turned = inputs(page)
    turned[1] = 2
    assert [label for label, _ in shown_boxes(shown(page, turned))][:4] == [
        box_label(key_at(page, row)) for row in range(8, 12)
    ]
    _, line, *boxes = page.mark(ME, *ticked(first))
    assert "bad: 1" in line
    assert shown_boxes(boxes) == []
    page.mark(ME, *ticked(second))
    assert read_drop_list(tmp_path / "drop.csv") == {first, second}
    assert (box_label(first), True) in shown_boxes(shown(page, inputs(page)))
    page.mark(ME, *ticked(first, False))
    assert shown_boxes(shown(page, inputs(page))) == []  # nothing changes
    assert read_drop_list(tmp_path / "drop.csv") == {second}


@pytest.mark.parametrize("key", [(10**6, 0), (-1, 0), ("0, variant 0 as bad\n", 1)])
def test_a_row_that_the_version_lacks_is_not_marked(first_version, tmp_path, key):
    page = page_of(first_version, save_to=tmp_path / "drop.csv")
    assert "no such row" in page.mark(ME, *ticked(key))[1]
    assert not (tmp_path / "drop.csv").exists()


def test_without_a_file_everybody_has_a_list_of_their_own(first_version):
    page = page_of(first_version)
    keys = [key_at(page, row) for row in range(3)]
    for key in keys[:2]:
        page.mark(ME, *ticked(key))
    page.mark(YOU, *ticked(keys[2]))
    assert len(page.known_marks(ME).splitlines()) == 3
    assert len(page.known_marks(YOU).splitlines()) == 2
    boxes = shown_boxes(shown(page, inputs(page)))
    assert [label for label, is_ticked in boxes if is_ticked] == [box_label(k) for k in keys[:2]]


def test_a_field_that_is_left_empty_does_not_turn_back_to_the_first_page(first_version):
    page = page_of(first_version)
    asked = inputs(page)
    asked[-1] = None  # as a browser sends a field that was not on the screen yet
    shown(page, asked)
    filters = inputs(page)[2:]
    assert isinstance(page.first_page(ME, *filters), dict)  # nothing changes
    filters[1] = "saliency_distance"
    assert page.first_page(ME, *filters) == 1
    assert isinstance(page.first_page(ME, *filters), dict)
