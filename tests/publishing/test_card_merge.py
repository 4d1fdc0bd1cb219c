"""The card of a repository and the card of one configuration, merged: nothing of the others is
lost, whatever stands there.
"""

import pytest
import yaml
from cards import COMMIT, HOSTILE, card_facts, card_settings, structure
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.errors import UserError
from sgdmix_hub.publishing.card_merge import merge_cards, read_card, same_on_card
from sgdmix_hub.publishing.dataset_card import dataset_card

REPO = "org/birds-sgdmix"


def run_card(config_name="default", names=("kite",), rows=3, facts=None, **values):
    """What a run writes."""
    facts = card_facts(list(names), **({"rows_by_label": [rows] * len(names)} | (facts or {})))
    return dataset_card(card_settings(config_name=config_name, **values), facts)


def merged(*cards, theirs=None):
    """The card after publications of (configuration, card, version), one after the other."""
    for config_name, ours, version in cards:
        theirs = merge_cards(theirs, ours, config_name, REPO, version)
    return theirs


def data_of(card):
    return DatasetCard(card).data.to_dict()


def defaults_of(card):
    return [config["config_name"] for config in data_of(card)["configs"] if config.get("default")]


def test_a_first_version_is_the_runs_card_with_its_names_filled_in():
    card = merged(("default", run_card(), "v1.0.0"))
    assert f'load_dataset("{REPO}", revision="v1.0.0", split="train")' in card
    assert f"hf://datasets/{REPO}@v1.0.0/sgdmix/default/config.yaml" in card
    assert "path/or/name" not in card and "version-of-this" not in card
    assert data_of(card)["sgdmix"]["default"]["history"] == [
        {"version": "v1.0.0", "rows": 3, "changed": {}}
    ]
    assert same_on_card(card, run_card(), "default", "org/renamed", "v1.0.0")
    assert not same_on_card(card, run_card(rows=4), "default", REPO, "v1.0.0")


def test_merging_again_changes_nothing():
    """An attempt whose tag was never set is repeated: the same version is not there twice, and the
    versions before it are as they were.
    """
    one, two, strong = run_card(), run_card(strength=0.5), run_card("strong")
    card = merged(
        ("default", one, "v1.0.0"), ("strong", strong, "v1.1.0"), ("default", two, "v1.2.0")
    )
    assert merged(("default", two, "v1.2.0"), theirs=card) == card
    other = merged(("default", run_card(strength=0.6), "v1.2.0"), theirs=card)
    assert data_of(other)["sgdmix"]["default"]["history"][-1] == {
        "version": "v1.2.0",
        "rows": 3,
        "changed": {"strength": [0.7, 0.6]},
    }
    assert merged(("default", two, "v1.2.0"), theirs=other) == card


def test_versions_are_listed_in_their_order_with_what_changed():
    pins = {"dataset_name": f"org/my_birds@{'1' * 40}", "adapter": f"org/birds_adapter@{COMMIT}"}
    card = merged(
        ("default", run_card(), "v1.9.0"),
        ("strong", run_card("strong", strength=0.9), "v1.9.1"),
        (
            "default",
            run_card(rows=5, strength=0.5, facts={"pins": pins, "versions": {"torch": "2.15.0"}}),
            "v1.10.0",
        ),
        (
            "default",
            run_card(rows=5, strength=0.5, facts={"pins": pins, "versions": {"torch": "2.15.0"}}),
            "v1.10.1",
        ),
    )
    table = [line for line in card.splitlines() if line.startswith("| v1.")]
    assert [line.split(" | ")[0] for line in table] == [
        "| v1.9.0",
        "| v1.9.1",
        "| v1.10.0",
        "| v1.10.1",
    ]
    assert table[1] == "| v1.9.1 | strong | 3 | first version |"
    assert table[3].endswith("| the same settings |")
    changed = data_of(card)["sgdmix"]["default"]["history"][1]["changed"]
    assert changed["strength"] == [0.7, 0.5]
    assert changed["torch"] == ["2.14.1", "2.15.0"]
    assert changed["sgdmix_hub"] == ["0.1.0", None]
    assert changed["dataset_name"] == [f"org/my_birds@{COMMIT}", pins["dataset_name"]]


@pytest.mark.parametrize(
    ("order", "default"),
    [
        (["default", "strong"], "default"),
        (["strong", "default"], "default"),
        (["strong", "weak"], "strong"),
        (["weak"], "weak"),
    ],
)
def test_exactly_one_configuration_is_the_default(order, default):
    card = merged(*((name, run_card(name), f"v{number}") for number, name in enumerate(order)))
    assert defaults_of(card) == [default]
    infos = DatasetInfosDict.from_dataset_card_data(DatasetCard(card).data)
    assert set(infos) == set(order)
    assert all(infos[name].splits["train"].num_examples == 3 for name in order)


def test_rows_of_all_configurations_count_for_the_size():
    card = merged(
        ("default", run_card(rows=600), "v1"), ("strong", run_card("strong", rows=600), "v2")
    )
    assert data_of(card)["size_categories"] == ["1K<n<10K"]
    smaller = merged(("strong", run_card("strong", rows=3), "v3"), theirs=card)
    assert data_of(smaller)["size_categories"] == ["n<1K"]


