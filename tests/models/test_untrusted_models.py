"""Malformed facts of adapters and classifiers are refused."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from untrusted import COMMIT, nested, refused

from sgdmix_hub.hub.formats import read_classifier_facts
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, TOKENS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.loading import LoadedBase
from sgdmix_hub.models.bases.stable_diffusion import StableDiffusion

ARM = {"accuracy": 7, "interval": [0, 1], "images": 3, "by_class": []}
ADAPTERS = {
    "a base that is a path": {"base": "/home/ada/models/private"},
    "a base that is a folder here": {"base": "models"},
    "a base at a branch": {"base": "org/base@main"},
    "no base": {"base": None},
    "class names a text": {"class_names": "tern"},
    "class names of numbers": {"class_names": [1, 2]},
    "a class name that is no text": {"class_names": ["\ud800"]},
    "a template without its places": {"prompt_template": "{x.__class__} {token}"},
    "a template of two lines": {"prompt_template": "{token}\n{metaclass}"},
    "a template that is long": {"prompt_template": "{token} {metaclass}" + "x" * 5000},
    "a template that is none": {"prompt_template": ["{token}", "{metaclass}"]},
    "a metaclass of control characters": {"metaclass": "bird\x1b[2J"},
    "no subset": {"subset": None},
    "a subset of another form": {
        "subset": {"dataset": 5, "dataset_split": [], "dataset_config_name": {}}
    },
    "a format that is a text": {"format": "1"},
    "a format of later": {"format": 2},
    "a licence of two lines": {"base_license": "mit\n---\n# x"},
    "fidelity of another form": {"fidelity": {"judge": "x", "arms": []}},
    "shares beyond 1": {
        "fidelity": {
            "judge": f"org/judge@{COMMIT}",
            "strength": 0.7,
            "arms": {"noise, adapter": ARM, "mixed, adapter": ARM},
        }
    },
}


@pytest.mark.parametrize("attack", ADAPTERS)
def test_a_malformed_adapter_is_refused(attack, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    read_adapter(resolve(str(folder)))
    facts = json.loads((folder / FACTS_FILE).read_text()) | ADAPTERS[attack]
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    assert "adapter" in refused(read_adapter, resolve(str(folder)))


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "{", "{}", '{"format": 1}', nested(50_000), '{"format": NaN}', "\x00"],
)
def test_an_adapter_whose_facts_are_no_facts_is_refused(content, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    (folder / FACTS_FILE).write_text(content)
    assert FACTS_FILE in refused(read_adapter, resolve(str(folder)))


def test_an_adapter_without_a_token_for_every_class_is_refused(adapter, tmp_path):
    """The prompt of such a class would be a word that the text encoder never learned."""
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    tokens = load_file(folder / TOKENS_FILE)
    save_file(dict(list(tokens.items())[1:]), folder / TOKENS_FILE, metadata={"format": "pt"})
    base = LoadedBase(StableDiffusion(), None)
    assert "no learned token" in refused(load_into, base, read_adapter(resolve(str(folder))))


def test_fields_in_a_template_are_text(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    facts = json.loads((folder / FACTS_FILE).read_text()) | {
        "prompt_template": "{0.__class__} {token} {metaclass} %s {x[y]}"
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    assert read_adapter(resolve(str(folder))).prompt(0).startswith("{0.__class__} ")


SUBSET = {
    "dataset": f"org/birds@{COMMIT}",
    "dataset_config_name": None,
    "dataset_split": "train",
    "rows_sha256": "0" * 64,
}


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "7",
        "[]",
        nested(50_000),
        {"subset": None},
        {"subset": SUBSET | {"rows_sha256": 5}},
        {"subset": SUBSET | {"dataset": "/home/ada"}},
    ]
    + [
        {"subset": SUBSET, name: value}
        for name, value in (
            ("metrics", 3),
            ("metrics", {"accuracy": "high"}),
            ("metrics", {"accuracy": 1e9}),
        )
    ]
    + [
        {"subset": SUBSET, "settings": []},
        {"subset": SUBSET, "settings": {"eval_split": "\x07"}},
        {"subset": SUBSET, "synthetic": "x"},
    ],
)
def test_malformed_facts_of_a_classifier_are_refused(facts, tmp_path):
    (tmp_path / "classifier.json").write_text(
        facts if isinstance(facts, str) else json.dumps(facts)
    )
    assert "classifier.json" in refused(read_classifier_facts, tmp_path / "classifier.json")


def test_a_classifier_from_elsewhere_has_no_facts(tmp_path):
    assert read_classifier_facts(tmp_path / "classifier.json") == {}
    (tmp_path / "classifier.json").write_text(
        json.dumps({"subset": SUBSET, "metrics": {"accuracy": 0.5}, "more": "than is read"})
    )
    assert read_classifier_facts(tmp_path / "classifier.json")["metrics"] == {"accuracy": 0.5}
