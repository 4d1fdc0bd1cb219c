"""The evaluation of a dataset: scores that are right, a folder that can be published, and rows that
are dropped in the open.
"""

import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from evaluations import facts_of
from generations import (
    arguments,
    digests,
    manifest_of,
    one_line,
    published_rows,
    run_script,
    snapshot,
)
from huggingface_hub import DatasetCard
from loopback_hub import run_python
from PIL import Image
from publishing import EVIL, NAMES
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForImageClassification

from sgdmix_hub import evaluate_dataset
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.repository import Version, evaluated_features, write_shards
from sgdmix_hub.files import read_json, write_sealed
from sgdmix_hub.generation.repository import is_complete
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset

EVALUATE = "scripts/evaluate_dataset.py"
SCORES = (
    "judge_label",
    "judge_label_probability",
    "foreground_drift",
    "background_novelty",
    "background_novelty_in_class",
)
PICTURES = ("label_fidelity.png", "drift_novelty.png", "best_worst.png")


@pytest.fixture(scope="module")
def evaluation_settings(first_version, evil_source, evil_judge, tmp_path_factory):
    return {
        "synthetic": first_version,
        "dataset_name": evil_source,
        "judge": evil_judge,
        "eval_split": "train",
        "keep": 0.7,
        "keep_by": "all",
        "output_dir": tmp_path_factory.mktemp("evaluated") / "out",
    }


@pytest.fixture(scope="module")
def evaluated(evaluation_settings):
    """12 rows, of which 8 are kept: how the script ended, and its output folder."""
    output = evaluation_settings["output_dir"]
    ended = run_script(arguments(evaluation_settings), output.parent / "logs", EVALUATE)
    assert ended.returncode == 0, ended.stderr
    return ended, output


def key_of(row):
    return row["source_index"], row["variant"]


@pytest.mark.slow
def test_what_is_kept_is_as_it_was_and_what_is_dropped_is_counted(evaluated, first_version):
    _, output = evaluated
    before, after = (
        {key_of(row): row for row in published_rows(folder)} for folder in (first_version, output)
    )
    assert len(before) == 12
    assert len(after) == 8
    assert list(after) == [key for key in before if key in after]
    for key, row in after.items():
        assert {name: row[name] for name in before[key]} == before[key]
    assert all(set(SCORES) <= set(row) for row in after.values())
    facts = facts_of(output)
    assert facts["dropped"] == 4 == sum(of["dropped"] for of in facts["by_class"])
    kept_classes = [
        of["images"] - of["dropped"] for of in sorted(facts["by_class"], key=lambda of: of["label"])
    ]
    assert kept_classes == [
        sum(row["label"] == label for row in after.values()) for label in range(len(NAMES))
    ]


@pytest.mark.slow
def test_the_scores_are_those_of_the_stock_classifier(evaluated, evil_judge):
    """Class probabilities and pooled features; both drifts stay within their ranges."""
    _, output = evaluated
    judge = Judge(resolve(str(evil_judge)), NAMES, torch.device("cpu"))
    model = AutoModelForImageClassification.from_pretrained(evil_judge).eval()
    rows = load_published(str(output / "repo")).dataset
    for row in rows:
        inputs = judge.transform(row["image"].convert("RGB"))[None]
        with torch.no_grad():
            probabilities = model(pixel_values=inputs).logits.softmax(-1)[0]
            pooled = model.resnet(pixel_values=inputs).pooler_output.flatten(1)
        assert row["judge_label_probability"] == pytest.approx(
            float(probabilities[row["label"]]), rel=1e-4
        )
        assert row["judge_label"] == int(probabilities.argmax())
        ours = judge.look(inputs)
        assert ours[0] == pytest.approx(probabilities[None].numpy(), rel=1e-4)
        assert float(cosine_similarity(torch.from_numpy(ours[1]), pooled)) == pytest.approx(1)
        assert 0 <= row["foreground_drift"] <= 2
        assert 0 <= row["background_novelty_in_class"] <= row["background_novelty"] + 1e-9


