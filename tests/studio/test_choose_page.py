"""Choosing in a real browser: from the first look to a file that `augment` takes."""

import pytest
from browsers import Visit, needed, page_of, serving
from generations import manifest_of, published_rows, write_dataset

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.studio.choose_page import row_of

needed()

from playwright.sync_api import expect  # noqa: E402

pytestmark = pytest.mark.slow
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</h2><script>alert(2)</script>",
    "${alert(3)} {{constructor.constructor('alert(4)')()}}",
    '" onmouseover="alert(5)',
]


def mixed(visit):
    """Waits for the mixtures of a page."""
    visit.page.locator("figcaption", has_text="mixed").first.wait_for()
    visit.page.get_by_text("images are left out").wait_for()


@pytest.fixture(scope="module")
def hostile(source_rows, tmp_path_factory):
    """A page of the rows of `birds`, in classes whose names try to be more than texts."""
    images = [row["image"]["bytes"] for row in source_rows[::3]]
    labels = [row["label"] for row in source_rows[::3]]
    return write_dataset(tmp_path_factory.mktemp("hostile") / "birds", images, labels, HOSTILE)


def test_choosing_ends_in_a_file_that_augment_takes(chromium, hostile, tmp_path):
    saved = tmp_path / "generate.yaml"
    page = page_of(dataset_name=hostile, picture_size=64, save_to=saved)
    with serving(page) as address, Visit(chromium, address) as visit:
        mixed(visit)
        before = visit.pictures("mask"), visit.pictures("mixed")
        assert all(map(len, before))
        assert {title.partition(": ")[2] for title in visit.titles()} == set(HOSTILE)
        visit.choose("saliency_method", "spectral-residual")
        visit.page.get_by_text("masks: spectral-residual").wait_for()
        floor = visit.page.get_by_label("min_mask_confidence")
        expect(floor).to_have_attribute("placeholder", "recommended: 0")  # its source's own
        visit.choose("mixing_method", "union")
        visit.until(lambda: visit.pictures("mask") not in (before[0], []))
        visit.until(lambda: visit.pictures("mixed") not in (before[1], []))
        visit.page.get_by_label("feather").fill("a little")
        visit.page.keyboard.press("Tab")
        alert = visit.page.get_by_role("alert")
        alert.wait_for()
        assert "feather" in alert.inner_text() and "\n" not in alert.inner_text()
        visit.page.get_by_label("feather").fill("0.02")
        visit.page.get_by_label("Leave row").first.check()  # while the rows are being redrawn
        visit.until(visit.boxes)
        row = row_of(visit.boxes()[0][0])
        visit.page.get_by_text("excluded by the settings").first.wait_for()
        visit.page.get_by_role("button", name="Write generate.yaml").click()
        visit.page.get_by_text("Written:").wait_for()
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])
    words = ["--config", str(saved), f"--output_dir={tmp_path / 'out'}"]
    chosen = parse_settings(AugmentSettings, words)
    assert (chosen.saliency_method, chosen.mixing_method) == ("spectral-residual", "union")
    assert (chosen.feather, chosen.excluded_rows, chosen.strength) == (0.02, [row], [0.0])
    cheap = ["--resolution=32", "--max_skipped=1", "--mask_refinement=none"]
    augment.main(parse_settings(AugmentSettings, [*words, *cheap]))
    assert published_rows(tmp_path / "out")
    skipped = manifest_of(tmp_path / "out")["skipped"]
    assert [row] == [one["source_index"] for one in skipped if "excluded" in one["reason"]]


def test_ticks_made_while_rows_are_redrawn_stay_and_are_saved(chromium, birds, spectral, tmp_path):
    saved, wanted = tmp_path / "generate.yaml", {}
    page = page_of(dataset_name=birds, start=spectral, picture_size=256, save_to=saved)
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.locator("figcaption", has_text="mask").first.wait_for()
        for number in (1, 2):
            visit.page.get_by_label("Page", exact=True).fill(str(number))
            visit.until(lambda before=dict(wanted): not before.keys() & dict(visit.boxes()).keys())
            visit.until(lambda: len(visit.boxes()) == 8)
            visit.page.get_by_label("feather").fill(f"0.0{number}")
            expected = dict(visit.boxes())
            assert len(expected) == 8
            for place, label in enumerate(expected):
                visit.page.get_by_label(label).press("Enter" if place % 3 else "Space")
                expected[label] = True
            visit.until(lambda expected=expected: dict(visit.boxes()) == expected)
            for label in list(expected)[1::2]:  # every second row is taken in again
                visit.page.get_by_label(label).press("Space")
                expected[label] = False
            visit.until(lambda expected=expected: dict(visit.boxes()) == expected)
            wanted |= expected
        visit.page.get_by_role("button", name="Write generate.yaml").click()
        visit.page.get_by_text("Written:").wait_for()
        visit.until(lambda: "left out" in visit.status())
        assert dict(visit.boxes()) == expected
        with Visit(chromium, address) as again:
            again.until(lambda: again.boxes() == list(wanted.items())[:8])
    out = sorted(row_of(label) for label, is_ticked in wanted.items() if is_ticked)
    assert len(out) == 8
    words = ["--config", str(saved), f"--output_dir={tmp_path / 'out'}"]
    assert parse_settings(AugmentSettings, words).excluded_rows == out
