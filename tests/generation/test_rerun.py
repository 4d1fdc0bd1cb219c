"""A generation made again from what was published: the same plan, the same bytes; and generations
that publish themselves.
"""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from generations import arguments, digests, manifest_of
from loopback_hub import READ_TOKEN, loopback_hub, run_python

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.files import file_sha256, write_sealed
from sgdmix_hub.generation.rerun import published_plan
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

PLAN, MANIFEST = "sgdmix/default/plan.parquet", "sgdmix/default/manifest.json"

# Many generations in one process: each ends with a line for the user, or with none.
GENERATE = """
import json, sys
from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.errors import TooManySkipped

for words in json.loads(sys.argv[1]):
    try:
        augment.main(parse_settings(AugmentSettings, words))
        print("ended: well")
    except (UserError, TooManySkipped) as error:
        print("ended:", error)
"""


@pytest.fixture
def published(first_version, tmp_path):
    """A copy of what was published, whose plan a test may change."""
    return shutil.copytree(first_version / "repo", tmp_path / "published")


def rerun(published, source, output, *words):
    """Starts from the published configuration, as a user does."""
    config = published / "sgdmix" / "default" / "config.yaml"
    words = [
        "--config",
        config,
        f"--dataset_name={source}",
        f"--output_dir={output}",
        "--license=mit",
        *words,
    ]
    augment.main(parse_settings(AugmentSettings, list(map(str, words))))


def with_plan(published, change):
    """Puts another plan into a published folder, with its checksum in the manifest."""
    path = published / PLAN
    pq.write_table(change(pq.read_table(path)), path)
    manifest = json.loads((published / MANIFEST).read_text())
    manifest["files"][PLAN]["sha256"] = file_sha256(path)
    write_sealed(published / MANIFEST, manifest)


@pytest.mark.slow
def test_a_rerun_has_the_plan_and_the_bytes_of_what_was_published(
    published, first_version, evil_source, tmp_path, capsys
):
    """`first_version` made its plan from the maps: making it again and reading it give the same
    hash.
    """
    rerun(published, evil_source, tmp_path / "again")
    assert "the plan is that of" in capsys.readouterr().out
    assert digests(tmp_path / "again" / "repo") == digests(first_version / "repo")


@pytest.mark.slow
def test_it_is_the_published_plan_that_is_used(published, evil_source, tmp_path):
    """Targets that no maps of these images would give."""

    def moved(plan):
        pairs = zip(plan["source_index"].to_pylist(), plan["target_index"].to_pylist(), strict=True)
        targets = [
            next(row % 12 for row in (target + 1, target + 2) if row % 12 != source)
            for source, target in pairs
        ]
        return plan.set_column(
            plan.schema.get_field_index("target_index"), "target_index", pa.array(targets)
        )

    with_plan(published, moved)
    rerun(published, evil_source, tmp_path / "again")
    assert file_sha256(tmp_path / "again" / "repo" / PLAN) == file_sha256(published / PLAN)
    shards = sorted((tmp_path / "again" / "repo" / "data").glob("*.parquet"))
    made = [
        row
        for shard in shards
        for row in pq.read_table(shard, columns=["target_index"]).to_pylist()
    ]
    planned = pq.read_table(published / PLAN)["target_index"].to_pylist()
    assert [row["target_index"] for row in made] == planned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "named"), [("--num_candidates=2", "num_candidates"), ("--seed=1", "seed")]
)
def test_other_settings_are_another_generation_with_a_plan_of_its_own(
    published, evil_source, tmp_path, capsys, word, named
):
    rerun(published, evil_source, tmp_path / "other", word)
    assert f"{named} not as in" in capsys.readouterr().out
    assert file_sha256(tmp_path / "other" / "repo" / PLAN) != file_sha256(published / PLAN)


@pytest.mark.slow
def test_other_images_are_another_generation(published, evil_source, tmp_path, capsys):
    other = shutil.copytree(evil_source, tmp_path / "other-images")
    (path,) = (other / "data").glob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), path)
    rerun(published, other, tmp_path / "other")
    assert "dataset_name not as in" in capsys.readouterr().out


