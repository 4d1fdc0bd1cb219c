"""The generation's benchmark at its smallest: workers make what they count, and the table says what the figures say."""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from generation_runs import worker
from generation_tables import render


@pytest.mark.slow
def test_workers_make_their_rows_and_the_table_quotes_them(tmp_path):
    args = argparse.Namespace(work_dir=tmp_path)
    ours = worker(args, "ours", rows=4, timed=True, preset="recommended")
    reference = worker(args, "reference", rows=2)
    assert (ours["rows"], reference["rows"]) == (4, 2)
    assert ours["rate"] == pytest.approx(4 / ours["seconds"])
    assert sum(ours["shares"].values()) == pytest.approx(1) and min(ours["shares"].values()) >= 0
    turn = {"ours": ours["rate"], "reference": reference["rate"], "ratio": ours["rate"] / reference["rate"]}
    place = {"turns": [turn], "ratio": turn["ratio"]}
    measured = {"measured_on": "a machine", "figures": {"one core": place, "all cores": place, "rows": 4}}
    text = render({"speed": measured, "time": {"measured_on": "a machine", "figures": {"recommended, one core": ours["shares"]}}})
    assert f"| one core | {ours['rate']:.2f} | {reference['rate']:.2f} | **{turn['ratio']:.2f}** |" in text
    assert text.count("not measured") == 4
