"""Rows that somebody marked as bad: a list of them, and a scored dataset without them."""

import numpy as np
import pytest
from generations import manifest_of, published_rows
from hypothesis import given
from hypothesis import strategies as st

from sgdmix_hub import evaluate_dataset
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.drop_list import (
    digest_of,
    read_drop_list,
    rows_dropped,
    text_of,
    write_drop_list,
)
from sgdmix_hub.files import read_json
from sgdmix_hub.settings.evaluation import EvaluationSettings

ROWS = st.sets(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1)), max_size=20)


@given(ROWS)
def test_a_list_is_read_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lists") / "drop.csv"
    write_drop_list(path, rows)
    assert read_drop_list(path) == rows
    assert digest_of(rows) == digest_of(list(rows)[::-1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "source,variant\n1,0\n",
        "source_index,variant\n1\n",
        "source_index,variant\n1,0,2\n",
        "source_index,variant\n-1,0\n",
        "source_index,variant\n1.5,0\n",
        "source_index,variant\n../../etc/passwd,0\n",
        "source_index,variant\n99999999999999999999,0\n",
        "source_index,variant\n\u0663,x\n",
        f"source_index,variant\n{'1' * 200_000},0\n",
    ],
)
def test_what_is_no_list_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "drop.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_drop_list(path)
    assert "\n" not in str(refused.value)


def test_a_list_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_drop_list(tmp_path / "none.csv")
    (tmp_path / "drop.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_drop_list(tmp_path / "drop.csv")


def test_rows_of_another_version_are_refused():
    sources, variants = np.array([3, 3, 7]), np.array([0, 1, 0])
    assert rows_dropped({(3, 1)}, sources, variants).tolist() == [False, True, False]
    with pytest.raises(UserError, match="source_index 7, variant 1"):
        rows_dropped({(7, 1)}, sources, variants)


def test_spaces_and_a_byte_order_mark_are_no_part_of_the_numbers(tmp_path):
    (tmp_path / "drop.csv").write_text("\ufeffsource_index, variant\r\n 4, 1\r\n\r\n", "utf-8")
    assert read_drop_list(tmp_path / "drop.csv") == {(4, 1)}
    assert text_of({(4, 1), (2, 0)}) == "source_index,variant\n2,0\n4,1\n"


@pytest.mark.slow
def test_marked_rows_are_left_out_and_counted(first_version, evil_source, evil_judge, tmp_path):
    before = {(row["source_index"], row["variant"]): row for row in published_rows(first_version)}
    marked = set(list(before)[2:5])
    write_drop_list(tmp_path / "drop.csv", marked)
    settings = {
        "synthetic": str(first_version),
        "dataset_name": str(evil_source),
        "judge": str(evil_judge),
        "output_dir": str(tmp_path / "out"),
        "drop": str(tmp_path / "drop.csv"),
    }
    evaluate_dataset.main(EvaluationSettings(**settings))
    after = {(row["source_index"], row["variant"]) for row in published_rows(tmp_path / "out")}
    assert after == set(before) - marked
    facts = read_json(tmp_path / "out" / "evaluation.json")
    assert (facts["dropped"], facts["dropped_by_hand"]) == (3, 3)
    assert manifest_of(tmp_path / "out")["evaluation"]["dropped_by_hand"] == 3
    card = (tmp_path / "out" / "repo" / "README.md").read_text()
    assert "3 of them were dropped because somebody looked at them" in card
    write_drop_list(tmp_path / "drop.csv", list(marked)[:1])
    with pytest.raises(UserError, match="drop differ"):
        evaluate_dataset.main(EvaluationSettings(**settings))
