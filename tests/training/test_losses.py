"""The classifier's loss against the Trainer's own on hard labels, and against its definition on
soft ones.
"""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax, one_hot
from transformers.trainer_pt_utils import LabelSmoother

from sgdmix_hub.training.classifier.losses import balanced_softmax_prior, classification_loss

smoothings = st.sampled_from([0.0, 0.1, 0.5])


@st.composite
def batches(draw):
    """Logits of up to 9 images over up to 6 classes, their labels, and soft ones."""
    images, classes, seed = (
        draw(st.integers(1, 9)),
        draw(st.integers(2, 6)),
        draw(st.integers(0, 1000)),
    )
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn((images, classes), generator=generator)
    soft = torch.rand((images, classes), generator=generator)
    return (
        {"logits": logits},
        torch.randint(classes, (images,), generator=generator),
        soft / soft.sum(dim=1, keepdim=True),
    )


@given(batch=batches(), smoothing=smoothings)
@settings(max_examples=40)
def test_on_hard_labels_it_is_the_trainers_own(batch, smoothing):
    outputs, labels, _ = batch
    expected = LabelSmoother(epsilon=smoothing)(outputs, labels)
    torch.testing.assert_close(
        classification_loss(outputs, labels, label_smoothing=smoothing), expected
    )
    certain = one_hot(labels, outputs["logits"].shape[1]).float()
    torch.testing.assert_close(
        classification_loss(outputs, certain, label_smoothing=smoothing), expected
    )


@given(batch=batches(), smoothing=smoothings)
@settings(max_examples=40)
def test_on_soft_labels_it_is_cross_entropy_with_the_smoothed_shares(batch, smoothing):
    outputs, _, shares = batch
    smoothed = (1 - smoothing) * shares + smoothing / shares.shape[1]
    expected = -(smoothed * log_softmax(outputs["logits"], dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(
        classification_loss(outputs, shares, label_smoothing=smoothing), expected
    )


@given(batch=batches(), smoothing=smoothings, cut=st.integers(0, 9))
@settings(max_examples=40)
def test_parts_of_an_optimizer_step_add_up_to_the_mean_over_all_of_its_images(
    batch, smoothing, cut
):
    """As the Trainer calls it: with the number of values in the labels of the whole step."""
    outputs, hard, soft = batch
    for labels in (hard, soft):
        parts = [part for part in (slice(None, cut), slice(cut, None)) if len(labels[part])]
        losses = [
            classification_loss(
                {"logits": outputs["logits"][part]},
                labels[part],
                labels.numel(),
                label_smoothing=smoothing,
            )
            for part in parts
        ]
        torch.testing.assert_close(
            sum(losses), classification_loss(outputs, labels, label_smoothing=smoothing)
        )


@given(batch=batches(), counts=st.lists(st.integers(1, 500), min_size=6, max_size=6))
@settings(max_examples=40)
def test_balanced_softmax_weighs_every_class_by_its_training_images(batch, counts):
    """Ren et al., eq. 3: n_y exp(z_y) / sum_i n_i exp(z_i), in double precision."""
    outputs, labels, _ = batch
    counts = np.array(counts[: outputs["logits"].shape[1]])
    weighted = counts * np.exp(outputs["logits"].double().numpy())
    expected = -np.log(weighted[np.arange(len(labels)), labels] / weighted.sum(axis=1)).mean()
    loss = classification_loss(
        outputs, labels, label_smoothing=0.0, log_prior=balanced_softmax_prior(counts)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-5)


def test_a_class_without_images_leaves_the_loss_finite():
    prior = balanced_softmax_prior(np.array([5, 0, 2]))
    assert torch.isfinite(
        classification_loss(
            {"logits": torch.zeros(2, 3)},
            torch.tensor([0, 2]),
            label_smoothing=0.1,
            log_prior=prior,
        )
    )


def test_it_is_computed_in_full_precision():
    logits = torch.tensor([[12.0, -3.0, 1.0], [0.25, 2.0, -8.0]], dtype=torch.float16)
    loss = classification_loss({"logits": logits}, torch.tensor([2, 1]), label_smoothing=0.1)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(
        loss,
        classification_loss({"logits": logits.double()}, torch.tensor([2, 1]), label_smoothing=0.1),
        rtol=1e-6,
    )
