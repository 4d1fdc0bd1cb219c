"""Both pages for everybody: by keyboard alone, in every state without what hinders people, and with
texts of strangers that want to be more than texts.
"""

import pytest
from browsers import Visit, needed, page_of, serving
from generations import write_dataset

from sgdmix_hub import augment
from sgdmix_hub.evaluation.drop_list import read_drop_list
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.studio.boxes import PAGE_ROWS

needed()

pytestmark = pytest.mark.slow
WIDTHS = (1280, 375)
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</h2><script>alert(2)</script>",
    "${alert(3)} {{constructor.constructor('alert(4)')()}}",
    '" onmouseover="alert(5)',
]
FOLDER = "<svg onload=alert(6)>"


def checked(visit, axe_at=WIDTHS[:1]):
    """Asserts that nobody is hindered, and that the page fits a screen and a phone."""
    for width in WIDTHS:
        visit.page.set_viewport_size({"width": width, "height": 800})
        visit.page.wait_for_timeout(300)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert width not in axe_at or visit.hindrances() == []
    visit.page.set_viewport_size({"width": 1280, "height": 900})


def test_choosing_hinders_nobody_and_needs_no_mouse(chromium, birds, tmp_path):
    saved = tmp_path / "generate.yaml"
    two_pages = {"dataset_name": birds, "examples_per_class": 3}
    page = page_of(**two_pages, picture_size=64, save_to=saved)
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.locator("progress").first.wait_for()
        assert visit.hindrances() == []
        visit.until(lambda: "left out" in visit.status())
        checked(visit, axe_at=WIDTHS)

        visit.tab_to("feather")
        visit.page.keyboard.type("0.03")
        visit.tab_to("Page")
        visit.page.keyboard.press("Control+A")
        visit.page.keyboard.type("2")
        before = {label for label, _ in visit.boxes()}
        visit.until(lambda: not before & {label for label, _ in visit.boxes()})
        label = visit.boxes()[0][0]
        visit.tab_to(label)
        outline = "getComputedStyle(document.activeElement).outlineWidth"
        assert float(visit.page.evaluate(outline).removesuffix("px")) >= 2
        visit.page.keyboard.press("Space")
        assert dict(visit.boxes())[label]
        visit.tab_to("Previous page")
        visit.page.keyboard.press("Enter")
        visit.until(lambda: label not in dict(visit.boxes()))
        visit.tab_to("Write generate.yaml", backwards=True)
        visit.page.keyboard.press("Space")
        visit.page.get_by_text("Written:").wait_for()
        text = saved.read_text()
        assert "feather: 0.03" in text and f"- {label.split()[2]}" in text

        visit.page.get_by_label("feather").fill("a little")
        visit.page.get_by_role("alert").wait_for()
        checked(visit)
        saved.write_text("my own notes")
        visit.page.get_by_role("button", name="Write generate.yaml").click()
        visit.until(lambda: visit.page.get_by_role("alert").count() == 2)
        for line in visit.page.get_by_role("alert").all_inner_texts():
            assert line.strip() and "\n" not in line
        checked(visit)


def test_browsing_by_keyboard_alone(chromium, first_version, tmp_path):
    page = page_of(published=[str(first_version)], picture_size=64, save_to=tmp_path / "drop.csv")
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("12 of 12 rows; page 1 of 2").wait_for()
        visit.until(lambda: len(visit.boxes()) == 8)
        label = visit.boxes()[1][0]
        visit.tab_to(label)
        visit.page.keyboard.press("Enter")
        visit.page.get_by_text("Rows marked as bad: 1").wait_for()
        assert len(read_drop_list(tmp_path / "drop.csv")) == 1
        visit.tab_to("Next page")
        visit.page.keyboard.press("Space")
        visit.page.get_by_text("page 2 of 2").wait_for()
        visit.tab_to("Ranges", backwards=True)
        visit.page.keyboard.press("Enter")
        visit.tab_to("variant, to")
        visit.page.keyboard.press("Tab")  # a field that is left as it was changes nothing
        visit.page.wait_for_timeout(1000)
        assert "page 2 of 2" in visit.status()
        visit.tab_to("Only rows that are marked as bad", backwards=True)
        visit.page.keyboard.press("Space")
        visit.page.get_by_text("1 of 12 rows; page 1 of 1").wait_for()
        visit.tab_to("Classes", backwards=True)
        visit.page.keyboard.type("kite")
        visit.page.keyboard.press("Enter")
        visit.until(lambda: "0 of 12 rows" in visit.status() or "kite" in visit.titles()[0])


def test_nobody_is_hindered_while_browsing(chromium, first_version, second_version, tmp_path):
    page = page_of(
        published=[str(first_version), str(second_version)],
        picture_size=64,
        save_to=tmp_path / "drop.csv",
    )
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("12 of 12 rows; page 1 of 2").wait_for()
        visit.page.get_by_role("button", name="Ranges").click()
        visit.page.get_by_label("variant, from").fill("many")
        visit.page.keyboard.press("Tab")
        visit.page.get_by_role("alert").wait_for()
        checked(visit, axe_at=WIDTHS)
        visit.page.get_by_label("variant, from").fill("7")
        visit.page.keyboard.press("Tab")
        visit.page.get_by_text("0 of 12 rows; page 1 of 1").wait_for()
        visit.until(lambda: visit.boxes() == [])
        checked(visit)
        visit.page.get_by_label("variant, from").fill("")
        visit.page.keyboard.press("Tab")
        visit.page.get_by_text("12 of 12 rows; page 1 of 2").wait_for()
        visit.until(lambda: len(visit.boxes()) == PAGE_ROWS)
        (tmp_path / "drop.csv").write_text("my own notes")
        visit.page.get_by_label("Mark source").first.click()
        visit.page.get_by_role("alert").wait_for()
        visit.until(lambda: not visit.boxes()[0][1])  # its tick is gone, as it is on no list
        checked(visit)


def test_texts_of_strangers_stay_texts_while_browsing(chromium, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows]
    labels = [row["label"] for row in source_rows]
    dataset = write_dataset(tmp_path / "birds", images, labels, HOSTILE)
    output = tmp_path / FOLDER
    augment.main(
        AugmentSettings(
            dataset_name=str(dataset),
            output_dir=str(output),
            preset="paper",
            saliency_method="spectral-residual",
            strength=0.0,
            resolution=32,
            num_workers=1,
            max_skipped=1.0,
        )
    )
    card = output / "repo" / "README.md"
    card.write_text(card.read_text() + "".join(HOSTILE))
    page = page_of(
        published=[str(output)],
        dataset_name=dataset,
        picture_size=64,
        save_to=tmp_path / "<img src=y onerror=alert(8)>.csv",
    )
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("24 of 24 rows; page 1 of 3").wait_for()
        visit.until(lambda: len(visit.pictures("mixed")) == 8)
        assert visit.page.locator("h1").inner_text() == FOLDER
        assert {title.rpartition(", source")[0] for title in visit.titles()} <= set(HOSTILE)
        classes = visit.page.get_by_label("Classes")
        classes.press_sequentially("img src")
        visit.page.keyboard.press("Enter")
        visit.page.get_by_text("6 of 24 rows; page 1 of 1").wait_for()
        visit.page.get_by_label("Mark source").first.check()
        visit.page.get_by_text("Rows marked as bad: 1").wait_for()
        for tag in ("img[src=x]", "img[src=y]", "svg[onload]", "h2 script", "[onmouseover]"):
            assert visit.page.locator(tag).count() == 0
        checked(visit, axe_at=WIDTHS)
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])
