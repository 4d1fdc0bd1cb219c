"""Cards of trained models: YAML that the Hub takes, a body that no name can break, settings as they
were, and a snippet that runs.
"""

import ast
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from cards import EVIL, structure
from diffusers import StableDiffusionPipeline
from forking import WITHOUT_THIS_PACKAGE
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_hub import loopback_hub, run_python
from model_cards import (
    COMMIT,
    code_of,
    grouped,
    judged,
    outside_code,
    subset_of,
    table_of,
)
from trainings import adapter_settings

from sgdmix_hub import train_classifier
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.licences import Licence
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.loading import LoadedBase
from sgdmix_hub.models.bases.stable_diffusion import StableDiffusion
from sgdmix_hub.publishing.model_card import BORROWED, write_adapter_card, write_classifier_card
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.training import ClassifierSettings

VALIDATE = """
import sys
from pathlib import Path
from huggingface_hub import ModelCard

for path in sorted(Path(sys.argv[1]).glob("*.md")):
    ModelCard.load(path).validate(repo_type="model")
    print(path.name)
"""

PUSH = """
import json, sys
from pathlib import Path
from sgdmix_hub.publishing.model_card import write_adapter_card
from sgdmix_hub.hub.push import push_folder
from sgdmix_hub.settings.adapter_training import AdapterSettings

base, adapter, settings = sys.argv[1:]
facts = json.loads(Path(adapter, "adapter.json").read_text())
facts["base"] = str(push_folder(base, "birds/base"))
Path(adapter, "adapter.json").write_text(json.dumps(facts))
write_adapter_card(AdapterSettings(**json.loads(settings)), Path(adapter))
push_folder(adapter, "birds/adapter")
"""

AFTER_THE_SNIPPET = """
import sys
import numpy as np
import torch

assert image.size == (32, 32)
options = {
    "num_inference_steps": 4,
    "output_type": "np",
    "generator": torch.Generator().manual_seed(5),
}
np.save(sys.argv[1], pipeline("a photo of a <class_2> bird", **options).images)
assert sys.modules["sgdmix_hub"] is None
"""


@pytest.fixture(scope="module")
def trained_classifier(birds, classifier, tmp_path_factory):
    """The folder of a classifier that was trained and measured."""
    folder = tmp_path_factory.mktemp("trained") / "classifier"
    values = {
        "dataset_name": str(birds),
        "model": str(classifier),
        "output_dir": str(folder),
        "eval_split": "test",
    }
    train_classifier.main(ClassifierSettings(**values, num_train_epochs=1.0, learning_rate=0.02))
    return folder


@pytest.fixture(scope="module")
def classifier_card(trained_classifier, tmp_path_factory):
    """The card of that classifier with other facts or settings, as a text."""

    def made(facts=None, **values):
        folder = shutil.copytree(
            trained_classifier,
            tmp_path_factory.mktemp("card") / "c",
            ignore=shutil.ignore_patterns("state"),
        )
        known = json.loads((folder / CLASSIFIER_FACTS).read_text())
        (folder / CLASSIFIER_FACTS).write_text(json.dumps(known | (facts or {})))
        chosen = ClassifierSettings(
            **{"dataset_name": "d", "output_dir": str(folder), "eval_split": "test"} | values
        )
        write_classifier_card(chosen, folder)
        card = (folder / "README.md").read_text()
        assert str(folder) not in card
        return card

    return made


# ---- names ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        EVIL,
        "```\n# heading\n```",
        "| a | b |\n|---|---|",
        "{{ settings }}{% for x in y %}",
        "\n\n## Licence\n\nnone",
        "\u2028# x",
    ],
)
def test_a_class_of_any_name_leaves_the_structure_unharmed(name, adapter_card, classifier_card):
    names = [name, "tern", name * 2, "kite"]
    harmless = ["wren", "tern", "gull", "kite"]
    for made in (adapter_card, classifier_card):
        hostile, plain = (
            made({"class_names": chosen} | (judged() if made is adapter_card else grouped(chosen)))
            for chosen in (names, harmless)
        )
        assert structure(hostile) == structure(plain)
        assert ModelCard(hostile).data.to_dict() == ModelCard(plain).data.to_dict()
        assert "<script>" not in outside_code(hostile)
    compile(code_of(adapter_card({"class_names": names}), "python"), "snippet", "exec")


@pytest.mark.slow
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@settings(max_examples=20)
def test_a_class_of_any_text_leaves_the_structure_unharmed(name, adapter_card):
    cards = [
        adapter_card({"class_names": [chosen, "tern!", "gull!", "kite!"]})
        for chosen in (name, "wren")
    ]
    assert structure(cards[0]) == structure(cards[1])
    compile(code_of(cards[0], "python"), "snippet", "exec")


