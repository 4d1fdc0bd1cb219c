"""Evaluations that leave out the easy rows, compare prompts, or doubt their judge."""

import json
import shutil

import numpy as np
import pytest
import torch
from evaluations import facts_of
from generations import (
    published_rows,
)
from hypothesis import given
from hypothesis import strategies as st
from publishing import NAMES

from sgdmix_hub import augment, evaluate_dataset
from sgdmix_hub.data.splits import load_split, subset_record
from sgdmix_hub.evaluation.scores import rows_to_keep
from sgdmix_hub.evaluation.sources import doubts
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings


@pytest.mark.slow
def test_a_judge_that_may_be_wrong_is_doubted(evil_judge, evil_source, tmp_path):
    """One that reads backgrounds, one that was trained on the sources themselves, one that knows
    synthetic images.
    """
    settings = AugmentSettings(dataset_name=str(evil_source), output_dir="unused", strength=0.0)
    subset = subset_record(settings, load_split(settings, resolve(str(evil_source), "dataset")))
    honest, reader = Trust(0.8, 0.2, 12), Trust(0.2, 0.8, 12)

    def doubted(trust, **facts):
        folder = shutil.copytree(evil_judge, tmp_path / str(len(list(tmp_path.iterdir()))))
        (folder / "classifier.json").write_text(json.dumps(facts))
        return doubts(Judge(resolve(str(folder)), NAMES, torch.device("cpu")), trust, subset)

    assert (
        doubted(honest)
        == doubted(honest, subset=subset | {"dataset_split": "test"}, synthetic=None)
        == []
    )
    assert doubted(honest, subset=subset | {"dataset": f"others@sha256-{'0' * 64}"}) == []
    assert "reads the background" in doubted(reader)[0] and str(reader) in doubted(reader)[0]
    assert "trained on the source images" in doubted(honest, subset=subset)[0]
    assert "synthetic" in doubted(honest, synthetic=f"org/birds@{'0' * 40}")[0]
    assert len(doubted(reader, subset=subset, synthetic=f"org/birds@{'0' * 40}")) == 3


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 1))
def test_medium_difficulty_leaves_out_as_many_of_the_surest_as_of_the_least_sure(rows, share):
    probabilities = np.array(rows)
    kept = rows_to_keep(probabilities, share, difficulty="medium")
    assert kept.sum() == rows_to_keep(probabilities, share).sum()
    surer = (probabilities[~kept] >= probabilities[kept].max()).sum()
    less_sure = (probabilities[~kept] <= probabilities[kept].min()).sum()
    assert surer >= (~kept).sum() // 2 and less_sure >= (~kept).sum() - (~kept).sum() // 2


@pytest.mark.slow
def test_prompts_are_compared_with_each_other(tiny_base, birds, classifier, tmp_path, capsys):
    settings = {"dataset_name": str(birds), "seed": 3}
    augment.main(
        AugmentSettings(
            **settings,
            output_dir=str(tmp_path / "made"),
            pretrained_model_name_or_path=str(tiny_base),
            prompt_template=["a {class_name}", "one {class_name}"],
            background_prompts=["in the snow", "at dusk"],
            mask_column="mask",
            strength=[0.0, 0.5],
            num_variants=2,
            examples_per_class=3,
            num_inference_steps=2,
            resolution=32,
            batch_size=4,
        )
    )
    evaluate_dataset.main(
        EvaluationSettings(
            dataset_name=str(birds),
            synthetic=str(tmp_path / "made"),
            judge=str(classifier),
            output_dir=str(tmp_path / "out"),
        )
    )
    rows, facts = published_rows(tmp_path / "out"), facts_of(tmp_path / "out")
    texts = [f"{a} {{class_name}} {b}" for a in ("a", "one") for b in ("in the snow", "at dusk")]
    assert [of["prompt"] for of in facts["by_prompt"]] == texts
    for of, text in zip(facts["by_prompt"], texts, strict=True):
        start, end = text.split("{class_name}")
        own = [
            row for row in rows if row["prompt"].startswith(start) and row["prompt"].endswith(end)
        ]
        assert of["images"] == len(own)
        assert of["label_fidelity"] == pytest.approx(
            np.mean([row["judge_label"] == row["label"] for row in own])
        )
    shown = capsys.readouterr().out
    assert all(text in shown for text in texts)
    card = (tmp_path / "out" / "repo" / "README.md").read_text().replace("\\", "")
    assert "prompt: one &#123;class_name} at dusk |" in card
