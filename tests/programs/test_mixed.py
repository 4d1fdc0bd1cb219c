"""Mixing on the fly: a generation's mixtures, whatever the workers and their start method."""

import multiprocessing
import pickle

import cv2
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from sgdmix_hub import MixedDataset, SGDMixTransform
from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.plan import rows_of
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.method.mixing import compose
from sgdmix_hub.method.overlay import overlay, shown_box, softened
from sgdmix_hub.pipeline import SGDMixPipeline

SIZE = 32
MASKS = {"strength": 0, "resolution": SIZE, "mask_column": "mask"}


@pytest.fixture(scope="module")
def dataset(birds):
    return load_dataset(str(birds), split="train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def pipeline():
    return SGDMixPipeline.from_pretrained(**MASKS)


@pytest.fixture(scope="module")
def mixed(dataset, folder, pipeline):
    return MixedDataset(dataset, folder, pipeline=pipeline, probability=1.0, num_targets=3)


def pixels(image):
    return np.asarray(image).astype(int)


def all_pixels(rows):
    return np.stack([pixels(rows[row]["image"]) for row in range(len(rows))])


def test_a_mapped_split_makes_a_row_once_however_it_is_asked_for(dataset):
    split = MappedSplit(SGDMixPipeline.from_pretrained(**MASKS), dataset)
    once = split({}, [1, 3])
    assert once["source_index"] == [1, 3] and split({}, [3, 1, 3]) == once
    assert split({}, [])["label"] == []


def test_a_mixture_is_that_of_a_generation_with_the_same_target(dataset, mixed):
    """The birds have one aspect ratio, so that nothing is cropped; feathering rounds."""
    settings = MASKS | {"num_variants": 3}
    split = MappedSplit(SGDMixPipeline.from_pretrained(**settings), dataset)
    planned = {(row.source_index, row.target_index): row for row in rows_of(split.plan)}
    for row in range(len(dataset)):
        expected = split.maker.mixture(planned[row, mixed.mix.drawn(row)]).mixed
        assert np.abs(pixels(mixed[row]["image"]) - expected.astype(int)).max() <= 1


def test_the_targets_are_those_of_a_generations_variants(dataset, mixed):
    split = MappedSplit(SGDMixPipeline.from_pretrained(**MASKS | {"num_variants": 3}), dataset)
    planned = split.plan["target_index"].to_pylist()
    assert mixed.mix.targets.ravel().tolist() == planned


def test_rows_keep_their_labels_and_other_columns(dataset, mixed):
    for row in (0, 7, -1):
        item = mixed[row]
        assert set(item) == {"image", "label", "background"}
        assert item["label"] == dataset[row]["label"]
        assert item["background"] == dataset[row]["background"]
        assert item["image"].size == (SIZE, SIZE) and item["image"].mode == "RGB"
    with pytest.raises(IndexError):
        mixed[len(dataset)]


def test_probability_0_gives_the_dataset_and_half_of_it_about_half(dataset, folder, pipeline):
    never = MixedDataset(dataset, folder, pipeline=pipeline, probability=0.0, num_targets=3)
    for row in range(len(dataset)):
        assert (pixels(never[row]["image"]) == pixels(dataset[row]["image"].convert("RGB"))).all()
    half = MixedDataset(dataset, folder, pipeline=pipeline, probability=0.5, num_targets=3).mix
    drawn = []
    for epoch in range(40):
        half.set_epoch(epoch)
        drawn += [half.drawn(row) is not None for row in range(len(dataset))]
    assert 0.45 < np.mean(drawn) < 0.55  # 960 draws: a standard deviation of .016


def test_epochs_draw_other_targets_and_the_same_epoch_the_same(mixed):
    first = all_pixels(mixed)
    mixed.set_epoch(1)
    second = all_pixels(mixed)
    mixed.set_epoch(0)
    assert (first != second).any() and (all_pixels(mixed) == first).all()


def as_array(image):
    return torch.from_numpy(np.array(image))


def loaded(dataset, workers, context, epochs, persistent=False):
    loader = DataLoader(
        dataset,
        batch_size=5,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        persistent_workers=persistent,
    )
    batches = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        batches += [batch["image"] for batch in loader]
    return torch.cat(batches).numpy()


@pytest.mark.parametrize(
    ("workers", "context", "persistent"),
    [(1, "fork", False), (2, "fork", True), pytest.param(1, "spawn", True, marks=pytest.mark.slow)],
)
def test_images_do_not_depend_on_the_workers(
    dataset, folder, pipeline, workers, context, persistent
):
    mixed = MixedDataset(
        dataset, folder, pipeline=pipeline, probability=0.5, num_targets=3, transform=as_array
    )
    alone = loaded(mixed, 0, None, 2)
    assert (loaded(mixed, workers, context, 2, persistent) == alone).all()


@pytest.mark.timeout(120)
def test_forked_workers_mix_where_opencv_had_threads(dataset, folder, pipeline):
    """They used to wait forever for threads that a fork does not copy."""
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.float32), (0, 0), 9)  # starts the threads
        mixed = MixedDataset(
            dataset, folder, pipeline=pipeline, probability=0.5, num_targets=3, transform=as_array
        )
        assert (loaded(mixed, 2, "fork", 1) == loaded(mixed, 0, None, 1)).all()
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)


