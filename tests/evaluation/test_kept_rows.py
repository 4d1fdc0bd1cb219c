"""Which rows an evaluation keeps, and an evaluation through Grad-CAM."""

import numpy as np
import pytest
from evaluations import facts_of
from hypothesis import given
from hypothesis import strategies as st

from sgdmix_hub import augment, evaluate_dataset
from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluation.scores import rows_to_keep
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_of_no_rows_is_refused(keep):
    with pytest.raises(UserError, match="keep"):
        EvaluationSettings(synthetic="x", judge="x", output_dir="x", keep=keep).validate()


def test_the_first_of_equally_probable_rows_is_kept():
    assert rows_to_keep(np.array([0.2, 0.9, 0.2, 0.9]), 0.5).tolist() == [False, True, False, True]
    assert rows_to_keep(np.array([0.2, 0.2, 0.2]), 0.34).tolist() == [True, False, False]
    assert rows_to_keep(np.array([0.1, 0.2]), 0.01).tolist() == [False, True]


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=40),
    share=st.floats(0.01, 1),
)
def test_every_class_keeps_the_same_share_of_its_most_probable_rows(rows, share):
    labels, probabilities = (np.array(column) for column in zip(*rows, strict=True))
    kept = rows_to_keep(probabilities, share, labels)
    for label in np.unique(labels):
        of_class = labels == label
        assert kept[of_class].sum() == max(1, round(share * of_class.sum()))
        dropped = probabilities[of_class & ~kept]
        assert not len(dropped) or dropped.max() <= probabilities[of_class & kept].min()


@pytest.fixture(scope="module")
def evaluate_everything(few_birds, classifier, tmp_path_factory):
    """`evaluate_everything(**more)`: the output folder of an evaluation of a generation through
    Grad-CAM, judged by its own classifier.
    """
    generated = tmp_path_factory.mktemp("through-grad-cam") / "run"
    augment.main(
        AugmentSettings(
            dataset_name=str(few_birds),
            output_dir=str(generated),
            preset="paper",
            classifier=str(classifier),
            strength=0.0,
            resolution=32,
        )
    )

    def run(**more):
        output = tmp_path_factory.mktemp("everything") / "out"
        settings = {
            "synthetic": str(generated),
            "judge": str(classifier),
            "dataset_name": str(few_birds),
            "output_dir": str(output),
        }
        evaluate_dataset.main(EvaluationSettings(**(settings | more)))
        return output

    return run


@pytest.mark.slow
def test_masks_are_the_generations_where_its_classifier_is_at_hand(
    evaluate_everything, classifier, tiny_base, caplog
):
    with_classifier, without = (
        evaluate_everything(classifier=str(classifier)),
        evaluate_everything(),
    )
    assert facts_of(with_classifier)["masks"] == "the generation's (grad-cam, otsu)"
    assert facts_of(without)["masks"].startswith("model-free")
    assert "masks are model-free" in caplog.text
    assert (
        facts_of(with_classifier)["all"]["foreground_drift"]
        != facts_of(without)["all"]["foreground_drift"]
    )
    assert (
        facts_of(with_classifier)["all"]["label_fidelity"]
        == facts_of(without)["all"]["label_fidelity"]
    )
    with pytest.raises(UserError, match="not the classifier behind the saliency maps"):
        evaluate_everything(classifier=str(tiny_base))
