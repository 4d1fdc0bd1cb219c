"""Fixtures that several files of this folder share."""

import json
import shutil

import pytest

from sgdmix_hub.models.adapters import FACTS_FILE
from sgdmix_hub.publishing.model_card import write_adapter_card
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.training import recorded


@pytest.fixture(scope="module")
def adapter_card(adapter, tmp_path_factory):
    """The card of an adapter with other facts or settings, as a text."""

    def made(facts=None, **values):
        folder = shutil.copytree(
            adapter,
            tmp_path_factory.mktemp("card") / "adapter",
            ignore=shutil.ignore_patterns("state"),
        )
        chosen = AdapterSettings(
            **{"dataset_name": "d", "output_dir": str(folder), "metaclass": "bird"} | values
        )
        known = json.loads((folder / FACTS_FILE).read_text())
        known["settings"] |= {
            name: value for name, value in recorded(chosen).items() if name in values
        }
        known |= {name: getattr(chosen, name) for name in ("metaclass", "prompt_template")}
        (folder / FACTS_FILE).write_text(json.dumps(known | (facts or {})))
        write_adapter_card(chosen, folder)
        card = (folder / "README.md").read_text()
        assert str(folder) not in card
        return card

    return made
