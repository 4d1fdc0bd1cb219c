"""What a classifier is shown: synthetic images in place of real ones or beside them, their labels,
and mixed batches.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.preprocessing import Preprocessing
from sgdmix_hub.publishing.read import PublishedRows
from sgdmix_hub.seeds import RandomStream
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.training.classifier.dataset import (
    TrainingImages,
    balanced_draw,
    mix_batch,
    seeded,
    soft_label,
)

CLASSES = 4
CLASS, STRENGTH, GAMMA = st.integers(0, CLASSES - 1), st.floats(0.0, 1.0), st.floats(0.1, 4.0)


@pytest.fixture(scope="module")
def split(birds):
    return load_split(
        DataSettings(dataset_name=str(birds), output_dir="unused"), resolve(str(birds), "dataset")
    )


@pytest.fixture(scope="module")
def published(split):
    """Two rows for each source but the first, refined at S = 0.4 and 1 towards another image's
    class, which is their label.
    """
    sources = np.repeat(split.subset[1:], 2)
    targets = np.roll(sources, 5)
    columns = {
        "image": [split.rows[int(target)]["image"] for target in targets],
        "label": split.labels[targets],
        "source_index": sources,
        "strength": np.tile([0.4, 1.0], len(sources) // 2),
    }
    features = Features(
        {
            "image": split.rows.features["image"],
            "label": split.rows.features["label"],
            "source_index": Value("int64"),
            "strength": Value("float64"),
        }
    )
    return PublishedRows(
        resolve(split.pin.path, "dataset"), Dataset.from_dict(columns, features=features), {}
    )


def to_tensor(image):
    return v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True)


# ---- crops ----


def test_with_a_resize_size_crops_are_windows_of_the_stretched_image(split):
    image = split.image(0).resize((50, 30))
    cropped = Preprocessing(32, 40, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "rgb")
    whole = replace(cropped, size=40).evaluation()(image)
    assert torch.equal(cropped.evaluation()(image), whole[:, 4:36, 4:36])
    assert torch.equal(cropped.whole(image, 40, "stretch"), whole)
    windows = whole.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    for seed in range(5):
        with seeded(seed):
            crop = cropped.training("crops")(image)
        assert any(
            torch.equal(crop, window) or torch.equal(crop.flip(-1), window) for window in windows
        )


# ---- labels ----


@given(source=CLASS, shown=CLASS, strength=STRENGTH, gamma=GAMMA)
def test_a_soft_label_is_diff_mixs(source, shown, strength, gamma):
    unit = np.eye(CLASSES)
    expected = (1 - strength**gamma) * unit[source] + strength**gamma * unit[shown]
    np.testing.assert_allclose(
        soft_label(source, shown, strength, gamma, CLASSES), expected, atol=1e-6
    )


def test_synthetic_images_carry_the_label_that_was_published(split, published):
    images = TrainingImages(split, split.subset, to_tensor, published, 1.0, seed=0, total_batch=6)
    rows = [split.subset[images.entry(position)] for position in range(len(split.subset))]
    for position, row in enumerate(rows):
        made = published.made_from(row)
        assert images[position]["labels"] in (
            [published.labels[m] for m in made] or [split.labels[row]]
        )
    assert any(images[position]["labels"] != split.labels[row] for position, row in enumerate(rows))


def test_with_gamma_they_share_it_with_their_source(split, published):
    images = TrainingImages(
        split, split.subset, to_tensor, published, 0.0, seed=0, total_batch=1, added=True, gamma=0.8
    )
    real = len(split.subset)
    for position in range(len(images)):
        label = images[position]["labels"]
        assert label.dtype == torch.float32 and label.shape == (CLASSES,)
        entry = images.entry(position)
        if entry < real:
            assert label.tolist() == np.eye(CLASSES)[split.labels[split.subset[entry]]].tolist()
        else:
            made = entry - real  # every row's source is in the subset
            share = published.strengths[made] ** 0.8
            expected = np.zeros(CLASSES)
            np.add.at(
                expected,
                [split.labels[published.sources[made]], published.labels[made]],
                [1 - share, share],
            )
            np.testing.assert_allclose(label, expected, atol=1e-6)


# ---- synthetic images beside the real ones ----


@pytest.mark.parametrize(
    "rows", [slice(None), slice(None, None, 3)], ids=["all rows", "a third of them"]
)
def test_an_epoch_shows_every_real_image_and_every_synthetic_one_made_from_them_once(
    rows, split, published
):
    rows = split.subset[rows]
    images = TrainingImages(
        split, rows, to_tensor, published, 0.0, seed=0, total_batch=1, added=True
    )
    of_rows = np.flatnonzero(np.isin(published.sources, rows)).tolist()
    assert len(images) == len(rows) + len(of_rows)
    for images.epoch in range(2):
        order = np.argsort([images.entry(position) for position in range(len(images))])
        shown = [item["pixel_values"] for item in images.__getitems__(order.tolist())]
        expected = [split.image(row) for row in rows] + [published.image(made) for made in of_rows]
        assert all(
            torch.equal(pixels, to_tensor(image))
            for pixels, image in zip(shown, expected, strict=True)
        )


# ---- every class equally often ----


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_a_balanced_draw_is_even_over_the_classes_and_within_each(labels, seed):
    labels = np.array(labels)
    drawn = balanced_draw(labels, np.random.default_rng(seed))
    assert drawn.shape == labels.shape
    assert np.array_equal(drawn, balanced_draw(labels, np.random.default_rng(seed)))
    of_classes = np.bincount(labels[drawn])[np.unique(labels)]
    assert np.ptp(of_classes) <= 1
    for label in np.unique(labels):
        assert np.ptp(np.bincount(drawn, minlength=len(labels))[labels == label]) <= 1


@pytest.mark.parametrize("added", [False, True])
def test_balanced_epochs_are_functions_of_their_number(added, split, published):
    """Of six images of each class but one, which has two."""
    rare = split.subset[split.labels[split.subset] == 0][2:]
    rows = np.setdiff1d(split.subset, rare)
    options = {"added": added, "balanced": True, "total_batch": 1}
    images, again = (
        TrainingImages(split, rows, to_tensor, published, 0.0, seed=5, **options) for _ in range(2)
    )
    assert len(images) == len(
        TrainingImages(split, rows, to_tensor, published, 0.0, seed=5, total_batch=1, added=added)
    )
    epochs = []
    for epoch in (0, 1, 2):
        images.epoch = epoch
        epochs.append([item["labels"] for item in images.__getitems__(list(range(len(images))))])
        assert np.ptp(np.bincount(epochs[-1])) <= 1
        assert len({images.entry(position) for position in range(len(images))}) < len(images)
    for epoch in (2, 0):
        again.epoch = epoch
        labels = [again[position]["labels"] for position in reversed(range(len(again)))]
        assert labels == epochs[epoch][::-1]


# ---- mixed batches ----


@pytest.fixture(
    scope="module", params=[(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)], ids=["mixup", "cutmix", "both"]
)
def mixed_images(request, split):
    mixup_alpha, cutmix_alpha = request.param
    return TrainingImages(
        split,
        split.subset,
        to_tensor,
        None,
        0.0,
        seed=3,
        total_batch=8,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
    )


@pytest.mark.slow
@given(
    epoch=st.integers(0, 1000),
    batch=st.integers(0, 2),
    part=st.tuples(st.integers(0, 7), st.integers(1, 8)),
    drawn=st.integers(0, 3),
)
@settings(max_examples=25)
def test_how_a_batch_is_mixed_is_a_function_of_epoch_and_position(
    mixed_images, epoch, batch, part, drawn
):
    """And not of which consecutive positions of the total batch a process takes."""
    mixed_images.epoch = epoch
    total = list(range(8 * batch, 8 * batch + 8))
    positions = total[part[0] :][: part[1]]
    first = mixed_images.__getitems__(positions)
    torch.manual_seed(drawn)
    before = torch.get_rng_state()
    again = mixed_images.__getitems__(positions)
    assert torch.equal(torch.get_rng_state(), before)
    whole = mixed_images.__getitems__(total)[part[0] :][: part[1]]
    for item, other in zip([*first, *first], [*again, *whole], strict=True):
        assert torch.equal(item["pixel_values"], other["pixel_values"])
        assert torch.equal(item["labels"], other["labels"])
        assert item["labels"].sum() == pytest.approx(1)
    mixed_images.epoch = epoch + 1
    pairs = list(zip(first, mixed_images.__getitems__(positions), strict=True))
    assert not all(
        torch.equal(item["pixel_values"], other["pixel_values"]) for item, other in pairs
    )


@pytest.mark.slow
def test_workers_mix_as_the_process_itself_does(mixed_images):
    def loaded(epoch, workers):
        mixed_images.epoch = epoch
        batches = list(DataLoader(mixed_images, batch_size=4, num_workers=workers))
        return [
            torch.cat([batch[name] for batch in batches]) for name in ("pixel_values", "labels")
        ]

    for epoch in range(2):
        assert all(
            torch.equal(mine, theirs)
            for mine, theirs in zip(loaded(epoch, 0), loaded(epoch, 2), strict=True)
        )


@given(seed=st.integers(0, 10_000), batch=st.integers(2, 5))
@settings(max_examples=40)
def test_a_mixed_image_shows_what_its_label_says(seed, batch):
    """The i-th image is all of class i, and its pixels all i: the mean pixel of mixtures is what
    the label's shares say.
    """
    pixels = torch.arange(batch).float()[:, None, None, None].expand(batch, 3, 16, 16)
    for alphas in ((0.4, 0.0), (0.0, 1.0)):
        with seeded(seed):
            mixed, labels = mix_batch(pixels, torch.eye(batch), *alphas)
        np.testing.assert_allclose(
            mixed.mean(dim=(1, 2, 3)), labels @ torch.arange(batch).float(), atol=1e-5
        )
        assert (labels.diagonal() == labels[0, 0]).all() and ((labels > 0).sum(dim=1) <= 2).all()
        values = [len(image.unique()) for image in mixed]
        # mixup blends two images; CutMix pastes one into the other.
        assert max(values) == 1 if alphas[1] == 0 else max(values) <= 2


def test_with_both_on_batches_are_mixed_by_one_or_the_other_equally_often():
    pixels, cut = torch.arange(2).float()[:, None, None, None].expand(2, 3, 16, 16), 0
    for seed in range(400):
        with seeded(seed):
            mixed, _ = mix_batch(pixels, torch.eye(2), 1.0, 1.0)
        cut += set(mixed.unique().tolist()) <= {0.0, 1.0}
    assert 150 < cut < 250  # five standard deviations on either side


# ---- synthetic images drawn by class ----


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["class-balanced", "inverse-frequency"])
def test_weighted_replacements_show_every_class_as_often_as_its_weight(split, published, weighting):
    """However many synthetic images it has; none is made from a row that is not trained on."""
    rare = split.subset[split.labels[split.subset] == 0]
    rows = np.setdiff1d(split.subset, rare[2:])
    images = TrainingImages(
        split, rows, to_tensor, published, 1.0, seed=0, total_batch=1, weighting=weighting
    )
    allowed = [position for row in rows for position in published.made_from(row)]
    classes = np.unique(published.labels[allowed])
    drawn = []
    for epoch in range(200):
        images.epoch = epoch
        for position in range(len(rows)):
            with seeded(images._seed_of(position, RandomStream.SAMPLE)):
                drawn.append(images._replacement(int(rows[position])))
    assert set(drawn) == set(allowed)
    counts = np.bincount(published.labels[drawn])[classes]
    real = np.bincount(split.labels[rows])[classes]
    weights = np.ones(len(classes)) if weighting == "class-balanced" else 1 / (real + 1)
    expected = len(drawn) * weights / weights.sum()
    assert chisquare(counts, expected).pvalue > 1e-4 and abs(counts / expected - 1).max() < 0.15
    assert weighting == "class-balanced" or len(set(weights)) > 1


def test_weighted_replacements_are_off_without_synthetic_images(split):
    images = TrainingImages(split, split.subset, to_tensor, None, 0.0, seed=0, total_batch=1)
    assert not images.by_class and images._replacement(int(split.subset[0])) is None
