"""Cards of evaluated and of large datasets."""

import re

import pytest
from cards import (
    COMMIT,
    HOSTILE,
    body_of,
    card_facts,
    card_settings,
    method_of,
    names_in,
    structure,
)
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard

from sgdmix_hub.publishing import dataset_card as cards
from sgdmix_hub.publishing.card_text import card_text
from sgdmix_hub.publishing.dataset_card import (
    CardEvaluation,
    dataset_card,
)


def card_evaluation(name="kite", **values):
    defaults = {
        "judge": f"org/judge@{COMMIT}",
        "warnings": [],
        "masks": "the generation's (grad-cam, otsu)",
        "figures": [("images that the judge gives their label", "0.900")],
        "by_class": [(name, 3, "0.900", "not measured", 1)],
        "keep": None,
        "keep_by": "class",
        "keep_difficulty": "easy",
        "rows_before": 3,
        "dropped": 0,
        "label_fidelity": 0.9,
    }
    return CardEvaluation(**(defaults | values))


@pytest.mark.parametrize("name", HOSTILE)
def test_an_evaluations_texts_are_untrusted_too(name):
    texts = {
        "judge": f"{name}@{COMMIT}",
        "warnings": [name],
        "masks": name,
        "figures": [(name, name)],
    }
    hostile = dataset_card(
        card_settings(), card_facts([name], evaluation=card_evaluation(name, **texts))
    )
    harmless = dataset_card(
        card_settings(), card_facts(["kite"], evaluation=card_evaluation(warnings=["Beware."]))
    )
    assert structure(hostile) == structure(harmless)
    assert "<script>" not in body_of(hostile) and names_in(hostile) == [name]
    assert (
        method_of(card_settings(), evaluation=card_evaluation(name, **texts))["judge"]
        == f"{name}@{COMMIT}"
    )


def test_dropped_rows_are_told_where_the_card_counts_and_where_it_says_how_to_make_it_again():
    dropped = card_evaluation(keep=0.9, dropped=1, rows_before=4)
    body = body_of(dataset_card(card_settings(), card_facts(["kite"], evaluation=dropped)))
    assert "at most 1 for each source image" in body
    assert "1 of them were dropped (`--keep 0.9`)" in body
    assert "rows as generated: 4 of" in body and "the 1 rows that were dropped later" in body
    medium = card_evaluation(keep=0.9, keep_difficulty="medium", dropped=1, rows_before=4)
    body = body_of(dataset_card(card_settings(), card_facts(["kite"], evaluation=medium)))
    assert "(`--keep 0.9 --keep_difficulty medium`)" in body and "with the highest" in body
    whole = body_of(
        dataset_card(card_settings(), card_facts(["kite"], evaluation=card_evaluation()))
    )
    assert "dropped after" not in whole
    assert "at most" not in whole
    assert "rows as generated: 3 of" in whole
    method = method_of(card_settings(), evaluation=dropped)
    assert (method["keep"], method["dropped"], method["label_fidelity"]) == (0.9, 1, 0.9)
    assert "judge" not in method_of(card_settings())


def test_a_card_is_the_text_that_the_hubs_client_makes_of_template_and_yaml(monkeypatch):
    """Written once and by libyaml, with the same bytes."""
    seen = {}

    def both(card_data, template, /, **fields):
        seen["theirs"] = str(DatasetCard.from_template(card_data, template_path=template, **fields))
        return card_text(card_data, template, **fields)

    monkeypatch.setattr(cards, "card_text", both)
    for names in (
        ["heron", "Blue Tit (female)", "Möwe", "null", "1", "- yes: *no*", "a: b", "x" * 300],
        [f"{number:05d}" for number in range(300)],
    ):
        skipped = [{"reason": "corrupt image"}] * 3
        assert dataset_card(card_settings(), card_facts(names, skipped=skipped)) == seen["theirs"]


def test_reasons_are_counted_and_not_all_listed():
    skipped = [{"reason": f"reason {number}"} for number in range(40) for _ in range(number + 1)]
    body = body_of(dataset_card(card_settings(), card_facts(["a", "b"], skipped=skipped)))
    listed = re.findall(r"^- (\d+) x reason (\d+)$", body, re.MULTILINE)
    assert [int(times) for times, _ in listed] == list(range(40, 30, -1))
    assert "820 rows were skipped" in body
    assert f"- {sum(range(1, 31))} x 30 more reasons, in `manifest.json`" in body


@pytest.mark.slow
def test_many_classes_and_long_names_make_a_card_that_reads_back():
    for names in (
        [f"species {number}" for number in range(2_000)],
        [f"{number} " + "n" * 350 for number in range(260)],
    ):
        card = dataset_card(card_settings(), card_facts(names))
        assert (
            list(
                DatasetInfosDict.from_dataset_card_data(DatasetCard(card).data)["default"]
                .features["label"]
                .names
            )
            == names
        )
        assert len(body_of(card)) < 100_000 and f"and {len(names) - 250} more classes" in card
