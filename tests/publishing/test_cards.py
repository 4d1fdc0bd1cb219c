"""Dataset cards: for any class name, the YAML reads back and the body keeps its structure."""

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
from datasets import Dataset, load_dataset
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sgdmix_hub.publishing.dataset_card import (
    LABELS,
    dataset_card,
    plain,
)
from sgdmix_hub.publishing.layout import shard_features


@pytest.mark.parametrize("name", HOSTILE)
def test_a_class_of_any_name_reads_back_and_keeps_the_cards_structure(name):
    hostile = dataset_card(card_settings(), card_facts([name, "tern"]))
    harmless = dataset_card(card_settings(), card_facts(["kite", "tern"]))
    assert names_in(hostile) == [name, "tern"]
    assert structure(hostile) == structure(harmless)
    assert "<script>" not in body_of(hostile)


@pytest.mark.slow
@given(
    name=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), min_size=1, max_size=30
    )
)
@settings(max_examples=25)
def test_a_class_of_any_text_reads_back_and_keeps_the_cards_structure(name):
    hostile = dataset_card(card_settings(), card_facts([name, "tern!"]))
    assert names_in(hostile) == [name, "tern!"]
    assert structure(hostile) == structure(
        dataset_card(card_settings(), card_facts(["kite", "tern!"]))
    )


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=100)
def test_plain_text_is_one_line_without_markup(text):
    escaped = plain(text)
    assert len(escaped.splitlines()) <= 1
    # what a backslash protects is no markup, and a brace is a character reference
    unescaped = re.sub(r"\\(.)|&#123;", "", escaped)
    assert not set(unescaped) & set("<>{`*_[]|#!~$\\")


@pytest.mark.parametrize("name", HOSTILE)
def test_titles_pins_and_reasons_are_untrusted_too(name):
    skipped = [{"source_index": 0, "variant": 0, "reason": name}]
    pins = {"dataset_name": f"{' '.join(name.split())}@sha256-{'0' * 64}"}
    hostile = dataset_card(
        card_settings(), card_facts(["kite"], title=name, skipped=skipped, pins=pins)
    )
    skipped = [{"source_index": 0, "variant": 0, "reason": "corrupt"}]
    harmless = dataset_card(
        card_settings(),
        card_facts(
            ["kite"], title="Birds", skipped=skipped, pins={"dataset_name": "birds@sha256-0"}
        ),
    )
    assert structure(hostile)[0][1:] == structure(harmless)[0][1:]
    assert structure(hostile)[1:] == structure(harmless)[1:]
    assert DatasetCard(hostile).data.pretty_name == name
    assert "<script>" not in body_of(hostile)