@pytest.mark.slow
def test_the_figures_are_means_of_the_columns(evaluated, evaluation_settings, tmp_path):
    """Of a run without --keep, whose rows are all there; those that --keep dropped are the least
    probable.
    """
    settings = {
        name: str(value) for name, value in evaluation_settings.items() if name != "keep"
    } | {"output_dir": str(tmp_path / "all")}
    evaluate_dataset.main(EvaluationSettings(**settings))
    rows, facts = published_rows(tmp_path / "all"), facts_of(tmp_path / "all")
    of_all = facts["all"]
    kept = {key_of(row) for row in published_rows(evaluated[1])}
    least, most = (
        [row["judge_label_probability"] for row in rows if (key_of(row) in kept) == stays]
        for stays in (False, True)
    )
    assert len(most) == 8 and max(least) <= min(most)
    assert of_all == facts_of(evaluated[1])["all"]
    assert facts["kept"] is None
    assert facts["dropped"] == 0
    assert facts["by_strength"] == []
    assert of_all["images"] == len(rows) == 12
    assert of_all["label_fidelity"] == pytest.approx(
        np.mean([row["judge_label"] == row["label"] for row in rows])
    )
    assert of_all["mean_label_probability"] == pytest.approx(
        np.mean([row["judge_label_probability"] for row in rows])
    )
    for name in SCORES[2:]:
        assert of_all[name] == pytest.approx(np.nanmean([row[name] for row in rows]))
    by_class = {of["label"]: of for of in facts["by_class"]}
    for label, name in enumerate(NAMES):
        here = [row for row in rows if row["label"] == label]
        assert (by_class[label]["class"], by_class[label]["images"]) == (name, len(here))
        assert by_class[label]["label_fidelity"] == pytest.approx(
            np.mean([row["judge_label"] == label for row in here])
        )
    right = sum(of["judge_accuracy"] * of["real_images"] for of in facts["by_class"])
    assert facts["judge_accuracy"] == {
        "split": "train",
        "accuracy": pytest.approx(right / 12),
        "images": 12,
    }
    data = DatasetCard.load(tmp_path / "all" / "repo" / "README.md").data.to_dict()
    assert "keep" not in data["sgdmix"]["default"]


@pytest.mark.slow
def test_the_result_loads_and_its_card_and_manifest_are_those_of_what_it_holds(
    evaluated, first_version
):
    _, output = evaluated
    repo = output / "repo"
    rows = load_dataset(str(repo), split="train")
    assert len(rows) == 8 and rows.features["judge_label"].names == NAMES
    assert load_published(str(repo)).manifest["rows"] == 8
    manifest, before = manifest_of(output), manifest_of(first_version)
    different = {name for name in manifest if manifest[name] != before.get(name)}
    assert different == {"rows", "files", "evaluation", "seal"} and set(before) <= set(manifest)
    assert (manifest["evaluation"]["keep"], manifest["evaluation"]["dropped"]) == (0.7, 4)
    assert manifest["evaluation"]["dropped_by_class"] == {
        of["class"]: of["dropped"] for of in facts_of(output)["by_class"]
    }
    found = digests(repo)
    del found["README.md"], found["sgdmix/default/manifest.json"]
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == found
    assert all(
        Image.open(repo / "assets" / name).size == Image.open(output / name).size
        for name in PICTURES
    )
    for name in ("config.yaml", "plan.parquet"):
        assert (repo / "sgdmix" / "default" / name).read_bytes() == (
            first_version / "repo" / "sgdmix" / "default" / name
        ).read_bytes()
    card = DatasetCard.load(repo / "README.md")
    method = card.data.to_dict()["sgdmix"]["default"]
    assert (method["keep"], method["dropped"], method["rows"]) == (0.7, 4, 8)
    assert method["label_fidelity"] == pytest.approx(
        facts_of(output)["all"]["label_fidelity"], abs=1e-4
    )
    assert "4 of them were dropped (`--keep" in card.text
    assert "The command makes the rows as generated: 12 of" in card.text
    assert all(f"assets/{name}" in card.text for name in PICTURES)
    assert EVIL not in card.text and "<script>" not in card.text