@pytest.mark.parametrize(
    "template",
    [
        'a "photo" of {token} {metaclass}',
        "it's {token} \\ {metaclass}",
        "{token}\n{metaclass}",
        "`{token}` | {metaclass}",
        "a photo of a {token} {metaclass}",
    ],
)
@pytest.mark.parametrize("metaclass", ["bird", "sports_car", EVIL])
def test_prompts_of_any_wording_stand_in_snippet_and_yaml_as_they_are(
    template, metaclass, adapter_card
):
    card = adapter_card(judged() | {"prompt_template": template, "metaclass": metaclass})
    plain = adapter_card(judged() | {"prompt_template": "of {token} {metaclass}"})
    prompt = template.replace("{token}", "<class_0>").replace("{metaclass}", metaclass)
    assert ModelCard(card).data.instance_prompt == prompt
    headings, _, *others = structure(card)
    assert headings[1:] == structure(plain)[0][1:] and others == list(structure(plain)[2:])
    calls = [
        node for node in ast.walk(ast.parse(code_of(card, "python"))) if isinstance(node, ast.Call)
    ]
    (drawing,) = [
        call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "pipeline"
    ]
    assert ast.literal_eval(drawing.args[0]) == prompt


def test_code_spans_show_words_as_they_are(adapter_card):
    """Between backticks a backslash is a character."""
    card = outside_code(adapter_card(metaclass="sports_car"))
    assert "`sports_car`" in card
    assert all("\\" not in span for span in re.findall(r"`[^`\n]+`", card))


def test_many_classes_are_counted_and_not_all_listed(adapter_card):
    names = [f"species {label}" for label in range(300)]
    card = adapter_card(
        {"class_names": names, "tokens": [f"<class_{label}>" for label in range(300)]}
    )
    listed = re.findall(r"^\| species (\d+) \| `<class_(\d+)>` \|$", card, re.MULTILINE)
    assert 0 < len(listed) < 300 and all(name == token for name, token in listed)
    assert f"and {300 - len(listed)} more classes" in card


# ---- settings ----

