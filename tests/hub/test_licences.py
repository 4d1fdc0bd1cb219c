"""What is read of a base model's licence, told, and refused."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelInfo, constants
from hypothesis import given
from hypothesis import strategies as st
from launching import ROOT
from loopback_hub import run_client

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import write_json
from sgdmix_hub.generation.inputs import Inputs
from sgdmix_hub.generation.repository import base_licence, stated
from sgdmix_hub.hub.licences import (
    OTHER,
    TERMS,
    Licence,
    check_license,
    conflict,
    licence_line,
    licence_of,
    stated_license,
    terms_table,
)
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.adapters import FACTS_FILE, Adapter
from sgdmix_hub.publishing.model_card import _allowed
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.train_adapter import check_base_license

FLUX = "flux-1-dev-non-commercial-license"


def adapter_settings(**values):
    return AdapterSettings(dataset_name="a/b", output_dir="out", metaclass="bird", **values)


def local(folder, yaml):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(f"---\n{yaml}---\n")
    return Pin("base", "sha256-0", str(folder))


def test_the_licence_is_read_from_the_cards_yaml_and_not_from_the_name(tmp_path):
    named = f"license: other\nlicense_name: {FLUX}\n"
    for yaml, text, name in (
        ("license: openrail++\n", "openrail++", "openrail++"),
        (named, f"other ({FLUX})", FLUX),
        ("license: other\n", "other", "other"),
        ("license: [mit, apache-2.0]\n", "mit, apache-2.0", "mit, apache-2.0"),
        ("tags: [x]\n", None, None),
    ):
        found = licence_of(local(tmp_path / "stable-diffusion-v1-5", yaml))
        assert (found.text, found.name, found.gated) == (text, name, False)
    assert stated_license(local(tmp_path / "x", named)) == f"other ({FLUX})"


@pytest.mark.slow
def test_the_hub_is_asked_for_the_card_at_the_commit(hub):
    """The licence may have changed since."""
    found = run_client(
        hub,
        """
from sgdmix_hub.hub.licences import stated_license
from sgdmix_hub.hub.pins import resolve

api.create_repo("birds/base")
commits = [
    api.upload_file(
        path_or_fileobj=f"---\\nlicense: {text}\\n---\\n".encode(),
        path_in_repo="README.md",
        repo_id="birds/base",
    ).oid
    for text in ("openrail++", "mit")
]
print(json.dumps([stated_license(resolve(f"birds/base@{commit}")) for commit in commits]))
""",
    )
    assert found == ["openrail++", "mit"]


def test_a_licence_without_known_terms_is_told_and_refuses_nothing():
    for text in (None, "my-own", "other (acme-terms)", "flux-non-commercial-license"):
        for chosen in ("mit", "cc-by-nc-4.0", "anything"):
            check_license(Licence(text), chosen, None)
    line = licence_line(Pin("org/base", "0" * 40), Licence("my-own", gated=True))
    assert (
        line == "base model org/base: licence my-own, gated: read it, its terms are not known here"
    )
    assert "no licence is known" in licence_line(Pin("org/base", "0" * 40), Licence(None))


def test_terms_of_use_and_outputs_are_told():
    line = licence_line(Pin("org/flux", "0" * 40), Licence(f"other ({FLUX})", gated=True))
    assert re.search(r"gated: non-commercial use only; of outputs: any use, also commercial", line)


@given(st.sampled_from(sorted(TERMS)), st.text(max_size=20))
def test_a_licence_can_be_passed_on_as_it_is_and_a_reason_is_heard(name, chosen):
    for text in (name, f"{OTHER} ({name})"):
        assert (conflict(text, name) is None) == TERMS[name].shares
        own_words = TERMS[name].shares and TERMS[name].by_other
        assert (conflict(text, OTHER) is None) == own_words
        check_license(Licence(text), chosen, "the author agreed")
        if conflict(text, chosen) is not None:
            with pytest.raises(UserError, match="--allow_license") as raised:
                check_license(Licence(text), chosen, None)
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [FLUX, "sai-nc-community", "stabilityai-ai-community", "openrail"])
def test_terms_that_must_be_passed_on_forbid_a_free_licence(name):
    for chosen in ("mit", "apache-2.0", "cc-by-4.0"):
        with pytest.raises(UserError, match=f"license {chosen}: .*{name}"):
            check_license(Licence(name), chosen, None)


FREE = ("mit", "apache-2.0", "cc-by-4.0", "openrail++", "cc0-1.0")
NO_PROFIT = ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0")


@pytest.mark.parametrize(
    ("base", "allowed", "refused"),
    [
        ("cc-by-nc-4.0", (*NO_PROFIT, OTHER), (*FREE, "cc-by-sa-4.0")),
        ("cc-by-nc-sa-4.0", ("cc-by-nc-sa-4.0",), (*FREE, "cc-by-nc-4.0", OTHER, "cc-by-sa-4.0")),
        ("cc-by-nc-sa-2.0", ("cc-by-nc-sa-2.0", "cc-by-nc-sa-4.0"), (*FREE, "cc-by-nc-2.0")),
        ("cc-by-nc-sa-3.0", ("cc-by-nc-sa-4.0",), ("cc-by-nc-sa-2.0",)),
        ("cc-by-sa-4.0", ("cc-by-sa-4.0", "CC-BY-SA-4.0"), (*FREE, *NO_PROFIT)),
        ("cc-by-nc-nd-4.0", (), (*FREE, *NO_PROFIT, OTHER)),
        ("cc-by-nd-4.0", (), (*FREE, "cc-by-nd-4.0", OTHER)),
        ("mit", (*FREE, *NO_PROFIT, OTHER), ()),
    ],
)
def test_what_creative_commons_forbid_is_refused(base, allowed, refused):
    """By their FAQ's chart of the licences that an adaptation may have."""
    for chosen in allowed:
        check_license(Licence(base), chosen, None)
    for chosen in refused:
        with pytest.raises(UserError, match=f"license {re.escape(chosen)}: .*{base}") as raised:
            check_license(Licence(base), chosen, None)
        assert ("forbids to share" in str(raised.value)) == ("-nd-" in base)
        check_license(Licence(base), chosen, "the author agreed")
    told = licence_line(Pin("org/base", "0" * 40), Licence(base))
    assert ("may not be published" in told) == ("-nd-" in base)