@pytest.mark.slow
def test_it_is_published_with_its_judge_among_the_local_inputs(
    publisher, repo_id, evaluated, first_version
):
    _, output = evaluated
    line = publisher.refused(output, repo_id, allow_local_inputs=False)
    assert "judge evil-judge" in line and "--allow_local_inputs" in line
    publisher.published(first_version, repo_id)
    publisher.published(output, repo_id, tag="v1.1.0")
    content = publisher.hub.content("dataset", repo_id, "v1.1.0")
    files = {
        path.relative_to(output / "repo").as_posix(): path
        for path in (output / "repo").rglob("*")
        if path.is_file()
    }
    assert set(files) <= set(content)
    assert all(
        content[name] == path.read_bytes() for name, path in files.items() if name != "README.md"
    )
    versions = content["README.md"].decode().split("## Versions")[1]
    assert re.search(r"\| v1\.1\.0 \| default \| 8 \|.*keep none → 0\.7", versions)


EVALUATE_VERSION = """
import sys
from sgdmix_hub import evaluate_dataset
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.runtime.launch import launch

launch(evaluate_dataset.main, EvaluationSettings, sys.argv[1:])
"""


@pytest.mark.slow
def test_a_version_on_the_hub_is_evaluated_as_the_folder_that_it_was_published_from(
    publisher, repo_id, evaluated, evaluation_settings, first_version, tmp_path
):
    pin = publisher.published(first_version, repo_id)
    publisher.published(evaluated[1], repo_id, tag="v1.1.0")
    settings = evaluation_settings | {
        "synthetic": f"{repo_id}@v1.0.0",
        "output_dir": tmp_path / "out",
    }
    ended = run_python(publisher.hub, EVALUATE_VERSION, *arguments(settings), token=None)
    assert ended.returncode == 0, ended.stderr
    facts, before = facts_of(tmp_path / "out"), facts_of(evaluated[1])
    assert facts.pop("synthetic") == pin != before.pop("synthetic") and facts == before
    assert published_rows(tmp_path / "out") == published_rows(evaluated[1])
    twice = settings | {"synthetic": f"{repo_id}@v1.1.0", "output_dir": tmp_path / "twice"}
    refused = run_python(publisher.hub, EVALUATE_VERSION, *arguments(twice), token=None)
    assert refused.returncode == 2 and "evaluated already" in refused.stderr


@pytest.mark.slow
def test_the_published_configuration_gives_all_rows_again(
    evaluated, first_version, evil_source, tmp_path
):
    """A filtered version is rerun to what was generated: the same shards, from the same plan."""
    _, output = evaluated
    config = output / "repo" / "sgdmix" / "default" / "config.yaml"
    settings = {
        "config": config,
        "dataset_name": evil_source,
        "license": "mit",
        "output_dir": tmp_path / "again",
    }
    ended = run_script(arguments(settings), tmp_path / "logs")
    assert ended.returncode == 0 and f"the plan is that of {config}" in ended.stdout, ended
    again, before = (manifest_of(folder)["files"] for folder in (tmp_path / "again", first_version))
    assert again == before


def test_what_an_older_version_made_is_refused_in_a_line(
    evaluation_settings, first_version, tmp_path
):
    shutil.copytree(first_version / "repo", tmp_path / "repo")
    (path,) = (tmp_path / "repo").glob("sgdmix/*/manifest.json")
    write_sealed(path, {name: value for name, value in read_json(path).items() if name != "stated"})
    settings = {
        name: value if name == "keep" else str(value) for name, value in evaluation_settings.items()
    }
    with pytest.raises(UserError, match="older version"):
        evaluate_dataset.main(
            EvaluationSettings(
                **(settings | {"synthetic": str(tmp_path), "output_dir": str(tmp_path / "out")})
            )
        )


