"""What the choosing page keeps and writes, without a browser."""

import pytest
import torch
import yaml

pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.studio.choose_page import ChoosePage
from sgdmix_hub.studio.controls import names_on_page, raw_value
from sgdmix_hub.studio.recipe_file import chosen_settings
from sgdmix_hub.studio.tryout import Tryout


@pytest.fixture(scope="module")
def tryout(birds):
    """Eight of 24 rows, of which row 3 and one that is not drawn are left out from the start."""
    start = AugmentSettings(dataset_name=str(birds), output_dir="outputs", strength=0.0)
    drawn = Tryout(start, 8, 64, torch.device("cpu"))
    others = set(range(24)) - set(drawn.rows)
    drawn.start.excluded_rows = [min(drawn.rows), min(others)]
    return drawn


def written(path):
    return yaml.safe_load(path.read_text())


def test_rows_that_were_left_out_at_the_start_stay_out_unless_they_are_taken_in(tryout, tmp_path):
    page = ChoosePage(tryout, tmp_path / "generate.yaml")
    raws = [raw_value(name, getattr(tryout.start, name)) for name in names_on_page(False)]
    drawn, other = tryout.start.excluded_rows
    kept = chosen_settings(tryout.start, {}, has_base=False)
    assert kept.excluded_rows == sorted([drawn, other])
    assert "Written" in page.save(*raws)
    assert written(page.save_to)["excluded_rows"] == sorted([drawn, other])
    page.leave_out(drawn, False)
    page.leave_out(max(tryout.rows), True)
    page.build()  # as when a browser opens or reloads the page
    assert "Written" in page.save(*raws)
    assert written(page.save_to)["excluded_rows"] == sorted([other, max(tryout.rows)])
    page.leave_out(other, False), page.leave_out(max(tryout.rows), False)
    page.save(*raws)
    assert "excluded_rows" not in written(page.save_to)


@pytest.mark.parametrize("text", ["my own notes\n", "", "# Chosen with another program\n"])
def test_a_file_that_the_page_did_not_write_is_kept(tryout, tmp_path, text):
    path = tmp_path / "generate.yaml"
    page = ChoosePage(tryout, path)
    path.write_text(text)
    raws = [raw_value(name, getattr(tryout.start, name)) for name in names_on_page(False)]
    assert "start with another --save_to" in page.save(*raws)
    assert path.read_text() == text
    with pytest.raises(UserError, match="another --save_to"):
        ChoosePage(tryout, path)
    with pytest.raises(UserError, match="cannot be written"):
        ChoosePage(tryout, tmp_path)
