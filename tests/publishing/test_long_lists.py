"""Manifests whose long lists are in Parquet files beside them: shorter to load, and the same to
whoever reads them.
"""

import json
import shutil
import uuid
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cards import card_facts, card_settings
from generations import digests, flip, tiny_run
from published_versions import LOAD, loaded, local_files, pushed
from untrusted import refused

from sgdmix_hub import augment
from sgdmix_hub._version import FORMAT, LISTS_FORMAT
from sgdmix_hub.files import sealed, write_json
from sgdmix_hub.hub import manifests
from sgdmix_hub.hub.manifests import LONG_LISTS, list_paths, read_manifest, write_manifest
from sgdmix_hub.publishing import dataset_card as cards
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.publishing.versions import read_version
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.hub import HubSettings
from sgdmix_hub.storage.stores import opened

MANIFEST = "sgdmix/default/manifest.json"
SETTINGS = HubSettings(hub_dataset_id="org/x", tag="v1.0.0", allow_local_inputs=True)


@pytest.fixture(scope="module")
def long_lists(first_version, tmp_path_factory):
    """`first_version` as if it had skipped three rows and its limit were two."""
    repo = shutil.copytree(first_version / "repo", tmp_path_factory.mktemp("long") / "repo")
    manifest = read_manifest(repo / MANIFEST)
    manifest["skipped"] = [
        {"source_index": row, "variant": 0, "reason": f"corrupt image: ünreadable {row}"}
        for row in range(3)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(manifests, "LONGEST_LIST", 2)
        return repo, write_manifest(repo / MANIFEST, manifest)


@pytest.fixture
def copy(long_lists, tmp_path):
    return shutil.copytree(long_lists[0], tmp_path / "copy")


def test_the_manifest_is_short_and_read_as_before(long_lists, first_version):
    repo, written = long_lists
    compact = json.loads((repo / MANIFEST).read_text())
    assert set(compact["lists"]) == {*LONG_LISTS} and compact["format"] == LISTS_FORMAT
    assert not {"skipped", "files"} & set(compact) and "real_rows" not in compact["stated"]
    manifest = read_manifest(repo / MANIFEST)
    assert manifest == sealed(written) | {"seal": manifest["seal"]}
    whole = read_manifest(first_version / "repo" / MANIFEST)
    beside = {f"sgdmix/default/{path.name}" for path in list_paths(repo / MANIFEST)}
    assert set(manifest["files"]) == set(whole["files"]) | beside
    assert manifest["format"] == whole["format"] == FORMAT
    assert manifest["stated"] == whole["stated"] and len(manifest["skipped"]) == 3
    assert len(load_published(str(repo)).dataset) == 12
    version = read_version(repo, SETTINGS, 1.0)
    assert beside < set(version.files), "published with the rest"


def test_a_short_list_stays_in_the_manifest(first_version, tmp_path):
    path = tmp_path / "sgdmix" / "default" / "manifest.json"
    path.parent.mkdir(parents=True)
    before = first_version / "repo" / MANIFEST
    write_manifest(path, read_manifest(before))
    assert path.read_bytes() == before.read_bytes()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", LONG_LISTS)
def test_a_list_that_was_damaged_is_named(name, copy):
    file = copy / MANIFEST.replace("manifest.json", f"{name}.parquet")
    before = file.read_bytes()
    for damage in (partial(flip, seed=0), Path.unlink, partial(Path.write_bytes, data=b"")):
        damage(file)
        for read in (lambda: load_published(str(copy)), lambda: read_version(copy, SETTINGS, 1.0)):
            assert f"{name}.parquet" in refused(read)
        file.write_bytes(before)
    assert len(load_published(str(copy)).dataset) == 12


def pointing_at(copy, name, table):
    """Writes a list of an attacker's, with the digests that it needs."""
    path = copy / MANIFEST
    file = path.with_name(f"{name}.parquet")
    pq.write_table(table, file)
    compact = json.loads(path.read_text())
    facts = manifests._list_files(path, {name: {"sha256": "", "bytes": 0}})
    assert len(facts) == 1
    compact["lists"][name] = {
        "sha256": manifests.file_sha256(file),
        "bytes": file.stat().st_size,
        "count": len(table),
    }
    write_json(path, sealed(compact))


ATTACKS = {
    "a name above": ("files", {"name": ["../../etc/passwd"], "sha256": ["0" * 64], "bytes": [1]}),
    "no checksum": ("files", {"name": ["data/x"], "sha256": [None], "bytes": [1]}),
    "another column": ("skipped", {"source_index": [0], "path": ["/etc/passwd"]}),
    "below zero": ("real_rows", {"real_rows": [-1]}),
    "a surplus": ("skipped", {"source_index": [-1], "variant": [0], "reason": ["x"]}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_list_of_an_attacker_has_the_form_of_the_manifest_or_is_refused(attack, copy):
    name, columns = ATTACKS[attack]
    schema = LONG_LISTS[name].schema if set(columns) == set(LONG_LISTS[name].schema.names) else None
    pointing_at(copy, name, pa.table(columns, schema=schema))
    for read in (lambda: load_published(str(copy)), lambda: read_version(copy, SETTINGS, 1.0)):
        refused(read)


def test_lists_of_unknown_names_are_refused(copy):
    path = copy / MANIFEST
    compact = json.loads(path.read_text())
    for lists in ({"../x": compact["lists"]["files"]}, {"files": None}, [1], {}):
        write_json(path, sealed(compact | {"lists": lists}))
        assert "manifest.json" in refused(load_published, str(copy))


@pytest.mark.slow
def test_a_run_with_long_lists_is_complete_published_and_loaded(
    publisher, repo_id, tmp_path, monkeypatch
):
    """On a disk and in a store; its other files are those of a run with a short manifest."""
    settings = tiny_run(tmp_path / "birds", rows_per_shard=2) | {"license": "mit"}
    augment.main(AugmentSettings(**settings, output_dir=str(tmp_path / "short")))
    short = digests(tmp_path / "short" / "repo")
    monkeypatch.setattr(manifests, "LONGEST_LIST", 2)
    url = f"memory://{uuid.uuid4().hex}/run"
    for output in (str(tmp_path / "long"), url):
        again = AugmentSettings(**settings, output_dir=output)
        augment.main(again)
        augment.main(again)  # nothing to do, or refused
    long = digests(tmp_path / "long" / "repo")
    assert {name for name in short if short[name] != long[name]} == {MANIFEST}
    assert {name.partition("default/")[2] for name in set(long) - set(short)} == {
        "files.parquet",
        "real_rows.parquet",
    }
    with opened(url) as (folder, store):
        version = read_version(folder, SETTINGS, 1.0, store)
        assert {name for name in long if name != "README.md"} == set(version.files)
    fsspec.filesystem("memory").store.clear()
    publisher.published(tmp_path / "long", repo_id)
    assert pushed(publisher.hub, repo_id) == local_files(tmp_path / "long")
    assert len(loaded(publisher.hub, repo_id, "v1.0.0", code=LOAD)["rows"]) == 16


@pytest.mark.slow
def test_class_names_of_a_megabyte_are_read_from_the_parquet_files(tmp_path, monkeypatch):
    settings = tiny_run(tmp_path / "birds", rows_per_shard=2)
    monkeypatch.setattr(cards, "LONGEST_NAMES", 3)
    augment.main(AugmentSettings(**settings, output_dir=str(tmp_path / "run")))
    card = (tmp_path / "run" / "repo" / "README.md").read_text()
    assert "class_label" not in card and "num_examples: 16" in card
    rows = load_published(str(tmp_path / "run" / "repo")).dataset
    from datasets import load_dataset

    theirs = load_dataset(str(tmp_path / "run" / "repo"), split="train")
    assert theirs.features == rows.features and theirs.features["label"].names


def test_a_card_names_the_file_with_all_reasons():
    skipped = [{"reason": f"reason {number % 40}"} for number in range(manifests.LONGEST_LIST + 1)]
    facts = card_facts(["a", "b"], skipped=skipped)
    assert "more reasons, in `skipped.parquet`" in cards.dataset_card(card_settings(), facts)