def test_the_columns_of_an_older_release_stay_as_they_are(first_version, tmp_path):
    """Without the columns that were added since, as `mask` was."""
    repo = shutil.copytree(first_version / "repo", tmp_path / "repo")
    for path in repo.glob("data/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["mask", "mask_confidence"]), path)
    config = repo / "sgdmix" / "default" / "config.yaml"
    recipe = parse_settings(AugmentSettings, [f"--config={config}", "--output_dir=out"])
    version = Version(repo, manifest_of(tmp_path), recipe)
    features = evaluated_features(version, NAMES)
    assert "prompt" in features and not {"mask", "mask_confidence"} & set(features)
    scores = {name: np.zeros(12) for name in features if name in SCORES}
    scores["judge_label"] = np.zeros(12, np.int64)
    kept = np.arange(12) != 3
    (tmp_path / "building" / "data").mkdir(parents=True)
    written = write_shards(version, NAMES, scores, kept, tmp_path / "building")
    tables = [pq.read_table(path) for path in written]
    assert sum(map(len, tables)) == 11
    assert tables[0].column_names == list(features) and set(SCORES) <= set(features)


@pytest.mark.slow
def test_the_same_command_finds_it_done_and_another_is_refused(
    evaluated, evaluation_settings, tmp_path, capsys
):
    _, output = evaluated
    before = digests(output)
    settings = {
        name: value if name == "keep" else str(value) for name, value in evaluation_settings.items()
    }
    evaluate_dataset.main(EvaluationSettings(**settings))
    assert "is complete, nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="keep differ"):
        evaluate_dataset.main(EvaluationSettings(**(settings | {"keep": 0.5})))
    with pytest.raises(UserError, match="evaluated already"):
        evaluate_dataset.main(
            EvaluationSettings(
                **(settings | {"synthetic": str(output), "output_dir": str(tmp_path / "twice")})
            )
        )
    assert digests(output) == before


@pytest.mark.slow
def test_a_generation_does_not_take_an_evaluated_copy_for_its_own(
    evaluated, first_version, evil_source
):
    _, output = evaluated
    settings = apply_preset(
        AugmentSettings(
            dataset_name=str(evil_source), output_dir=str(output), strength=0.0, license="mit"
        )
    )
    with pytest.raises(UserError, match="evaluated copy"):
        is_complete(OutputFolder(output), settings, manifest_of(first_version)["pins"])


@pytest.mark.slow
def test_what_was_looked_at_before_a_stop_is_not_looked_at_again(
    evaluated, evaluation_settings, tmp_path
):
    output = shutil.copytree(evaluated[1], tmp_path / "stopped")
    shutil.rmtree(output / "repo")
    facts, views = facts_of(output), snapshot(output / "state" / "views")
    settings = {
        name: value if name == "keep" else str(value) for name, value in evaluation_settings.items()
    }
    evaluate_dataset.main(EvaluationSettings(**(settings | {"output_dir": str(output)})))
    assert views and snapshot(output / "state" / "views") == views
    assert facts_of(output) == facts and digests(output / "repo") == digests(evaluated[1] / "repo")


@pytest.mark.slow
def test_a_source_that_was_a_local_folder_has_to_be_named(evaluation_settings, tmp_path):
    settings = {
        name: value for name, value in evaluation_settings.items() if name != "dataset_name"
    } | {"output_dir": tmp_path / "out"}
    one_line(
        run_script(arguments(settings), tmp_path / "logs", EVALUATE), "evil-birds", "--dataset_name"
    )
    assert not (tmp_path / "out" / "repo").exists()