CHANGED = {
    "rank": 3,
    "lora_dropout": 0.25,
    "snr_gamma": 5.0,
    "lr_scheduler": "cosine",
    "with_prior_preservation": True,
    "num_vectors": 2,
    "seed": 7,
    "mixed_precision": "bf16",
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_that_is_not_the_default_is_listed_and_a_default_is_not(name, adapter_card):
    defaults = {field.name: field.default for field in dataclasses.fields(AdapterSettings)}
    kept = adapter_card(**{name: defaults[name]})
    assert name not in table_of(kept)
    assert (name in BORROWED[AdapterSettings]) == (f"{name} = {defaults[name]}" in kept)
    changed = adapter_card(**{name: CHANGED[name]})
    assert table_of(changed)[name] == str(CHANGED[name]).replace("_", r"\_")
    assert f"{name} = " not in changed


def test_the_bases_licence_is_on_the_card_if_only_the_push_could_ask_for_it(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter", ignore=shutil.ignore_patterns("state"))
    facts = json.loads((folder / FACTS_FILE).read_text()) | {"base_license": None}
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    chosen = AdapterSettings(
        dataset_name="d", output_dir="o", metaclass="bird", license="mit", allow_license="they said"
    )
    write_adapter_card(chosen, folder, Licence("openrail++", gated=True))
    card = (folder / "README.md").read_text().replace("\\", "")
    assert "licence openrail++, gated |" in card and "they said" in card
    assert "The base is gated: the Hub gives its files only to those" in card


@pytest.mark.parametrize("is_gated", [False, True])
def test_a_gated_base_is_told_on_the_card_and_only_that(is_gated, adapter_card):
    """As the training recorded it; other cards have the bytes that they had."""
    card = adapter_card({"base_license": "mit"} | ({"base_gated": True} if is_gated else {}))
    assert ("gated" in card) == is_gated
    assert table_of(card)["base"].endswith(", licence mit" + ", gated" * is_gated)


def test_what_a_run_was_made_of_is_on_its_card(
    adapter_card, classifier_card, adapter, trained_classifier
):
    facts = json.loads((adapter / FACTS_FILE).read_text())
    table = table_of(adapter_card({"base_license": "mit"}))
    assert table["base"].replace("\\", "") == f"{facts['base']}, licence mit"
    assert facts["subset"]["dataset"] in table["data"].replace("\\", "")
    assert "24 images" in table["data"]
    assert (table["rank"], table["total_batch_size"], table["learning_rate"]) == ("4", "2", "0.05")
    few = adapter_card({"subset": facts["subset"] | {"examples_per_class": 5, "subset_seed": 3}})
    assert "(5 examples_per_class, subset seed 3)" in few
    metrics = json.loads((trained_classifier / CLASSIFIER_FACTS).read_text())["metrics"]
    table = table_of(classifier_card())
    assert table["accuracy on test"] == f"{metrics['accuracy']:.4f}"
    assert table["learning_rate"] == "0.02"
    assert "weight_decay" not in table


def test_what_the_judge_said_is_told_or_that_nobody_was_asked(adapter_card):
    card = adapter_card(judged())
    assert card.count("0.500 [0.200, 0.800] of 8") == 5
    assert "accuracy 0.875 on real test images" in card
    assert "- bare-crowned white finch shown as spiky-crested white finch: 3 times" in card.replace(
        "\\", ""
    )
    assert "Not measured" not in card and "Not measured" in adapter_card()


# ---- the Hub ----


@pytest.fixture(scope="module")
def hub():
    with loopback_hub() as hub:
        yield hub


def test_the_hub_takes_the_yaml_and_finds_what_it_looks_for(
    adapter_card, classifier_card, adapter, trained_classifier, hub, tmp_path
):
    on_hub = {
        "adapter": subset_of(json.loads((adapter / FACTS_FILE).read_text()), f"birds/data@{COMMIT}")
        | {"base": f"birds/base@{COMMIT}"},
        "classifier": subset_of(
            json.loads((trained_classifier / CLASSIFIER_FACTS).read_text()), f"birds/data@{COMMIT}"
        )
        | {"model": f"birds/resnet@{COMMIT}"},
    }
    cards = {
        "evil": adapter_card({"class_names": [EVIL] * 4} | judged()),
        "local": adapter_card(),
        "local classifier": classifier_card(),
    }
    cards["adapter"] = adapter_card(
        on_hub["adapter"] | judged(), license="mit", hub_model_id="birds/adapter"
    )
    cards["classifier"] = classifier_card(
        on_hub["classifier"], license="mit", hub_model_id="birds/classifier"
    )
    for name, card in cards.items():
        (tmp_path / f"{name}.md").write_text(card)
    finished = run_python(hub, VALIDATE, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == sorted(f"{name}.md" for name in cards)
    assert len(hub.calls_of("POST", "/api/validate-yaml")) == len(cards)

    found = {name: ModelCard(card).data for name, card in cards.items()}
    assert (found["adapter"].license, found["adapter"].base_model, found["adapter"].datasets) == (
        "mit",
        "birds/base",
        ["birds/data"],
    )
    assert found["adapter"].library_name == "diffusers"
    assert found["adapter"].pipeline_tag == "text-to-image"
    assert found["classifier"].library_name == "transformers"
    assert found["classifier"].base_model == "birds/resnet"
    (result,) = found["classifier"].eval_results
    metrics = json.loads((trained_classifier / CLASSIFIER_FACTS).read_text())["metrics"]
    assert (result.metric_type, result.metric_value, result.dataset_type) == (
        "accuracy",
        metrics["accuracy"],
        "birds/data",
    )
    assert result.dataset_split == "test"
    for name in ("local", "local classifier"):  # the Hub does not know a folder of this machine
        assert found[name].base_model is None
        assert found[name].datasets is None
        assert found[name].license is None
    assert found["local classifier"].eval_results is None


@pytest.mark.slow
def test_the_snippet_on_the_card_runs_as_it_stands_in_another_process(
    tiny_base, adapter, hub, tmp_path
):
    """Base and adapter come from the Hub, and the images are those of this package's own loader."""
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    values = adapter_settings(
        "unused", tiny_base, folder, hub_model_id="birds/adapter", license="mit"
    )
    pushed = run_python(hub, PUSH, tiny_base, folder, json.dumps(values))
    assert pushed.returncode == 0, pushed.stderr
    card = hub.content("model", "birds/adapter")["README.md"].decode()
    assert hub.repository("model", "birds/base").history("main")[0].oid in code_of(card, "python")
    code = WITHOUT_THIS_PACKAGE + code_of(card, "python") + AFTER_THE_SNIPPET
    done = run_python(hub, code, tmp_path / "images.npy", token=None)
    assert done.returncode == 0, done.stderr

    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_base, safety_checker=None, requires_safety_checker=False
    )
    load_into(LoadedBase(StableDiffusion(), pipeline), read_adapter(resolve(str(adapter))))
    options = {
        "num_inference_steps": 4,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(5),
    }
    expected = pipeline("a photo of a <class_2> bird", **options).images
    assert np.array_equal(np.load(tmp_path / "images.npy"), expected)
