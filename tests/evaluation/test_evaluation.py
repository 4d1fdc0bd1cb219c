"""What evaluation.json says, from views and scores that are made up: whole, by strength, and with
images that cannot be used.
"""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.embeddings import Views
from sgdmix_hub.evaluation.facts import EvaluationFacts, Request, without_nan
from sgdmix_hub.evaluation.report import class_facts, evaluate
from sgdmix_hub.evaluation.scores import NO_PROMPT, Origins, row_scores
from sgdmix_hub.evaluation.sources import prompt_numbers
from sgdmix_hub.generation.plan import PlanRow, table_of, write_plan
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.publishing.read import PublishedRows

NAMES = ["kite", 'a": {evil}\n| # <script>', "tern"]
ROWS, REAL = 60, 20


def views(rng, rows, usable=None):
    sizes = {"probabilities": 3, "whole": 5, "foreground": 5, "background": 5, "thumbnails": 768}
    values = {
        name: rng.standard_normal((rows, width)).astype(np.float32) for name, width in sizes.items()
    }
    exponents = np.exp(values["probabilities"])
    values["probabilities"] = exponents / exponents.sum(axis=1, keepdims=True)
    usable = np.ones(rows, bool) if usable is None else usable
    return Views(
        **{name: np.where(usable[:, None], of, 0) for name, of in values.items()}, usable=usable
    )


@pytest.fixture
def made():
    """Synthetic and real views, and origins, at three strengths."""
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(0, REAL, (2, ROWS))
    real_labels = np.arange(REAL) % 3
    origins = Origins(sources, targets, real_labels[sources], np.arange(ROWS) % 3 / 4, real_labels)
    return views(rng, ROWS), views(rng, REAL), origins


def rows_of(views, rows):
    return Views(*(getattr(views, name)[rows] for name in vars(views)))


def test_the_figures_of_a_strength_are_those_of_its_rows_alone(made):
    synthetic, real, origins = made
    scores, all_kept = row_scores(synthetic, real, origins), np.ones(ROWS, bool)
    measured = evaluate(scores, synthetic, real, origins, all_kept)
    assert list(measured.by_strength) == [0, 0.25, 0.5] and measured.kept is None
    for strength, of_strength in measured.by_strength.items():
        rows = np.flatnonzero(origins.strengths == strength)
        parts = (
            getattr(origins, name)[rows] for name in ("sources", "targets", "labels", "strengths")
        )
        alone = Origins(*parts, origins.real_labels)
        part = rows_of(synthetic, rows)
        expected = evaluate(
            row_scores(part, real, alone), part, real, alone, np.ones(len(rows), bool)
        )
        assert expected.by_strength == {}
        # which rows a subset of the kernel distance holds depends on their order alone
        assert asdict(of_strength) == pytest.approx(asdict(expected.all))
    kept = origins.strengths > 0
    only_kept = evaluate(scores, synthetic, real, origins, kept).kept
    assert only_kept.images == kept.sum()
    assert only_kept.foreground_drift == pytest.approx(scores["foreground_drift"][kept].mean())


def test_the_figures_of_a_prompt_are_those_of_its_rows_and_unrefined_rows_have_none(made):
    synthetic, real, origins = made
    scores, all_kept = row_scores(synthetic, real, origins), np.ones(ROWS, bool)
    numbers = np.where(origins.strengths > 0, np.arange(ROWS) % 2, NO_PROMPT)
    texts = ["a {class_name}", "a {class_name} in the snow"]
    by_prompt = replace(origins, prompts=numbers)
    measured = evaluate(scores, synthetic, real, by_prompt, all_kept, texts)
    assert list(measured.by_prompt) == texts
    for number, text in enumerate(texts):
        rows = np.flatnonzero(numbers == number)
        parts = (
            getattr(origins, name)[rows] for name in ("sources", "targets", "labels", "strengths")
        )
        part = rows_of(synthetic, rows)
        alone = Origins(*parts, origins.real_labels)
        expected = evaluate(
            row_scores(part, real, alone), part, real, alone, np.ones(len(rows), bool)
        )
        assert expected.by_prompt == {}
        assert asdict(measured.by_prompt[text]) == pytest.approx(asdict(expected.all))
    recorded = measured.record()["by_prompt"]
    assert [of["prompt"] for of in recorded] == texts
    assert sum(of["images"] for of in recorded) == (origins.strengths > 0).sum()