def test_plans_that_are_damaged_or_of_something_else_are_refused(published, evil_source, tmp_path):
    changes = {
        "another subset": lambda plan: plan.slice(1),
        "another subset, seed": lambda plan: plan.set_column(3, "seed", pa.array([7] * 12)),
        "seed or strength": lambda plan: plan.set_column(4, "strength", pa.array([0.5] * 12)),
        "plan of another": lambda plan: plan.set_column(2, "target_index", pa.array([12] * 12)),
    }
    whole = (published / PLAN).read_bytes()
    (published / PLAN).write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match="not the plan of its manifest"):
        rerun(published, evil_source, tmp_path / "again")
    for named, change in changes.items():
        (published / PLAN).write_bytes(whole)
        with_plan(published, change)
        with pytest.raises(UserError, match=named):
            rerun(published, evil_source, tmp_path / "again")
    assert not (tmp_path / "again" / "repo").exists()


def test_a_configuration_with_nothing_beside_it_brings_no_plan(published, tmp_path):
    shutil.copy(published / "sgdmix" / "default" / "config.yaml", tmp_path / "config.yaml")
    settings = parse_settings(
        AugmentSettings, ["--config", str(tmp_path / "config.yaml"), "--output_dir=out"]
    )
    assert settings.config == str(tmp_path / "config.yaml")
    assert published_plan(settings, {}, None) is None


def test_a_configuration_cannot_name_another(tmp_path):
    (tmp_path / "a.yaml").write_text("config: b.yaml\n")
    with pytest.raises(UserError, match="cannot name another"):
        parse_settings(AugmentSettings, ["--config", str(tmp_path / "a.yaml")])


@pytest.mark.slow
def test_generations_publish_themselves_and_a_colleague_makes_them_again(evil_source, tmp_path):
    """Everything by name: source, configuration and plan come from the Hub."""
    common = {
        "saliency_method": "spectral-residual",
        "strength": 0,
        "resolution": 32,
        "num_candidates": 3,
        "rows_per_shard": 5,
    }
    common |= {"license": "mit"}
    push = {"push_to_hub": True, "hub_dataset_id": "birds/made", "tag": "v1.0.0"}
    first = common | push | {"dataset_name": "birds/source", "output_dir": tmp_path / "first"}
    with loopback_hub() as hub:
        code = (
            "import sys; from sgdmix_hub.hub.push import push_folder; "
            "push_folder(sys.argv[1], 'birds/source', 'dataset')"
        )
        assert run_python(hub, code, evil_source).returncode == 0
        runs = [
            # Refused, but only after the check that the push is possible.
            first | {"max_skipped": 0, "dataset_name": "birds/nothing"},
            first,
            first,  # nothing to do, nothing to push
            first | {"output_dir": tmp_path / "late"},  # the tag exists: refused before the work
            first
            | {"output_dir": tmp_path / "local", "dataset_name": evil_source, "tag": "v2.0.0"},
            first | {"output_dir": tmp_path / "dry", "tag": "v3.0.0", "dry_run": True},
        ]
        done = run_python(hub, GENERATE, json.dumps([arguments(values) for values in runs]))
        assert done.returncode == 0, done.stderr
        ended = [
            line for line in done.stdout.splitlines() if line.startswith(("ended", "published"))
        ]
        oid = hub.repository("dataset", "birds/made").tags["v1.0.0"]
        published = f"published as birds/made@v1.0.0, commit {oid}"
        assert "birds/nothing" in ended[0] and ended[1:5] == [published, "ended: well"] * 2
        assert "has a version v1.0.0 already" in ended[5]
        assert "made from local folders" in ended[6]
        assert ended[7] == "ended: well"
        assert not any((tmp_path / name / "repo").exists() for name in ("late", "local", "dry"))
        assert set(hub.repository("dataset", "birds/made").tags) == {"v1.0.0"}

        config = "hf://datasets/birds/made@v1.0.0/sgdmix/default/config.yaml"
        words = [["--config", config, f"--output_dir={tmp_path / 'again'}", "--license=mit"]]
        words.append(
            ["--config", config.replace("v1.0.0", "v7"), f"--output_dir={tmp_path / 'none'}"]
        )
        words.append(
            ["--config", config.replace("config", "other"), f"--output_dir={tmp_path / 'none'}"]
        )
        done = run_python(hub, GENERATE, json.dumps(words), token=READ_TOKEN)
        assert done.returncode == 0, done.stderr
        lines = [
            line for line in done.stdout.splitlines() if line.startswith(("ended", "the plan"))
        ]
        assert lines[0].startswith("the plan is that of") and lines[1] == "ended: well"
        assert "birds/made has no revision 'v7'" in lines[2]
        assert lines[3].startswith("ended: cannot fetch hf://")
        assert len(lines) == 4
    assert digests(tmp_path / "again" / "repo") == digests(tmp_path / "first" / "repo")
    assert manifest_of(tmp_path / "again")["pins"]["dataset_name"].startswith("birds/source@")
