"""Cards of datasets from made-up facts, and what they hold."""

import re

from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard

from sgdmix_hub.publishing.dataset_card import (
    CardFacts,
    dataset_card,
)
from sgdmix_hub.publishing.layout import shard_features
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

EVIL = 'a": {evil}\n---\n# <script>'
HOSTILE = [
    EVIL,
    "{{ settings }} {% for x in y %}",
    "| a | b |\n|---|---|",
    "```\n# heading\n```",
    "- yes: *no* &anchor !!python/object",
    "[link](javascript:alert(1)) ![x](y)",
    "\n\n## Licence\n\nnone",
    "\u2028# separator\u2029next line",
    "next\x85line",
    "'single' \"double\" \\back",
    "null",
    "1",
    "🐦 Ünï",
]
COMMIT = "0123456789" * 4


def card_settings(**values):
    defaults = {
        "dataset_name": "unused",
        "output_dir": "unused",
        "adapter": "unused",
        "classifier": "unused",
        "license": "cc-by-4.0",
    }
    return apply_preset(AugmentSettings(**(defaults | values)))


def card_facts(class_names, **values):
    defaults = {
        "title": "Birds by SGD-Mix",
        "features": shard_features(class_names, ["mask"]),
        "rows_by_label": [3] * len(class_names),
        "real_rows": [2] * len(class_names),
        "parquet_bytes": 12345,
        "skipped": [],
        "saliency": {"method": "grad-cam", "trust": None},
        "pins": {
            "dataset_name": f"org/my_birds@{COMMIT}",
            "adapter": f"org/birds_adapter@{COMMIT}",
        },
        "versions": {"torch": "2.14.1", "sgdmix_hub": "0.1.0"},
        "fingerprint": "f" * 64,
        "mean_distance": 0.125,
        "mean_area": 0.375,
        "licenses": {"dataset_name": "cc-by-4.0", "pretrained_model_name_or_path": None},
        "quality": [],
    }
    return CardFacts(**(defaults | values))


def body_of(card):
    return DatasetCard(card).text


def structure(card):
    """Headings, fences, rules and the number of table rows and list items of a card's body, read
    line by line.
    """
    headings, inside_code, rows, items, rules = [], False, 0, 0, 0
    for line in body_of(card).splitlines():
        if line.startswith("```"):
            inside_code = not inside_code
            headings.append(line)
        elif not inside_code:
            if re.match(r"\s{0,3}#{1,6}(\s|$)", line):
                headings.append(line)
            rows += line.startswith("|")
            items += bool(re.match(r"\s*[-*+] ", line))
            rules += bool(re.fullmatch(r"\s*(-{3,}|={3,})\s*", line))
    assert not inside_code
    return headings, rows, items, rules


def names_in(card, config_name="default"):
    return (
        DatasetInfosDict.from_dataset_card_data(DatasetCard(card).data)[config_name]
        .features["label"]
        .names
    )


def method_of(settings, **facts):
    """The method as programs read it on the card."""
    card = DatasetCard(dataset_card(settings, card_facts(["kite"], **facts)))
    return card.data.to_dict()["sgdmix"]["default"]
