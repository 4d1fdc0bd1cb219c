"""Choosing in a real browser: from the first look to a file that `augment` takes."""

import pytest
import torch
from browsers import Visit, browser, needed, serving
from generations import manifest_of, published_rows, write_dataset

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.studio import StudioSettings

needed()

from playwright.sync_api import expect  # noqa: E402

pytestmark = pytest.mark.slow
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</h2><script>alert(2)</script>",
    "${alert(3)} {{constructor.constructor('alert(4)')()}}",
    '" onmouseover="alert(5)',
]


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


def page_of(**settings):
    from sgdmix_hub.open_studio import page_of

    settings = {name: v if isinstance(v, (int, list)) else str(v) for name, v in settings.items()}
    return page_of(StudioSettings(**settings), torch.device("cpu"))


def mixed(visit):
    """Waits for the mixtures of a page."""
    visit.page.locator("figcaption", has_text="mixed").first.wait_for()
    visit.page.get_by_text("images are left out").wait_for()


@pytest.fixture(scope="module")
def hostile(source_rows, tmp_path_factory):
    """The training rows of `birds`, in classes whose names try to be more than texts."""
    images = [row["image"]["bytes"] for row in source_rows]
    labels = [row["label"] for row in source_rows]
    return write_dataset(tmp_path_factory.mktemp("hostile") / "birds", images, labels, HOSTILE)


def test_choosing_ends_in_a_file_that_augment_takes(chromium, hostile, tmp_path):
    saved = tmp_path / "generate.yaml"
    page = page_of(dataset_name=hostile, picture_size=64, save_to=saved)
    with serving(page) as address:
        visit = Visit(chromium, address)
        mixed(visit)
        before = visit.pictures("mask"), visit.pictures("mixed")
        assert all(map(len, before))
        titles = {one.inner_text() for one in visit.page.locator(".sgdmix-row h2").all()}
        assert {title.partition(": ")[2] for title in titles} == set(HOSTILE)
        visit.choose("saliency_method", "spectral-residual")
        visit.page.get_by_text("masks: spectral-residual").wait_for()
        floor = visit.page.get_by_label("min_mask_confidence")
        expect(floor).to_have_attribute("placeholder", "recommended: 0")  # its source's own
        visit.choose("mixing_method", "union")
        visit.page.wait_for_timeout(500)
        mixed(visit)
        after = visit.pictures("mask"), visit.pictures("mixed")
        assert before[0] != after[0] and before[1] != after[1]
        visit.page.get_by_label("feather").fill("a little")
        visit.page.keyboard.press("Tab")
        alert = visit.page.get_by_role("alert")
        alert.wait_for()
        assert "feather" in alert.inner_text() and "\n" not in alert.inner_text()
        visit.page.get_by_label("feather").fill("0.02")
        left_out = visit.page.get_by_label("Leave row").first
        row = int(left_out.locator("xpath=..").inner_text().split()[2])
        left_out.check()
        visit.page.get_by_text("excluded by the settings").first.wait_for()
        visit.page.get_by_role("button", name="Write generate.yaml").click()
        visit.page.get_by_text("Written:").wait_for()
        assert visit.hindrances() == []
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])
        visit.page.set_viewport_size({"width": 375, "height": 800})
        visit.page.wait_for_timeout(300)
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 375
        assert visit.hindrances() == []
    words = ["--config", str(saved), f"--output_dir={tmp_path / 'out'}"]
    chosen = parse_settings(AugmentSettings, words)
    assert (chosen.saliency_method, chosen.mixing_method) == ("spectral-residual", "union")
    assert (chosen.feather, chosen.excluded_rows, chosen.strength) == (0.02, [row], [0.0])
    augment.main(parse_settings(AugmentSettings, [*words, "--resolution=32", "--max_skipped=1"]))
    assert published_rows(tmp_path / "out")
    skipped = manifest_of(tmp_path / "out")["skipped"]
    assert [row] == [one["source_index"] for one in skipped if "excluded" in one["reason"]]
