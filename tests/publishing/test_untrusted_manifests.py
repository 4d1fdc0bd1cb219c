"""Manifests that attack are refused by everything that reads them."""

import json
import shutil
from pathlib import Path

import pytest
from untrusted import nested, refused

from sgdmix_hub.files import sealed, write_sealed
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.publishing.versions import read_version
from sgdmix_hub.settings.hub import HubSettings

MANIFEST = "sgdmix/default/manifest.json"


@pytest.fixture(scope="module")
def repo(first_version) -> Path:
    return first_version / "repo"


@pytest.fixture
def copy(repo, tmp_path) -> Path:
    """A publication that a test may change."""
    return shutil.copytree(repo, tmp_path / "copy")


def changed(**values):
    """A manifest with other values, as text."""
    return lambda manifest: json.dumps(sealed(manifest | values))


def of_files(change):
    return lambda manifest: json.dumps(sealed(manifest | {"files": change(manifest["files"])}))


FACTS = {"sha256": "0" * 64, "bytes": 1}
MANIFESTS = {
    "files null": changed(files=None),
    "files a list": changed(files=["data/train-00000-of-00003.parquet"]),
    "files missing": lambda manifest: json.dumps(
        {name: value for name, value in manifest.items() if name != "files"}
    ),
    "facts null": of_files(lambda files: dict.fromkeys(files)),
    "broken": lambda manifest: json.dumps(manifest)[:-9],
    "empty": lambda manifest: "",
    "deep": lambda manifest: nested(100_000),
    "deep inside": lambda manifest: json.dumps(manifest)[:-1] + f', "x": {nested(5_000)}' + "}",
    "a list": lambda manifest: "[1]",
    "a number": lambda manifest: "7",
    "not a number": lambda manifest: json.dumps(manifest | {"rows": float("nan")}),
    "infinite": lambda manifest: json.dumps(manifest | {"planned_rows": float("inf")}),
    "a number of 5,000 digits": lambda manifest: json.dumps(manifest | {"rows": 0}).replace(
        '"rows": 0', '"rows": ' + "9" * 5000
    ),
    "binary": lambda manifest: b"\x93NUMPY\xff\xfe",
    "a name of 5,000 characters": of_files(lambda files: files | {"data/" + "x" * 5000: FACTS}),
    "a name above": of_files(lambda files: files | {"../../../etc/passwd": FACTS}),
    "a name above in the middle": of_files(lambda files: files | {"data/../../secret": FACTS}),
    "an absolute name": of_files(lambda files: files | {"/etc/passwd": FACTS}),
    "a name of Windows": of_files(lambda files: files | {"..\\..\\secret": FACTS}),
    "no name": of_files(lambda files: files | {"": FACTS}),
    "the folder": of_files(lambda files: files | {".": FACTS}),
    "a control character": of_files(lambda files: files | {"data/\x1b[2J": FACTS}),
    "a lone surrogate": of_files(lambda files: files | {"data/\ud800": FACTS}),
    "a checksum that is none": of_files(
        lambda files: files | {"README.md": {"sha256": "x", "bytes": 1}}
    ),
    "bytes below zero": of_files(
        lambda files: files | {"README.md": {"sha256": "0" * 64, "bytes": -1}}
    ),
    "rows a text": changed(rows="24"),
    "rows true": changed(rows=True),
    "rows below zero": changed(rows=-1),
    "rows beyond every column": changed(rows=10**23),
    "skipped a number": changed(skipped=3),
    "skipped without a reason": changed(skipped=[{"source_index": 0, "variant": 0}]),
    "planned_rows a text": changed(planned_rows="12"),
    "pins a list": changed(pins=[]),
    "a pin that is a path": changed(pins={"dataset_name": "/home/ada/photos"}),
    "a pin that is a branch": changed(pins={"dataset_name": "org/birds@main"}),
    "subset null": changed(subset=None),
    "planned strengths a text": changed(planned_strengths="0.5"),
    "a planned strength beyond 1": changed(planned_strengths=[{"strength": 2, "rows": 1}]),
    "prompt_class a column": changed(prompt_class="../label"),
    "licence a list": changed(license=["mit"]),
    "licence of two lines": changed(license="mit\nx: y"),
    "saliency a text": changed(saliency="grad-cam"),
    "trust beyond 1": changed(
        saliency={
            "method": "x",
            "trust": {"foreground_accuracy": 2, "background_accuracy": 0, "images": 1},
        }
    ),
    "stated without a title": changed(stated={}),
    "quality of three": changed(
        stated={
            "title": "x",
            "prose": None,
            "versions": {},
            "licenses": {},
            "quality": [["a", "b", "c"]],
        }
    ),
    "fingerprint a number": changed(fingerprint=5),
}


@pytest.mark.parametrize("attack", MANIFESTS)
def test_a_malformed_manifest_is_refused_by_whoever_reads_it(attack, copy):
    path = copy / MANIFEST
    content = MANIFESTS[attack](json.loads(path.read_text()))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = HubSettings(hub_dataset_id="org/x", tag="v1.0.0", allow_local_inputs=True)
    for read in (lambda: load_published(str(copy)), lambda: read_version(copy, settings, 1.0)):
        assert "manifest.json" in refused(read)


def test_a_manifest_without_a_licence_worth_the_name_is_not_published(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    write_sealed(copy / MANIFEST, manifest | {"license": " "})
    settings = HubSettings(hub_dataset_id="org/x", tag="v1.0.0", allow_local_inputs=True)
    assert "states no licence" in refused(read_version, copy, settings, 1.0)
