"""Choosing in a real browser: from the first look to a file that `augment` takes."""

import pytest
import torch
from browsers import Visit, browser, needed, serving
from generations import manifest_of, published_rows

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.studio import StudioSettings

needed()

pytestmark = pytest.mark.slow


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


def test_choosing_ends_in_a_file_that_augment_takes(chromium, birds, tmp_path):
    saved = tmp_path / "generate.yaml"
    page = page_of(dataset_name=birds, picture_size=64, save_to=saved)
    with serving(page) as address:
        visit = Visit(chromium, address)
        mixed(visit)
        before = visit.pictures("mask"), visit.pictures("mixed")
        assert all(map(len, before))
        visit.choose("saliency_method", "spectral-residual")
        visit.page.get_by_text("masks: spectral-residual").wait_for()
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
        visit.page.get_by_label("Leave row 0 out").check()
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
    assert (chosen.feather, chosen.excluded_rows, chosen.strength) == (0.02, [0], [0.0])
    augment.main(parse_settings(AugmentSettings, [*words, "--resolution=32", "--max_skipped=1"]))
    assert published_rows(tmp_path / "out")
    assert manifest_of(tmp_path / "out")["skipped"][0]["source_index"] == 0