def test_images_that_cannot_be_used_are_compared_with_nothing(made):
    """The same figures as without them, and pairs that count them."""
    synthetic, real, origins = made
    twin = (origins.sources[7] + 3) % REAL
    synthetic.whole[7] = real.whole[twin] + 1e-5
    expected = evaluate(
        row_scores(synthetic, real, origins), synthetic, real, origins, np.ones(ROWS, bool)
    )
    assert expected.duplicates["features"]["pairs"][0][:2] == [7, twin]
    usable = np.ones(REAL + 4, bool)
    usable[[0, 5, 6, REAL + 3]] = False
    places = np.flatnonzero(usable)
    spread = {}
    for name in ("probabilities", "whole", "foreground", "background", "thumbnails"):
        spread[name] = np.zeros((REAL + 4, getattr(real, name).shape[1]), np.float32)
        spread[name][places] = getattr(real, name)
    labels = np.zeros(REAL + 4, int)
    labels[places] = origins.real_labels
    moved = Origins(
        places[origins.sources], places[origins.targets], origins.labels, origins.strengths, labels
    )
    with_gaps = Views(**spread, usable=usable)
    found = evaluate(
        row_scores(synthetic, with_gaps, moved), synthetic, with_gaps, moved, np.ones(ROWS, bool)
    )
    for space, of_space in expected.duplicates.items():
        assert found.duplicates[space].pop("pairs") == [
            [row, int(places[other]), d] for row, other, d in of_space.pop("pairs")
        ]
    assert found.record() == expected.record()


def test_what_is_not_a_number_is_none():
    assert without_nan({"a": [1, math.nan, {"b": math.nan}], "c": "nan", "d": 0.5}) == {
        "a": [1, None, {"b": None}],
        "c": "nan",
        "d": 0.5,
    }


def test_classes_are_counted_and_the_text_names_the_worst(made):
    synthetic, real, origins = made
    scores = row_scores(synthetic, real, origins)
    kept = scores["judge_label_probability"] > 0.2
    by_class = class_facts(scores, origins.labels, kept, NAMES, {0: (3, 4)})
    assert [of_class.name for of_class in by_class] == NAMES
    assert [(of_class.judge_accuracy, of_class.real_images) for of_class in by_class] == [
        (0.75, 4),
        (None, 0),
        (None, 0),
    ]
    for label, of_class in enumerate(by_class):
        here = origins.labels == label
        assert (of_class.images, of_class.dropped) == (here.sum(), (here & ~kept).sum())
        assert of_class.label_fidelity == pytest.approx(
            (scores["judge_label"] == label)[here].mean()
        )
    facts = EvaluationFacts(
        request=Request("a@b", "default", "c@d", "model-free", None, None),
        dataset="e@f",
        warnings=[],
        trust=Trust(1.0, 0.0, 4),
        judge_accuracy=None,
        left_out=[],
        measured=evaluate(scores, synthetic, real, origins, kept),
        by_class=by_class,
        dropped=int((~kept).sum()),
    )
    json.dumps(facts.record(), allow_nan=False)
    lines = facts.text().splitlines()
    # A class name with a line break takes one line.
    assert len(lines) == 8 and sum("evil" in line for line in lines) <= 1
    assert [line.split()[0] for line in lines[2:-1]] == ["0", "0.25", "0.5", "all", "kept"]
    assert f"{facts.measured.all.label_fidelity:.3f}" in lines[5]


def test_numbers_of_prompts_are_read_from_a_plan_alone(tmp_path):
    """Anybody may have published the file."""
    rows = {"source_index": [3, 3], "variant": [0, 1], "label": [0, 0], "strength": [0.5, 0.0]}
    published = PublishedRows(Pin("org/birds", "0" * 40), Dataset.from_dict(rows), {})
    row = PlanRow(3, 0, 1, 0, 0.5, 0.1, 1, None)
    plan = tmp_path / "plan.parquet"
    write_plan(plan, [table_of([row, replace(row, variant=1)])])
    assert prompt_numbers(plan, published, 2).tolist() == [1, NO_PROMPT]
    table = pq.read_table(plan)
    texts = table.set_column(6, "prompt", pa.array(["a bird", "a bird"]))
    for stranger, count, said in (
        (texts, 2, "has other columns"),
        (table.drop_columns("prompt"), 2, "has other columns"),
        (table, 1, "does not have the rows"),
        (table[:1], 2, "does not have the rows"),
    ):
        pq.write_table(stranger, plan)
        with pytest.raises(UserError, match=said) as raised:
            prompt_numbers(plan, published, count)
        assert "\n" not in str(raised.value)
    plan.write_bytes(b"PAR1 no plan")
    with pytest.raises(UserError, match="the plan of org/birds cannot be read"):
        prompt_numbers(plan, published, 2)
