"""Looking through versions in a real browser: filter, sort, compare, mark."""

import urllib.error
import urllib.request

import pytest
from browsers import Visit, needed, page_of, serving
from generations import published_rows
from publishing import NAMES
from strangers import add_column, unfinished

from sgdmix_hub.evaluation.drop_list import read_drop_list

needed()

pytestmark = pytest.mark.slow


def test_rows_are_filtered_sorted_compared_and_marked(
    chromium, first_version, generation, evil_source, tmp_path
):
    other = generation("other", num_candidates=5, mixing_method="source")
    page = page_of(
        published=[str(first_version), str(other)],
        dataset_name=evil_source,
        picture_size=64,
        save_to=tmp_path / "drop.csv",
    )
    rows = published_rows(first_version)
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("12 of 12 rows; page 1 of 2").wait_for()
        for caption in ("source", "target", "mask", "mixed", "in other"):
            visit.until(lambda caption=caption: len(visit.pictures(caption)) == 8)
        # names from the data are shown as the texts that they are
        assert any("<" in title for title in visit.titles())
        assert visit.page.evaluate("window.hacked === undefined")
        visit.choose("Sort by", "saliency_distance")
        visit.page.get_by_label("Largest first").check()
        farthest = max(rows, key=lambda row: row["saliency_distance"])
        first = visit.page.locator(".sgdmix-row h2").first
        first.get_by_text(f"source {farthest['source_index']}, variant").wait_for()
        visit.page.get_by_label(f"Mark source {farthest['source_index']}, variant 0").check()
        visit.page.get_by_text("Rows marked as bad: 1").wait_for()
        assert read_drop_list(tmp_path / "drop.csv") == {(farthest["source_index"], 0)}
        visit.page.get_by_label("Only rows that are marked as bad").check()
        visit.page.get_by_text("1 of 12 rows; page 1 of 1").wait_for()
        visit.page.get_by_label("Only rows that are marked as bad").uncheck()
        visit.page.get_by_role("button", name="Ranges").click()
        visit.page.get_by_label("variant, from").fill("many")
        visit.page.keyboard.press("Tab")
        visit.page.get_by_role("alert").get_by_text("many is not a number").wait_for()
        visit.page.get_by_label("variant, from").fill("")
        visit.page.keyboard.press("Tab")
        visit.page.get_by_text("12 of 12 rows").wait_for()
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])
        assert len(NAMES) > 1
        for place in ("/etc/passwd", "pyproject.toml", str(evil_source / "README.md")):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{address}gradio_api/file={place}")
        answer = urllib.request.urlopen(address)
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_column_whose_name_is_markup_is_a_text_in_every_list(chromium, first_version, tmp_path):
    strange = unfinished(first_version, tmp_path / "strange")
    evil = "<img src=x onerror=alert(6)>"
    add_column(strange, evil)
    page = page_of(published=[str(strange)], picture_size=64, save_to=tmp_path / "drop.csv")
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("12 of 12 rows; page 1 of 2").wait_for()
        visit.page.get_by_role("button", name="Ranges").click()
        visit.page.get_by_label(f"{evil}, from").wait_for()
        visit.choose("Sort by", evil)
        assert visit.page.locator("img[src=x]").count() == 0
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])