def test_licences_and_sources_of_all_configurations_are_stated():
    strong = run_card(
        "strong", license="mit", facts={"pins": {"dataset_name": f"org/other@{COMMIT}"}}
    )
    data = data_of(merged(("default", run_card(), "v1"), ("strong", strong, "v2")))
    assert data["license"] == ["cc-by-4.0", "mit"]
    assert data["source_datasets"] == ["org/my_birds", "org/other"]
    again = data_of(
        merged(
            ("default", run_card(license="mit"), "v3"), theirs=merged(("default", run_card(), "v1"))
        )
    )
    assert again["license"] == "mit"


def test_other_sections_are_kept_verbatim_and_what_people_wrote_too():
    first = merged(("default", run_card(), "v1"), ("strong", run_card("strong"), "v2"))
    edited = first.replace("# Birds by SGD-Mix", "# Ours\n\nHello.").replace(
        "## Configuration strong", "## Configuration strong (mine)"
    )
    edited = (
        edited.replace("\nlicense:", "\nextra_gated_prompt: Be nice.\nlicense:", 1)
        + "\n## Thanks\n"
    )
    card = merged(("default", run_card(strength=0.5), "v3"), theirs=edited)
    for kept in (
        "# Ours\n\nHello.",
        "## Configuration strong (mine)",
        "## Thanks",
        "extra_gated_prompt: Be nice.",
    ):
        assert card.count(kept) == 1
    assert (
        card.count("sgdmix:default:begin")
        == card.count("sgdmix:strong:begin")
        == card.count("sgdmix-versions:begin")
        == 1
    )
    assert "| strength S | 0.5 (" in card


def test_a_card_with_the_line_ends_of_windows_is_merged_too():
    card = merged(("default", run_card(), "v1"))
    assert merged(("default", run_card(), "v1"), theirs=card.replace("\n", "\r\n")) == card


@pytest.mark.parametrize(
    "theirs",
    [
        "",
        "# Only words\n",
        "---\nlicense: mit\nviewer: false\n---\n",
        "---\n- a\n---\n\nBody\n",
        "---\n",
    ],
)
def test_cards_that_are_not_of_this_package_are_completed(theirs):
    card = merged(("default", run_card(), "v1"), theirs=theirs)
    data = data_of(card)
    assert data["license"] == "cc-by-4.0" and defaults_of(card) == ["default"]
    assert data.get("viewer") is (False if "viewer" in theirs else None)
    assert all(line in card for line in ("# Only words", "Body") if line in theirs)


def test_a_card_that_cannot_be_read_is_told():
    with pytest.raises(UserError, match=r"README\.md cannot be read"):
        merged(("default", run_card(), "v1"), theirs="---\nlicense: [mit\n---\n")
    broken = merged(("default", run_card(), "v1")).replace("<!-- sgdmix:default:end -->", "")
    with pytest.raises(UserError, match="one of the two marks of default"):
        merged(("default", run_card(), "v2"), theirs=broken)


@pytest.mark.parametrize(
    "lost", ["<!-- sgdmix:default:begin -->", "<!-- sgdmix:default:end -->", "sgdmix:"]
)
def test_a_runs_card_that_lost_its_marks_is_told(lost):
    with pytest.raises(UserError, match="run the generation again"):
        merged(("default", run_card().replace(f"\n{lost}", "\nlost:"), "v1"))


@pytest.mark.parametrize("name", [name for name in HOSTILE if isinstance(name, str)])
def test_hostile_names_pass_through_any_number_of_merges(name):
    def three(word):
        facts = {"pins": {"dataset_name": f"{' '.join(word.split()) or 'x'}@sha256-0"}}
        cards = (
            ("default", run_card(names=(word, "tern")), "v1"),
            ("strong", run_card("strong", names=(word, "tern")), "v2"),
        )
        return merged(*cards, ("default", run_card(names=(word, "tern"), facts=facts), "v3"))

    card = three(name)
    infos = DatasetInfosDict.from_dataset_card_data(DatasetCard(card).data)
    assert [infos[config].features["label"].names for config in ("default", "strong")] == [
        [name, "tern"]
    ] * 2
    assert structure(card) == structure(three("kite"))


@pytest.mark.slow
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60))
@settings(max_examples=60)
def test_any_text_is_a_card_that_can_be_merged_with(text):
    card = merged(("default", run_card(), "v1"), theirs=text)
    assert merged(("default", run_card(), "v1"), theirs=card) == card
    assert read_card(card).data["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    "prose", ["```\ncode", "~~~~\n~~~\n", "<!-- open", "<!-- sgdmix:default:end -->", "closed -->"]
)
def test_prose_that_would_swallow_the_card_is_refused(prose, tmp_path):
    (tmp_path / "card.md").write_text(prose)
    with pytest.raises(UserError, match="card"):
        run_card(card=str(tmp_path / "card.md"))


def test_prose_with_code_and_comments_stands_as_it_is(tmp_path):
    prose = "## Why\n\n```bash\n# no heading\n```\n<!-- note -->\n~~~\n```\n~~~"
    (tmp_path / "card.md").write_text(prose)
    assert prose in merged(("default", run_card(card=str(tmp_path / "card.md")), "v1"))


def test_the_yaml_of_a_merged_card_holds_no_tags_of_python():
    card = merged(("default", run_card(strength=[0.3, 0.5]), "v1"), ("default", run_card(), "v2"))
    assert "!!" not in card.split("\n---\n")[0]
    assert yaml.safe_load(card[4:].partition("\n---\n")[0])["sgdmix"]