def test_a_pickled_dataset_holds_no_prepared_image(mixed):
    mixed[0]
    data = pickle.dumps(mixed.mix)
    assert mixed.mix.images.background(0)[5].tobytes() not in data
    assert mixed.mix.targets[3].tobytes() not in data
    again = pickle.loads(data)
    image = mixed.mix.split.image(0)
    assert (pixels(again(image, 0)) == pixels(mixed.mix(image, 0))).all()


@pytest.mark.slow
def test_what_is_prepared_is_opened_again_and_does_not_depend_on_the_workers(
    dataset, folder, pipeline, mixed, tmp_path, monkeypatch
):
    """A second dataset over the same folder must not mask anything."""
    MixedDataset(dataset, tmp_path, pipeline=pipeline, num_targets=3, num_workers=2)
    values = f"{mixed.mix.images.folder.name}/values.npy"
    assert (folder / values).read_bytes() == (tmp_path / values).read_bytes()
    monkeypatch.setattr("sgdmix_hub.generation.prepared.Mixer", None)
    MixedDataset(dataset, folder, pipeline=pipeline, probability=1.0, num_targets=3)


class Counting:
    """The mask in the middle of an image; adds a byte to a file for every image."""

    def __init__(self, calls):
        self.calls = str(calls)

    def __call__(self, image):
        with open(self.calls, "ab") as file:
            file.write(b".")
        mask = np.zeros((SIZE, SIZE))
        mask[10:20, 10:20] = 1
        return mask


def prepare(dataset, folder):
    pipeline = SGDMixPipeline.from_pretrained(
        mask_function=Counting(folder / "calls"), strength=0, resolution=SIZE
    )
    MixedDataset(dataset, folder / "prepared", pipeline=pipeline, num_targets=2)