@pytest.mark.parametrize("config_name", ["default", "strength-0_5"])
def test_the_card_loads_a_dataset_with_names_like_these(tmp_path, config_name):
    """The card is what `load_dataset` goes by: features, files, and the number of rows."""
    names = HOSTILE[:4]
    rows = [
        {"image": Image.new("RGB", (8, 8)), "label": label, "prompt": "x", "mask": mask}
        for label, mask in enumerate([Image.new("1", (8, 8))] * 4)
    ]
    features = shard_features(names, ["mask"])
    empty = {name: 0 for name in features if name not in rows[0]}
    dataset = Dataset.from_list([empty | row for row in rows], features=features)
    folder = tmp_path / "repo" / ("data" if config_name == "default" else config_name)
    folder.mkdir(parents=True)
    dataset.to_parquet(folder / "train-00000-of-00001.parquet")
    card = dataset_card(
        card_settings(config_name=config_name), card_facts(names, rows_by_label=[1] * 4)
    )
    (tmp_path / "repo" / "README.md").write_text(card, encoding="utf-8")
    loaded = load_dataset(str(tmp_path / "repo"), config_name, split="train")
    assert loaded.features == features and loaded["label"][:] == [0, 1, 2, 3]
    assert load_dataset(str(tmp_path / "repo"), split="train").features == features


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (1_000_000, "1M<n<10M"),
        (10_000_000, "10M<n<100M"),
        (2 * 10**9, "1B<n<10B"),
    ],
)
def test_size_categories_are_the_hubs(rows, category):
    card = DatasetCard(
        dataset_card(
            card_settings(),
            card_facts(["kite", "tern"], rows_by_label=[rows // 2, rows - rows // 2]),
        )
    )
    assert card.data.size_categories == [category]
    assert (
        DatasetInfosDict.from_dataset_card_data(card.data)["default"].splits["train"].num_examples
        == rows
    )


def test_the_hub_accepts_no_unknown_fields_and_finds_the_method():
    data = DatasetCard(
        dataset_card(card_settings(strength=0.6, num_candidates=20), card_facts(["kite"]))
    ).data
    assert (data.license, data.task_categories, data.source_datasets) == (
        "cc-by-4.0",
        ["image-classification"],
        ["org/my_birds"],
    )
    method = data.to_dict()["sgdmix"]["default"]
    assert (method["strength"], method["num_candidates"], method["saliency_method"]) == (
        0.6,
        20,
        "grad-cam",
    )
    assert method["pins"]["dataset_name"] == f"org/my_birds@{COMMIT}"
    local = card_facts(["kite"], pins={"dataset_name": "birds@sha256-" + "0" * 64})
    assert DatasetCard(dataset_card(card_settings(), local)).data.source_datasets is None


def test_another_configuration_has_its_own_files_and_is_loaded_by_name():
    card = dataset_card(card_settings(config_name="strong"), card_facts(["kite"]))
    data = DatasetCard(card).data.to_dict()
    (configuration,) = data["configs"]
    assert configuration["config_name"] == "strong"
    assert configuration["data_files"] == [{"split": "train", "path": "strong/train-*"}]
    assert list(data["sgdmix"]) == ["strong"]
    assert "`sgdmix/strong/plan.parquet`" in card
    assert re.search(r'load_dataset\("[^"]+", "strong", revision="[^"]+", split="train"\)', card)
    assert re.search(r'load_published\("[^"]+", "strong"\)', card)
    assert "assets/strong/contact_sheet.png" in card and "### How it was made" in card
    assert "strong" not in dataset_card(card_settings(), card_facts(["kite"]))


def table_of(settings, **facts):
    """The card's tables: first cell -> second cell."""
    body = body_of(dataset_card(settings, card_facts(["kite"], **facts)))
    return dict(re.findall(r"^\| ([^|\n]+) \| ([^|\n]+) \|$", body, re.MULTILINE))


@pytest.mark.parametrize("preset", ["paper", "recommended"])
def test_the_table_shows_every_choice_and_the_deviations(preset):
    given_too = {"mixing_method": "source", "threshold_method": "li", "max_target_reuse": 3}
    chosen = card_settings(preset=preset, strength=0.55, num_inference_steps=10, **given_too)
    saliency = {"method": chosen.saliency_method, "trust": None}
    table, method = table_of(chosen, saliency=saliency), method_of(chosen, saliency=saliency)
    for name, label in LABELS.items():
        if name == "inpainting_method" or getattr(chosen, name) is None:  # only where they apply
            continue
        assert table[label] == str(getattr(chosen, name)) and method[name] == getattr(chosen, name)
    assert table["preset"] == f"{preset}, except threshold_method = li, mixing_method = source"
    assert table["strength S"].startswith("0.55 (effective 0.5: 10 steps")
    assert table["candidates N"] == "50"
    assert table["saliency method"] == method["saliency_method"] == chosen.saliency_method


@pytest.mark.parametrize(
    ("mixing_method", "shown"), [("union", False), ("source", False), ("inpaint", True)]
)
def test_what_had_no_part_is_not_on_the_card(mixing_method, shown):
    """How holes are filled where there are none, and a limit that nobody set."""
    chosen = card_settings(mixing_method=mixing_method)
    table, method = table_of(chosen), method_of(chosen)
    assert table["mixing"] == mixing_method
    assert (table.get("inpainting"), method.get("inpainting_method")) == (
        ("opencv", "opencv") if shown else (None, None)
    )
    assert LABELS["max_target_reuse"] not in table and "max_target_reuse" not in method


def test_a_trust_test_is_told_and_so_is_the_method_that_it_led_to():
    trust = {"foreground_accuracy": 0.25, "background_accuracy": 0.756, "images": 64}
    chosen = card_settings(
        preset="paper", trust_test="fall-back", saliency_layer="resnet.encoder.stages.2"
    )
    kept, fallen = (
        {"saliency": {"method": name, "trust": trust}} for name in ("grad-cam", "minimum-barrier")
    )
    told = (
        "accuracy 0.25 on 64 images from their foreground alone, 0.76 from their background alone"
    )
    assert (
        table_of(chosen, **kept)["trust test of the classifier"]
        == table_of(chosen, **fallen)["trust test of the classifier"]
        == told
    )
    assert (
        table_of(chosen, **kept)["saliency method"] == "grad-cam, layer `resnet.encoder.stages.2`"
    )
    assert (
        table_of(chosen, **fallen)["saliency method"]
        == "minimum-barrier (instead of grad-cam, which failed the trust test)"
    )
    assert method_of(chosen, **fallen)["saliency_method"] == "minimum-barrier"
    assert method_of(chosen, **fallen)["trust_test"] == trust
    untested = card_settings(saliency_method="minimum-barrier")
    without = {"saliency": {"method": "minimum-barrier", "trust": None}}
    assert table_of(untested, **without)["saliency method"] == "minimum-barrier"
    assert "trust test of the classifier" not in table_of(untested, **without)


def test_code_spans_show_pins_as_they_are():
    """Between backticks a backslash is a character: what is escaped for text must not stand in
    code.
    """
    body = body_of(dataset_card(card_settings(), card_facts(["kite"])))
    assert all("\\" not in span for span in re.findall(r"`[^`\n]+`", body))
    assert f"org/my_birds@{COMMIT}" in body.replace(r"\_", "_")


def test_counts_and_reasons_are_those_of_the_run():
    skipped = [
        {"source_index": index, "variant": 0, "reason": "blank saliency map"} for index in range(3)
    ]
    skipped += [{"source_index": 9, "variant": 0, "reason": "no candidate"}]
    body = body_of(
        dataset_card(
            card_settings(), card_facts(["kite", "tern"], rows_by_label=[5, 7], skipped=skipped)
        )
    )
    assert "12 images" in body and "| kite | 5 |" in body and "| tern | 7 |" in body
    assert "4 rows were skipped" in body
    assert "- 3 x blank saliency map" in body
    assert "- 1 x no candidate" in body
    assert "No row was skipped" in body_of(dataset_card(card_settings(), card_facts(["kite"])))


def test_many_classes_are_counted_and_not_all_listed():
    names = [f"species {label}" for label in range(300)]
    card = dataset_card(card_settings(), card_facts(names))
    assert names_in(card) == names
    listed = re.findall(r"^\| species \d+ \| 3 \| 2 \|$", card, re.MULTILINE)
    assert f"and {300 - len(listed)} more classes" in card and len(listed) < 300


def test_prose_stands_on_the_card_as_it_was_written(tmp_path):
    prose = "## Why\n\nBecause {{ title }} {% raw %} of *birds*.\n"
    (tmp_path / "card.md").write_text(prose)
    assert prose.strip() in body_of(
        dataset_card(card_settings(card=str(tmp_path / "card.md")), card_facts(["kite"]))
    )


def test_measured_quality_and_the_inputs_licences_are_on_the_card_where_there_are_any():
    quality = [("accuracy | on <test>", "0.912")]
    pins = {
        "dataset_name": f"org/my_birds@{COMMIT}",
        "pretrained_model_name_or_path": f"org/base@{COMMIT}",
    }
    licenses = {"dataset_name": "cc-by-4.0", "pretrained_model_name_or_path": None}
    card = dataset_card(
        card_settings(), card_facts(["kite"], quality=quality, pins=pins, licenses=licenses)
    )
    assert "## Measured quality" in card and "| accuracy \\| on &lt;test&gt; | 0.912 |" in card
    assert re.search(r"the source images \(cc-by-4\.0\), the base model\s+\(not stated\)", card)
    assert "https://huggingface.co/datasets/org/my_birds" in card
    assert "## Measured quality" not in dataset_card(card_settings(), card_facts(["kite"]))


def test_a_gated_base_is_told_on_the_card_and_only_that():
    pins = {"dataset_name": f"org/my_birds@{COMMIT}"}
    pins["pretrained_model_name_or_path"] = f"org/base@{COMMIT}"
    licenses = {"dataset_name": None, "pretrained_model_name_or_path": "openrail"}
    known = {"pins": pins, "licenses": licenses}
    open_, gated = (
        dataset_card(card_settings(), card_facts(["kite"], gated=names, **known))
        for names in ([], ["pretrained_model_name_or_path"])
    )
    told = " The base model is gated: the Hub gives its files only to those who accepted its terms."
    assert gated.count(told) == 1 and gated.replace(told, "") == open_


def test_local_inputs_are_named_where_the_card_says_how_to_make_it_again():
    local = card_facts(
        ["kite"], pins={"dataset_name": "birds@sha256-0", "adapter": "org/a@" + COMMIT}
    )
    assert "give their paths with `--dataset_name`." in dataset_card(card_settings(), local)
    assert "give their paths" not in dataset_card(card_settings(), card_facts(["kite"]))