def test_no_answer_is_not_no_licence(tmp_path, monkeypatch):
    """Without the Hub, a push of an adapter would pass a check that knows nothing."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    unanswered = licence_of(Pin("org/base", "0" * 40))
    assert unanswered == Licence(None, is_answered=False)
    with pytest.raises(UserError, match="the Hub does not answer .*: try again") as raised:
        check_license(unanswered, "mit", None)
    assert "\n" not in str(raised.value)
    check_license(unanswered, "mit", "the author agreed")
    for silent in (Pin("base", "sha256-0", str(tmp_path)), Pin("base", "sha256-0")):
        assert licence_of(silent) == Licence(None)
        check_license(licence_of(silent), "mit", None)


def test_a_gated_repository_without_a_card_is_told_as_gated(monkeypatch):
    info = ModelInfo(id="org/base", gated="manual", tags=[])
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **options: info)
    assert licence_of(Pin("org/base", "0" * 40)) == Licence(None, gated=True)


def test_the_recorded_licence_of_the_base_counts_when_a_finished_adapter_is_pushed(tmp_path):
    """The base's card may state another one, or none, by then."""
    settings = adapter_settings(license="mit", push_to_hub=True, hub_model_id="org/adapter")
    check_base_license(settings, Licence(None), tmp_path)
    write_json(tmp_path / FACTS_FILE, {"base_license": "openrail++"})
    with pytest.raises(UserError, match="license mit: .*openrail"):
        check_base_license(settings, Licence(None), tmp_path)
    check_base_license(replace(settings, push_to_hub=False), Licence(None), tmp_path)


def test_a_strangers_adapter_does_not_speak_for_the_base(tmp_path):
    adapter = Adapter("unused", {"base_license": "mit"})

    def stated_of(base):
        split = SimpleNamespace(pin=base)
        return base_licence(Inputs(split, base, adapter, base, None))

    base = local(tmp_path / "base", "license: openrail++\n")
    assert stated_of(base) == Licence("openrail++")
    assert stated_of(local(tmp_path / "silent", "tags: [x]\n")) == Licence("mit")


def test_the_reason_stands_on_the_card_only_where_it_was_needed():
    def allowed(license, reason):
        settings = adapter_settings(license=license, allow_license=reason)
        return _allowed(settings, {"base_license": "openrail++"})

    assert allowed("openrail++", "why") is None and allowed("mit", None) is None
    found = allowed("mit", "*we* asked")
    assert found["reason"] == r"\*we\* asked" and "openrail" in found["conflict"]


def test_the_dataset_card_states_the_licence_of_an_own_adapter_too(tmp_path):
    adapter = local(tmp_path / "adapter", "license: cc-by-nc-4.0\n")
    split = SimpleNamespace(pin=adapter, labels=np.array([0]), subset=[0], class_names=["kite"])
    inputs = Inputs(split, adapter, Adapter("unused", {}), adapter, None)
    settings = AugmentSettings(dataset_name="a/b", output_dir="out")
    facts = stated(settings, inputs)
    assert facts["licenses"]["adapter"] == "cc-by-nc-4.0" and "adapter_files" not in facts


def test_the_manifest_states_a_gated_base_and_nothing_of_others(tmp_path, monkeypatch):
    dataset = local(tmp_path / "dataset", "license: mit\n")
    split = SimpleNamespace(pin=dataset, labels=np.array([0]), subset=[0], class_names=["kite"])
    inputs = Inputs(split, None, None, Pin("org/base", "0" * 40), None)
    settings = AugmentSettings(dataset_name="a/b", output_dir="out")
    for gated in (False, "auto", "manual"):
        info = ModelInfo(id="org/base", gated=gated, tags=[])
        monkeypatch.setattr(HfApi, "repo_info", lambda *_, info=info, **options: info)
        told = ["pretrained_model_name_or_path"] if gated else None
        assert stated(settings, inputs).get("gated") == told


def test_the_documentation_has_the_table():
    assert terms_table() in (ROOT / "docs" / "publishing.md").read_text(), terms_table()
