"""Rows that the settings exclude: neither mixed nor the target of others, and no fault."""

import pytest
import yaml
from datasets import load_dataset
from generations import ROWS, manifest_of, published_rows

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

EXCLUDED = [3, 11, 12]


def settings(mixing, folder, **values):
    named = {name: str(v) if name == "dataset_name" else v for name, v in mixing.items()}
    return AugmentSettings(**(named | values), output_dir=str(folder))


@pytest.mark.slow
def test_excluded_rows_are_neither_sources_nor_targets(mixing, tmp_path):
    augment.main(settings(mixing, tmp_path / "out", excluded_rows=EXCLUDED, max_skipped=0.0))
    rows = published_rows(tmp_path / "out")
    assert len(rows) == ROWS - len(EXCLUDED)
    assert not {row[name] for row in rows for name in ("source_index", "target_index")} & {
        *EXCLUDED
    }
    skipped = manifest_of(tmp_path / "out")["skipped"]
    assert [(row["source_index"], row["reason"]) for row in skipped] == [
        (row, "excluded by the settings") for row in EXCLUDED
    ]
    config = tmp_path / "out" / "repo" / "sgdmix" / "default" / "config.yaml"
    assert yaml.safe_load(config.read_text())["excluded_rows"] == EXCLUDED


@pytest.mark.slow
def test_a_version_with_a_file_without_rows_loads(mixing, tmp_path):
    values = {"excluded_rows": [0, 1, 2, 3], "rows_per_shard": 4, "max_skipped": 0.0}
    augment.main(settings(mixing, tmp_path / "out", **values))
    repo = tmp_path / "out" / "repo"
    rows = load_published(str(repo))
    assert sorted(rows.sources) == list(range(4, ROWS))
    assert len(load_dataset(str(repo), split="train")) == ROWS - 4
    streamed = load_published(str(repo), streaming=True).dataset
    assert [row["source_index"] for row in streamed] == list(rows.sources)


def test_a_row_that_the_split_does_not_have_is_refused(mixing, tmp_path):
    with pytest.raises(UserError, match=f"row {ROWS}"):
        augment.main(settings(mixing, tmp_path / "out", excluded_rows=[ROWS]))


def test_a_list_of_rows_is_read_from_yaml_and_from_the_command_line(tmp_path):
    (tmp_path / "generate.yaml").write_text("excluded_rows: [12, 3]\ndataset_name: org/birds\n")
    words = ["--config", str(tmp_path / "generate.yaml"), "--output_dir=out", "--strength=0"]
    assert parse_settings(AugmentSettings, words).excluded_rows == [3, 12]
    words += ["--excluded_rows", "5", "4", "5"]
    assert parse_settings(AugmentSettings, words).excluded_rows == [4, 5]


@pytest.mark.parametrize("rows", ["3", [-1], [2.5], [True], list(range(1001)), []])
def test_what_is_no_list_of_rows_is_refused(rows):
    with pytest.raises(UserError, match="excluded_rows"):
        AugmentSettings(dataset_name="x", output_dir="x", excluded_rows=rows)
