"""Many classes, and images as cameras make them: in the page's logic and in a real browser."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from browsers import Visit, needed, page_of, serving
from generations import png, write_dataset
from PIL import Image

from sgdmix_hub import augment
from sgdmix_hub.evaluation.drawn_split import KEPT_SIDE
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.studio.tryout import Tryout

needed()

pytestmark = pytest.mark.slow
CLASSES = 200
CAMERA = (6000, 4000)
CPU = torch.device("cpu")


def scene(width, height, number):
    """A bright block on a plain ground; both colours and the block's place follow the number."""
    rng = np.random.default_rng(number)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = rng.integers(0, 120, 3)
    top, left = (rng.random(2) * (height // 2, width // 2)).astype(int)
    pixels[top : top + height // 2, left : left + width // 3] = rng.integers(130, 255, 3)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def species(tmp_path_factory):
    """Two images of each of 200 classes."""
    names = [f"species number {number:03d}" for number in range(CLASSES)]
    images = [png(scene(24, 24, number)) for number in range(2 * CLASSES)]
    labels = [number % CLASSES for number in range(2 * CLASSES)]
    return write_dataset(tmp_path_factory.mktemp("species") / "species", images, labels, names)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Four images of 24 megapixels in two classes."""
    images = []
    for number in range(4):
        written = io.BytesIO()
        scene(*CAMERA, number).save(written, "JPEG", quality=90)
        images.append(written.getvalue())
    folder = tmp_path_factory.mktemp("photographs") / "photographs"
    return write_dataset(folder, images, [0, 1, 0, 1], ["one", "other"])


def start(dataset, **values):
    values = {"saliency_method": "spectral-residual", "strength": 0.0} | values
    return AugmentSettings(dataset_name=str(dataset), output_dir="outputs", **values)


def test_as_many_classes_are_drawn_as_there_are(species):
    tryout = Tryout(start(species), CLASSES, 64, CPU)
    drawn = [tryout.split.labels[row] for row in tryout.rows]
    assert len(tryout.rows) == CLASSES
    assert len(set(drawn)) > CLASSES // 2
    first = drawn[: len(set(drawn))]
    assert len(set(first)) == len(first)  # every class once before one comes again
    settings = tryout.mixing(start(species))
    known = tryout.known_maps(settings)
    list(known.make(tryout.split.subset.tolist()))
    plan, _ = tryout.plan(settings, known.maps)
    targets = {row.target_index for row in plan.values() if row.target_index >= 0}
    assert len(targets) > CLASSES // 4


def test_photographs_are_kept_small_and_mixed_at_the_size_of_the_pictures(photographs):
    tryout = Tryout(start(photographs), 4, 64, CPU)
    settings = tryout.mixing(start(photographs))
    known = tryout.known_maps(settings)
    list(known.make(tryout.split.subset.tolist()))
    plan, reasons = tryout.plan(settings, known.maps)
    maker = tryout.maker(settings, known.maps)
    assert not reasons
    for row in tryout.rows:
        assert min(tryout.split.image(row).size) == KEPT_SIDE
        assert tryout.masked(maker, row).mask.any()
        assert maker.mixture(plan[row]).mixed.shape == (64, 64, 3)


def test_photographs_are_shown_and_mixed_in_a_browser(chromium, photographs, tmp_path):
    page = page_of(dataset_name=photographs, picture_size=64, save_to=tmp_path / "generate.yaml")
    with serving(page) as address, Visit(chromium, address) as visit:
        for caption in ("source", "mask", "mixed"):
            visit.until(lambda caption=caption: len(visit.pictures(caption)) == 4)
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])


def test_a_class_among_two_hundred_is_found_by_keyboard(chromium, species, tmp_path):
    output = tmp_path / "out"
    settings = start(
        species,
        preset="paper",
        resolution=32,
        num_workers=1,
        max_skipped=1.0,
        rows_per_shard=64,
        examples_per_class=1,
    )
    augment.main(dataclasses.replace(settings, output_dir=str(output)))
    page = page_of(
        published=[str(output)],
        dataset_name=species,
        picture_size=64,
        save_to=tmp_path / "drop.csv",
    )
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("200 of 200 rows; page 1 of 25").wait_for()
        classes = visit.page.get_by_label("Classes")
        for number in (137, 7):
            classes.press_sequentially(f"number {number:03d}")
            visit.page.keyboard.press("Enter")
        visit.page.get_by_text("2 of 200 rows; page 1 of 1").wait_for()
        found = {title.partition(",")[0] for title in visit.titles()}
        assert found == {"species number 137", "species number 007"}
        assert visit.hindrances() == []
