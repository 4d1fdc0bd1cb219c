"""`strength auto`: a pilot chooses the strength of every class, and the rows have it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import yaml
from generations import SCRIPT, arguments, digests, generate, manifest_of, published_rows
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from launching import launch
from scipy import stats
from tiny_models import save_classifier
from untrusted import refused

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.sources import doubts
from sgdmix_hub.files import read_sealed, write_sealed
from sgdmix_hub.generation.pilot import pilot_rows, pilot_table
from sgdmix_hub.generation.plan import PlanRow
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.method.strength import (
    ClassPilot,
    PilotBounds,
    chosen_strengths,
    shuffled_strengths,
    within_bounds,
)
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

STRENGTHS = [0.0, 0.25, 0.5, 0.75, 1.0]  # of four steps
BOUNDS = PilotBounds(0.9, 0.5, 0.9)
TABLE = "sgdmix/default/strengths.json"
BOUNDS_OF_TABLE = ("min_pilot_fidelity", "max_foreground_drift", "pilot_confidence")


@pytest.fixture(scope="module")
def settings(birds, adapter, tiny_base, classifier):
    return {
        "dataset_name": birds,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "preset": "paper",
        "saliency_method": "mask-column",
        "mask_column": "mask",
        "strength": "auto",
        "pilot_classifier": classifier,
        "pilot_rows": 3,
        "min_pilot_fidelity": 0.999,  # random models hardly change what random classifiers see
        "max_foreground_drift": 10,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "resolution": 32,
        "batch_size": 4,
        "num_variants": 1,
        "rows_per_shard": 8,
        "image_format": "png",
        "max_skipped": 1.0,
    }


@pytest.fixture(scope="module")
def chosen(settings, tmp_path_factory):
    return generate(settings, tmp_path_factory.mktemp("chosen") / "out")


def is_doubtful(excess):
    """Whether a one-sided t-test at .1 does not show that the mean excess is below 0."""
    if np.ptp(excess) < 1e-6:  # no test without a spread
        return excess.mean() > 0
    return stats.ttest_1samp(excess, 0, alternative="less").pvalue > 0.1


def table_of(output):
    return json.loads((output / "repo" / TABLE).read_text())


# ---- runs ----


def test_every_row_has_the_strength_of_its_class(chosen):
    strengths = table_of(chosen)["strengths"]
    rows = published_rows(chosen)
    assert {row["label"] for row in rows} == {int(label) for label in strengths}
    assert all(row["strength"] == strengths[str(row["label"])] for row in rows)
    assert len(set(strengths.values())) > 1, "the bounds are to part the classes"


def test_a_class_has_the_largest_strength_up_to_which_the_table_stays_within_the_bounds(chosen):
    table = table_of(chosen)
    assert [table[name] for name in BOUNDS_OF_TABLE] == [0.999, 10, 0.9]
    for of_class in table["classes"]:
        assert of_class["strength"] == STRENGTHS
        assert len(set(of_class["source_index"])) == 3
        assert of_class["probability"][0] == of_class["unrefined"]
        assert of_class["drift"][0] == pytest.approx([0] * 3, abs=1e-6)
        wanted = 0.0
        for strength, seen, drift in zip(
            STRENGTHS, of_class["probability"], of_class["drift"], strict=True
        ):
            lost = 0.999 * np.array(of_class["unrefined"]) - seen
            too_far = np.array(drift) - 10 * of_class["spread"]
            if is_doubtful(lost) or is_doubtful(too_far):
                break
            wanted = strength
        assert table["strengths"][str(of_class["label"])] == wanted


def test_table_and_pilot_are_published_and_told(chosen, classifier):
    pin = str(resolve(str(classifier)))
    manifest = manifest_of(chosen)
    assert manifest["pins"]["pilot_classifier"] == pin and TABLE in manifest["files"]
    counts = {planned["strength"]: planned["rows"] for planned in manifest["planned_strengths"]}
    made = [row["strength"] for row in published_rows(chosen)]
    assert counts == {strength: made.count(strength) for strength in set(made)}
    card = (chosen / "repo/README.md").read_text()
    assert "3 rows of each class were made at every strength" in card
    assert "both with 90% confidence" in card
    assert all(f"{count} at {strength:g}" in card for strength, count in counts.items())
    config = yaml.safe_load((chosen / "repo/sgdmix/default/config.yaml").read_text())
    assert (config["strength"], config["strength_choice"]) == (STRENGTHS, "auto")


def test_a_stopped_pilot_resumes_to_the_same_bytes(chosen, settings, tmp_path):
    copy = shutil.copytree(chosen, tmp_path / "out")
    before = digests(copy / "repo")
    shutil.rmtree(copy / "repo")
    for path in ("plan.parquet", "plan.json", "strengths.json"):
        (copy / "state" / path).unlink()
    (folder,) = copy.glob("state/pilot-*")
    first, second, *_ = sorted(folder.glob("*.json"))
    first.unlink()
    second.write_text(second.read_text()[:-20])
    assert digests(generate(settings, copy) / "repo") == before


def test_a_lost_table_is_made_again_from_what_was_measured(chosen, settings, tmp_path):
    copy = shutil.copytree(chosen, tmp_path / "out")
    before = digests(copy / "repo")
    shutil.rmtree(copy / "repo")
    (copy / "state/strengths.json").unlink()
    assert digests(generate(settings, copy) / "repo") == before


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(chosen, settings, tmp_path):
    ended = launch([SCRIPT, *arguments(settings | {"output_dir": tmp_path / "out"})], 2)
    assert ended.returncode == 0, ended.stderr
    assert digests(tmp_path / "out/repo") == digests(chosen / "repo")


def test_other_bounds_leave_what_was_measured_of_other_settings_alone(chosen, settings, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(chosen / "state", copy / "state")
    for path in ("plan.parquet", "plan.json", "run.json"):
        (copy / "state" / path).unlink()
    shutil.rmtree(copy / "state/shards")
    loose = generate(settings | {"min_pilot_fidelity": 0.01, "pilot_confidence": 0.5}, copy)
    assert set(table_of(loose)["strengths"].values()) == {1.0}
    assert "both with 50% confidence" in (loose / "repo/README.md").read_text()


def test_shuffled_rows_have_the_same_strengths_as_often(chosen, settings, tmp_path):
    shuffled = generate(settings | {"strength_choice": "shuffled"}, tmp_path / "out")
    rows, others = published_rows(shuffled), published_rows(chosen)
    assert sorted(row["strength"] for row in rows) == sorted(row["strength"] for row in others)
    assert [row["strength"] for row in rows] != [row["strength"] for row in others]
    assert table_of(shuffled)["strengths"] == table_of(chosen)["strengths"]
    same = [
        (row, other)
        for row, other in zip(rows, others, strict=True)
        if row["strength"] == other["strength"]
    ]
    assert same and all(row == other for row, other in same)


@pytest.mark.parametrize("damage", ["none", "another table", "no table"])
def test_a_rerun_takes_the_published_table(chosen, settings, birds, tmp_path, damage):
    published = shutil.copytree(chosen / "repo", tmp_path / "published")
    if damage == "another table":
        write_sealed(published / TABLE, read_sealed(published / TABLE) | {"strengths": {}})
    elif damage == "no table":
        (published / TABLE).unlink()
    inputs = ("adapter", "pretrained_model_name_or_path", "pilot_classifier")
    values = {name: settings[name] for name in inputs} | {
        "config": published / "sgdmix/default/config.yaml",
        "dataset_name": birds,
        "output_dir": tmp_path / "again",
        "max_skipped": 1.0,
    }

    def again():
        augment.main(parse_settings(AugmentSettings, arguments(values)))

    if damage != "none":
        with pytest.raises(UserError, match="is not the table of strengths of its manifest"):
            again()
        return
    again()
    assert not list((tmp_path / "again").glob("state/pilot-*"))
    assert published_rows(tmp_path / "again") == published_rows(chosen)
    assert (tmp_path / "again/repo" / TABLE).read_bytes() == (chosen / "repo" / TABLE).read_bytes()


def test_a_dry_run_tells_the_pilot_and_makes_none(settings, class_names, tmp_path, capsys):
    generate(settings | {"dry_run": True}, tmp_path / "out")
    refined = len(class_names) * 3 * (len(STRENGTHS) - 1)
    assert f"pilot       {refined} images, " in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("state/pilot-*"))


def test_a_classifier_of_other_classes_is_refused_before_a_row_is_made(settings, tmp_path):
    folder = save_classifier(tmp_path / "other", ["a robin", "a wren"])
    other = settings | {"pilot_classifier": folder}
    for values in (other | {"dry_run": True}, other):
        with pytest.raises(UserError, match="the pilot_classifier other has other classes"):
            generate(values, tmp_path / "out")
    assert not (tmp_path / "out/state/plan.parquet").exists()


def test_the_figures_of_the_pilots_classifier_are_told_to_be_too_good(classifier, class_names):
    judge = Judge(resolve(str(classifier)), class_names, "cpu")
    subset = {"dataset": "o/n@main", "dataset_config_name": None, "dataset_split": "train"}
    told = doubts(judge, Trust(0.5, 0.25, 8), subset | {"rows_sha256": "0"}, None, str(judge.pin))
    assert [line for line in told if "chose the strengths" in line]


# ---- which rows, which strength ----


def row(source, variant=0, **values):
    return dataclasses.replace(PlanRow(source, variant, 99, 7, 0.5, 0.1, 0, None), **values)


def test_the_pilot_has_a_few_sources_of_every_class_in_one_variant_each():
    settings = AugmentSettings(dataset_name="d", output_dir="o", pilot_rows=2)
    plan = [row(source, variant) for source in range(12) for variant in range(2)]
    plan += [row(20, skip="corrupt image"), row(21, target_index=21), row(22)]
    label_of = lambda one: one.source_index % 3 if one.source_index < 20 else 3  # noqa: E731
    rows = pilot_rows(settings, plan, label_of)
    assert [one.source_index for one in rows] == sorted(one.source_index for one in rows)
    labels = [label_of(one) for one in rows]
    assert [labels.count(label) for label in range(4)] == [2, 2, 2, 1] and rows[-1] == row(22)
    assert all(one in plan and one.variant == 0 for one in rows)
    assert pilot_rows(settings, reversed(plan), label_of) == rows
    other = dataclasses.replace(settings, seed=1)
    assert pilot_rows(other, plan, label_of) != rows


def pilot(probabilities, drifts, unrefined=(1.0, 1.0), spread=1.0):
    """Of two rows, from their means at each strength."""
    columns = (np.tile(np.array(values), (2, 1)) for values in (probabilities, drifts))
    return ClassPilot(*columns, np.array(unrefined), spread)


@pytest.mark.parametrize(
    ("probabilities", "drifts", "strength"),
    [
        ([1, 0.95, 0.91], [0, 0.1, 0.5], 1.0),
        ([1, 0.95, 0.89], [0, 0.1, 0.5], 0.5),
        ([1, 0.95, 0.91], [0, 0.1, 0.6], 0.5),
        ([1, 0.2, 0.99], [0, 0, 0], 0.0),  # a larger one that fits by chance is not taken
        ([0.5, 0.5, 0.5], [0, 0, 0], 0.0),  # the smallest, though it does not fit
    ],
)
def test_the_bounds(probabilities, drifts, strength):
    pilots = {3: pilot(probabilities, drifts)}
    assert chosen_strengths(pilots, [0.0, 0.5, 1.0], BOUNDS) == {3: strength}


def test_a_class_without_a_spread_is_held_to_the_usual_one():
    lone = dataclasses.replace(pilot([1, 1], [0, 0.3]), spread=None)
    others = {0: pilot([1, 1], [0, 0], spread=0.2), 1: pilot([1, 1], [0, 0], spread=0.8)}
    assert chosen_strengths(others | {2: lone}, [0.0, 1.0], BOUNDS)[2] == 0.0
    assert chosen_strengths(others | {2: lone}, [0.0, 1.0], PilotBounds(0.9, 0.6, 0.9))[2] == 1.0
    assert chosen_strengths({2: lone}, [0.0, 1.0], PilotBounds(0.9, 10, 0.9))[2] == 0.0


def test_a_class_of_which_no_row_could_be_made_has_the_smallest_strength():
    nothing = ClassPilot(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), None)
    assert chosen_strengths({0: nothing}, [0.25, 0.5], PilotBounds(0.1, 10, 0.5)) == {0: 0.25}
    settings = AugmentSettings(dataset_name="d", output_dir="o", strength=[0.25, 0.5])
    measured = {"label": 0, "probability": [[], []], "drift": [[], []], "unrefined": []}
    table = pilot_table(settings, [measured | {"spread": None}])
    assert table["strengths"] == {"0": 0.25}


def test_rows_that_say_little_allow_little():
    """Rows that differ, and a single row, do not show that the bounds hold."""
    alike = pilot([1, 0.95], [0, 0.1])
    apart = dataclasses.replace(alike, probabilities=np.array([[1, 0.5], [1, 1.4]]))
    alone = ClassPilot(np.ones((1, 2)), np.zeros((1, 2)), np.ones(1), 1.0)
    pilots = {0: alike, 1: apart, 2: alone}
    assert chosen_strengths(pilots, [0.0, 1.0], BOUNDS) == {0: 1.0, 1: 0.0, 2: 0.0}
    by_means = dataclasses.replace(BOUNDS, confidence=0.5)
    assert chosen_strengths(pilots, [0.0, 1.0], by_means) == {0: 1.0, 1: 1.0, 2: 0.0}


shares = st.floats(0, 1, allow_subnormal=False)


@given(
    st.lists(st.tuples(shares, shares), min_size=4, max_size=4),
    st.builds(PilotBounds, shares, shares, st.floats(0.5, 0.999)),
    shares,
    shares,
    shares,
)
def test_looser_bounds_never_choose_a_smaller_strength(measured, bounds, more, further, surer):
    pilots = {0: pilot(*zip(*measured, strict=True))}
    strengths = [0.0, 0.3, 0.6, 0.9]
    looser = PilotBounds(
        bounds.min_fidelity * more,
        bounds.max_drift + further,
        0.5 + (bounds.confidence - 0.5) * surer,
    )
    tight = chosen_strengths(pilots, strengths, bounds)[0]
    assert chosen_strengths(pilots, strengths, looser)[0] >= tight
    fits = within_bounds(pilots[0], 1.0, bounds)
    assert tight == 0.0 or fits[: strengths.index(tight) + 1].all()


@given(
    arrays(np.float64, (8, 3), elements=shares),
    st.builds(PilotBounds, shares, shares, st.floats(0.5, 0.999)),
)
def test_bounds_hold_where_one_sided_t_tests_say_so(measured, bounds):
    probability, moved, unrefined = measured.T
    one = ClassPilot(probability[:, None], moved[:, None], unrefined, 1.0)
    excess = (bounds.min_fidelity * unrefined - probability, moved - bounds.max_drift)
    assume(all(np.ptp(values) > 1e-3 for values in excess))
    with np.errstate(all="ignore"):
        p_values = [stats.ttest_1samp(values, 0, alternative="less").pvalue for values in excess]
    doubt = 1 - bounds.confidence
    assume(all(abs(p - doubt) > 1e-6 for p in p_values))
    assert within_bounds(one, 1.0, bounds).tolist() == [max(p_values) < doubt]


@given(st.lists(shares, max_size=20), st.integers(0, 100))
def test_shuffling_keeps_every_strength_as_often(strengths, seed):
    shuffled = shuffled_strengths(np.array(strengths), seed)
    assert sorted(shuffled) == sorted(strengths)
    assert np.array_equal(shuffled, shuffled_strengths(np.array(strengths), seed))


# ---- settings ----

GIVEN = {"dataset_name": "d", "output_dir": "o", "adapter": "a/b", "pilot_classifier": "c/d"}


@pytest.mark.parametrize(
    ("values", "strengths"),
    [
        ({}, [0.0, 0.08, 0.32, 0.48, 0.72, 0.88]),
        ({"num_inference_steps": 10}, [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]),
        ({"num_inference_steps": 2}, [0.0, 0.5, 1.0]),
        ({"num_inference_steps": 10, "foreground_strength": 0.3}, [0.3, 0.5, 0.7, 0.9]),
        ({"num_inference_steps": 10, "mixing_method": "none"}, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ({"strength_unit": "noise-level"}, [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]),
    ],
)
def test_auto_chooses_from_0_and_whole_steps(values, strengths):
    settings = AugmentSettings(**GIVEN, strength="auto", **values)
    settings.validate()
    assert (settings.strength, settings.strength_choice) == (strengths, "auto")
    assert dataclasses.replace(settings) == settings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"strength": "auto", "pilot_classifier": None}, "needs --pilot_classifier"),
        ({"strength": [0.5], "strength_choice": "auto"}, "needs several strengths"),
        ({"pilot_classifier": None, "pilot_rows": 4}, "pilot_rows needs --strength auto"),
        ({"pilot_confidence": 0.8}, "pilot_confidence needs --strength auto"),
    ],
)
def test_a_pilot_that_cannot_be_is_refused_in_one_line(values, said):
    assert said in refused(AugmentSettings(**GIVEN | values).validate)


def test_auto_stands_alone():
    with pytest.raises(UserError, match="give numbers, or auto alone"):
        AugmentSettings(**GIVEN, strength=["auto", 0.5])
