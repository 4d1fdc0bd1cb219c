"""Cards with broken, deep or huge YAML are refused, and honest ones merged."""

import pytest
from cards import card_facts, card_settings
from untrusted import nested, refused

from sgdmix_hub.publishing.card_merge import merge_cards, newest_versions
from sgdmix_hub.publishing.dataset_card import dataset_card


def of_sgdmix(text: str) -> str:
    return f"sgdmix:\n  other:\n    {text}\n"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
CARDS = {
    "a date that is none": "a: 2026-99-99\n",
    "history of texts": of_sgdmix("history: [x]"),
    "history without a version": of_sgdmix("history: [{rows: 3, changed: {}}]"),
    "history without changes": of_sgdmix("history: [{version: v1, rows: 3}]"),
    "history with changes that are none": of_sgdmix(
        "history: [{version: v1, rows: 3, changed: {seed: 1}}]"
    ),
    "history with a version that is a list": of_sgdmix(
        "history: [{version: [v1], rows: 3, changed: {}}]"
    ),
    "configs of texts": "configs: [a]\n",
    "configs with a name that is a list": "configs: [{config_name: [a]}]\n",
    "dataset_info of texts": "dataset_info: [a]\n",
    "dataset_info with a name that is a mapping": "dataset_info: {config_name: {a: b}}\n",
    "nested 2,000 times": f"a: {nested(2_000)}\n",
    "nested 200,000 times": f"a: {nested(200_000)}\n",
    "nested 2,000 times by indents": "".join("  " * depth + "a:\n" for depth in range(2_000)),
    "examples that are a text": "dataset_info: [{config_name: x, "
    "splits: [{name: train, num_examples: many}]}]\n",
    "splits that are a text": "dataset_info: [{config_name: x, splits: many}]\n",
    "a number that is none": "a: !!int x\n",
    "a number of 5,000 digits": "a: " + "9" * 5_000 + "\n",
    "a tag of Python": "a: !!python/object/apply:os.system ['true']\n",
    "a list that holds itself": "a: &a [*a]\n",
    "aliases that stand for a thousand million values": BOMB,
    "mappings merged a thousand million times": "a: &a {x: 1}\n"
    + "".join(
        f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 10)}], {b}: 1}}\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "pairs that stand for a thousand million": "a: &a !!pairs [x: y]\n"
    + "".join(
        f"{b}: &{b} !!pairs [{', '.join(['x: *' + a] * 10)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "aliases of aliases": "a: &a [x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1 if n else ''}]\n" for n in range(3_000)),
    "a key that is a list": "? [a]\n: b\n",
    "bytes that are no text": "a: \x00\n",
    "a lone surrogate": 'a: "\\ud800"\n',
}


@pytest.fixture(scope="module")
def run_card():
    return dataset_card(
        card_settings(config_name="default"), card_facts(["kite", "tern"], rows_by_label=[3, 3])
    )


@pytest.mark.parametrize("attack", CARDS)
def test_a_malformed_card_is_refused_by_whoever_reads_it(attack, run_card):
    theirs = f"---\n{CARDS[attack]}---\n\n# Title\n"
    for read in (
        lambda: merge_cards(theirs, run_card, "default", "org/x", "v1.0.0"),
        lambda: newest_versions(theirs),
    ):
        assert "README.md" in refused(read)


@pytest.mark.parametrize(
    "text",
    ["configs: null\n", "dataset_info: null\n", "configs: {config_name: x}\n", "sgdmix: null\n"],
)
def test_a_card_that_says_nothing_in_these_maps_is_completed(text, run_card):
    card = merge_cards(f"---\n{text}---\n\n# Title\n", run_card, "default", "org/x", "v1.0.0")
    assert "# Title" in card and newest_versions(card) == {"v1.0.0"}


def test_marks_by_the_thousand_are_read_in_one_pass(run_card):
    """Begun and never ended: looked for from each of them on, these took minutes."""
    body = "<!-- sgdmix-versions:begin -->\n" * 30_000
    assert "sgdmix:default:begin" in merge_cards(
        f"# Title\n{body}", run_card, "default", "org/x", "v1.0.0"
    )


@pytest.mark.slow
def test_a_card_of_ten_thousand_classes_is_merged_and_read_back():
    names = [f"class {number}" for number in range(10_000)]
    card = dataset_card(
        card_settings(config_name="default"), card_facts(names, rows_by_label=[1] * len(names))
    )
    merged = merge_cards(None, card, "default", "org/x", "v1.0.0")
    assert newest_versions(merge_cards(merged, card, "default", "org/x", "v2.0.0")) == {"v2.0.0"}