def test_processes_that_start_at_once_prepare_once(dataset, tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=prepare, args=(dataset, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "calls").stat().st_size == len(dataset)


class Pairs(torch.utils.data.Dataset):
    """Images and labels as torchvision's datasets give them."""

    def __init__(self, rows):
        self.rows = [(row["image"], row["label"]) for row in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


@pytest.fixture(scope="module")
def barrier():
    return SGDMixPipeline.from_pretrained(
        strength=0, resolution=SIZE, saliency_method="minimum-barrier"
    )


@pytest.mark.slow
def test_any_torch_dataset_gives_the_images_of_the_same_split_of_datasets(
    dataset, barrier, tmp_path
):
    plain = dataset.remove_columns(["mask", "background"])
    how = {"pipeline": barrier, "probability": 1.0, "num_targets": 2}
    pairs = MixedDataset(Pairs(plain), tmp_path, **how)
    rows = MixedDataset(plain, tmp_path, **how)
    for row in range(len(plain)):
        image, label = pairs[row]
        assert label == rows[row]["label"]
        assert (pixels(image) == pixels(rows[row]["image"])).all()


class Augmented(Pairs):
    def __getitem__(self, row):
        image, label = self.rows[row]
        return image.rotate(float(torch.rand(()) * 40)), label


class Tensors(Pairs):
    def __getitem__(self, row):
        image, label = self.rows[row]
        return as_array(image), label


@pytest.mark.parametrize("kind", [Augmented, Tensors])
def test_a_dataset_that_augments_itself_is_refused(dataset, barrier, tmp_path, kind):
    with pytest.raises(UserError, match="leave its transform out"):
        MixedDataset(kind(dataset), tmp_path, pipeline=barrier)


def test_a_split_with_a_transform_is_refused(dataset, pipeline, tmp_path):
    with pytest.raises(UserError, match="give it to MixedDataset"):
        MixedDataset(dataset.with_transform(lambda batch: batch), tmp_path, pipeline=pipeline)


def test_an_image_of_another_size_than_prepared_is_refused(mixed):
    with pytest.raises(ValueError, match="mix before any other transform"):
        mixed.mix(Image.new("RGB", (SIZE, SIZE + 1)), 0)


def test_rows_without_a_trusted_mask_stay_as_they_are_and_are_no_targets(dataset, tmp_path, caplog):
    """The confidence of a mask function's mask is 1, or 0 without a foreground."""
    fails = {2, 9}
    masks = dict(enumerate(dataset["mask"]))
    order = iter(range(len(masks)))

    def mask(image):
        row = next(order)
        return np.zeros((SIZE, SIZE)) if row in fails else masks[row]

    pipeline = SGDMixPipeline.from_pretrained(mask_function=mask, strength=0, resolution=SIZE)
    plain = dataset.remove_columns(["mask", "background"])
    mixed = MixedDataset(plain, tmp_path, pipeline=pipeline, probability=1.0, num_targets=4)
    assert "22 of 24 images can be mixed" in caplog.text
    for row in range(len(plain)):
        same = (pixels(mixed[row]["image"]) == pixels(plain[row]["image"])).all()
        assert same == (row in fails)
    assert not fails & set(mixed.mix.targets.ravel().tolist())


def test_a_pipeline_that_refines_is_refused(dataset, adapter, tiny_base, tmp_path):
    pipeline = SGDMixPipeline.from_pretrained(str(tiny_base), adapter=str(adapter), resolution=SIZE)
    with pytest.raises(UserError, match="strength=0"):
        MixedDataset(dataset, tmp_path, pipeline=pipeline)


def landscapes(count, width=SIZE, height=SIZE):
    """Images of one grey each, the number of their row: a mixture tells its target."""
    images = [Image.new("RGB", (width, height), (8 * row,) * 3) for row in range(count)]
    return Dataset.from_dict({"image": images}, features=Features(image=ImageFeature()))


def test_a_banks_images_are_the_only_targets(dataset, folder, pipeline):
    mixed = MixedDataset(
        dataset,
        folder,
        pipeline=pipeline,
        probability=1.0,
        num_targets=5,
        backgrounds=landscapes(20),
    )
    assert (mixed.mix.targets >= len(dataset)).all()
    assert (mixed.mix.targets < len(dataset) + 20).all()
    for row in range(len(dataset)):
        corner = pixels(mixed[row]["image"])[0, 0]
        mask = np.asarray(dataset[row]["mask"])
        if not mask[:4, :4].any():
            assert np.abs(corner - 8 * mixed.mix.drawn(row)).max() <= 1


def test_a_dataset_without_class_names_works_as_one_with(dataset, pipeline, tmp_path):
    features = dataset.features.copy()
    names = features["label"].names
    texts = dataset.map(lambda row: {"name": names[row["label"]]}, remove_columns=["label"])
    assert isinstance(features["label"], ClassLabel)
    mixed = MixedDataset(texts, tmp_path, pipeline=pipeline, label_column="name", num_targets=1)
    assert {type(mixed[row]["name"]) for row in range(3)} == {int}


def test_transform_takes_the_image_and_its_row(dataset, folder, pipeline, mixed):
    mix = SGDMixTransform(dataset, folder, pipeline=pipeline, probability=1.0, num_targets=3)
    numbered = dataset.add_column("row", list(range(len(dataset))))

    def batch(rows):
        images = [mix(image, row) for image, row in zip(rows["image"], rows["row"], strict=True)]
        return {"pixels": [pixels(image) for image in images]}

    assert (numbered.with_transform(batch)[4]["pixels"] == pixels(mixed[4]["image"])).all()


sides = st.integers(5, 60)


@settings(max_examples=60)
@given(sides, sides, st.integers(0, 10**6))
def test_an_overlay_keeps_the_source_inside_and_shows_the_background_outside(width, height, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    grey = np.full((32, 32, 3), 90, np.uint8)
    mixed = overlay(image, grey, softened(mask, 0.0), hard=True)
    assert mixed.shape == image.shape
    middle = np.s_[
        round(height * 0.4) : round(height * 0.6), round(width * 0.4) : round(width * 0.6)
    ]
    assert (mixed[middle] == image[middle]).all()
    assert (mixed[0] == 90).all() and (mixed[:, -1] == 90).all()
    soft = overlay(image, grey, softened(mask, 0.02), hard=False)
    assert np.abs(soft[0].astype(int) - 90).max() <= 1


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_at_one_size_an_overlay_is_what_a_generation_composes(seed):
    rng = np.random.default_rng(seed)
    image, background = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    mask = rng.random((32, 32)) > 0.5
    assert (
        overlay(image, background, softened(mask, 0.0), True) == compose(image, background, mask)
    ).all()
    soft = overlay(image, background, softened(mask, 0.03), False)
    assert np.abs(soft.astype(int) - compose(image, background, mask, 0.03)).max() <= 1


sizes = st.tuples(st.integers(100, 300), st.integers(100, 300))


@settings(max_examples=100)
@given(sizes, sizes)
def test_a_shown_box_has_the_sources_aspect_ratio(target, source):
    size = 256
    left, top, right, bottom = shown_box(np.zeros((size, size), bool), target, source)
    assert 0 <= left < right <= size and 0 <= top < bottom <= size
    assert right - left == size or bottom - top == size
    shown = (right - left) * target[0] / ((bottom - top) * target[1])  # in the target's own pixels
    assert (
        abs(np.log(shown / (source[0] / source[1]))) < 0.04
    )  # two roundings of at least 33 pixels
