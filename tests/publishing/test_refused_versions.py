"""Versions that are not published: each is refused in a line, and nothing is sent."""

import json
import shutil

import pytest

from sgdmix_hub.files import write_sealed


def test_local_inputs_are_refused_unless_allowed(publisher, repo_id, first_version):
    line = publisher.refused(first_version, repo_id, allow_local_inputs=False)
    assert "dataset_name evil-birds" in line
    assert "--allow_local_inputs" in line
    assert not publisher.hub.calls


def test_a_generation_without_a_licence_is_refused(publisher, repo_id, generation):
    line = publisher.refused(generation("unlicensed", license=None), repo_id)
    assert "--license" in line and not publisher.hub.calls


@pytest.mark.parametrize(
    "name",
    ["data/train-00001-of-00003.parquet", "sgdmix/default/plan.parquet", "assets/statistics.png"],
)
def test_a_damaged_file_is_refused_before_anything_is_sent(
    publisher, repo_id, first_version, tmp_path, name
):
    damaged = shutil.copytree(first_version, tmp_path / "damaged")
    path = damaged / "repo" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"damaged ({name}" in publisher.refused(damaged, repo_id)
    path.unlink()
    assert f"damaged ({name}" in publisher.refused(damaged, repo_id)
    assert not publisher.hub.calls


def test_folders_that_hold_no_generation_are_refused(publisher, repo_id, tmp_path, evil_source):
    for folder in (tmp_path, evil_source, tmp_path / "missing"):
        assert "no finished generation" in publisher.refused(folder, repo_id)


def test_too_many_skipped_rows_are_not_published(publisher, repo_id, first_version, tmp_path):
    output = shutil.copytree(first_version, tmp_path / "skipped")
    path = output / "repo" / "sgdmix" / "default" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["skipped"] = [{"source_index": 0, "variant": 0, "reason": "corrupt"}]
    write_sealed(path, manifest)
    assert "1 of 12 rows were skipped" in publisher.refused(output, repo_id)
    assert publisher.published(output, repo_id, max_skipped=0.1)


@pytest.mark.parametrize("tag", ["main", "v1 0", "../x", "-v1", "v1.", "a" * 40, ""])
def test_tags_that_are_none_are_refused(publisher, repo_id, first_version, tag):
    assert "tag" in publisher.refused(first_version, repo_id, tag=tag) and not publisher.hub.calls
