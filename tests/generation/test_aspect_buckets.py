"""Images at the source's aspect ratio: the buckets, the geometry of masks and mixtures, whole
generations, and what a classifier is shown of them.
"""

import io
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sgdmix_hub import augment
from sgdmix_hub.data.images import BUCKET_STEP, buckets, frame_for
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.models.preprocessing import Preprocessing
from sgdmix_hub.publishing.read import PublishedRows, load_published
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.shipped import recipe_folder
from sgdmix_hub.settings.yaml_files import read_yaml
from sgdmix_hub.training.classifier.dataset import seeded

SIDES = st.integers(1, 4000)
PUBLISHED = ("cub", "cars", "dogs", "aircraft", "flowers", "waterbirds", "cub-lt")


# ---- the buckets ----


@pytest.mark.parametrize("resolution", [256, 512, 520, 768, 1024])
def test_buckets_have_sides_in_steps_and_about_the_same_area(resolution):
    frames = buckets(resolution)
    assert {(height, width) for width, height in frames} == set(frames)
    assert any(width == height for width, height in frames) and len(frames) >= 9
    for width, height in frames:
        assert width % BUCKET_STEP == height % BUCKET_STEP == 0
        assert max(width, height) <= 2 * resolution and min(width, height) >= resolution // 2
        assert 0.8 < width * height / resolution**2 < 1.25


@given(width=SIDES, height=SIDES)
def test_an_images_bucket_is_the_one_of_the_nearest_aspect(width, height):
    def distance(frame):
        return abs(math.log(frame[0] / frame[1]) - math.log(width / height))

    frame = frame_for((width, height), 512, "aspect-buckets")
    assert distance(frame) == min(map(distance, buckets(512)))
    if 1 / 3 < width / height < 3:  # a step of 64 pixels at most
        assert distance(frame) < math.log(1.2)
    assert frame_for((height, width), 512, "aspect-buckets")[::-1] in [
        other for other in buckets(512) if math.isclose(distance(other), distance(frame))
    ]
    assert frame_for((width, height), 512, "stretch") == (512, 512)


# ---- masks and mixtures ----


def mixer_of(**values):
    method = {"saliency_method": "mask-column", "mask_column": "m", "feather": 0.0}
    settings = MethodSettings(
        **(method | {"resize": "aspect-buckets", "resolution": 64, "strength": 0.0} | values)
    )
    return Mixer(apply_preset(settings))


def disc(size, centre, radius):
    """A white disc on black, and the same as a mask."""
    image = Image.new("RGB", size, "black")
    x, y = centre
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill="white")
    return image, image.convert("L")


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (200, 100), (80, 80)])
def test_image_and_mask_of_a_row_have_the_same_geometry(size):
    mixer = mixer_of()
    image, mask = disc(size, (size[0] * 0.4, size[1] * 0.5), min(size) * 0.3)
    masked = mixer.mask(image, np.zeros((64, 64)), None, mask)
    assert masked.frame == frame_for(size, 64, "aspect-buckets") and masked.size == size
    assert masked.mask.shape == masked.pixels.shape[:2]
    white = masked.pixels[..., 0] > 127
    assert (white ^ masked.mask).mean() < 0.02
    rows, columns = np.nonzero(masked.mask)
    assert 0.82 < np.ptp(columns) / np.ptp(rows) < 1.22  # a disc stays nearly round
    found = np.asarray(mask.resize((256, 256))) > 127  # a source's own mask covers the whole image
    from_source = mixer.mask(image, np.zeros((64, 64)), None, None, found)
    assert (from_source.mask ^ masked.mask).mean() < 0.02


@pytest.mark.parametrize("crop_target", [True, False])
@pytest.mark.parametrize("mixing_method", ["union", "source", "inpaint"])
def test_a_target_of_another_aspect_takes_the_sources_frame(crop_target, mixing_method):
    mixer = mixer_of(crop_target=crop_target, mixing_method=mixing_method)
    image, mask = disc((120, 60), (40, 30), 20)
    other, other_mask = disc((60, 120), (30, 30), 12)
    source = mixer.mask(image, np.zeros((64, 64)), None, mask)
    target = mixer.mask(
        other, np.zeros((64, 64)), mixer.target_aspect(source), other_mask, None, source.frame
    )
    mixture = mixer.mix(source, target)
    assert target.frame == source.frame and mixture.mixed.shape == source.pixels.shape
    assert (target.box is not None) == crop_target
    np.testing.assert_array_equal(mixture.mixed[source.mask], source.pixels[source.mask])


# ---- whole generations ----

SIZES = [(96, 64), (64, 96), (64, 64), (120, 60)]


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """12 images of 2 classes, of four sizes, with masks."""
    rng, rows = np.random.default_rng(0), []
    for number in range(12):
        size = SIZES[number % 4]
        radius = min(size) * 0.25
        image, mask = disc(size, (size[0] / 2, size[1] / 2), radius)
        noise = rng.integers(0, 90, (*image.size[::-1], 3), np.uint8)
        image = Image.fromarray(np.asarray(image) // 2 + noise)
        rows.append({"image": image, "label": number % 2, "mask": mask})
    features = Features(
        image=ImageFeature(), label=ClassLabel(names=["a", "b"]), mask=ImageFeature()
    )
    folder = tmp_path_factory.mktemp("discs")
    (folder / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "data" / "train.parquet")
    return folder


def generate(discs, output, **values):
    fixed = {
        "dataset_name": str(discs),
        "output_dir": str(output),
        "mask_column": "mask",
        "strength": 0.0,
        "resolution": 64,
        "resize": "aspect-buckets",
        "image_format": "png",
        "rows_per_shard": 5,
        "license": "mit",
    }
    augment.main(AugmentSettings(**(fixed | values)))
    return output / "repo"


@pytest.fixture(scope="module")
def published(discs, tmp_path_factory):
    return generate(discs, tmp_path_factory.mktemp("buckets") / "run")


@pytest.mark.slow
def test_every_image_has_its_sources_bucket_and_its_size_is_a_column(published):
    rows = load_dataset(str(published), split="train")
    assert len(rows) == 12
    for row in rows:
        size = SIZES[row["source_index"] % 4]
        assert (row["source_width"], row["source_height"]) == size
        assert row["image"].size == frame_for(size, 64, "aspect-buckets")
    assert "the source's aspect ratio" in (published / "README.md").read_text()
    manifest = json.loads((published / "sgdmix/default/manifest.json").read_text())
    assert (manifest["format"], manifest["resize"]) == (2, "aspect-buckets")


@pytest.mark.slow
def test_a_shard_does_not_depend_on_what_was_made_before(discs, published, tmp_path):
    """A run that makes the shards in another order, after one was lost, makes the same bytes."""
    repo = generate(discs, tmp_path / "run")
    shards = tmp_path / "run" / "state" / "shards"
    for name in ("repo", "state/shards/shard-00000.parquet", "state/shards/shard-00002.json"):
        path = tmp_path / "run" / name
        path.rename(tmp_path / path.name)
    assert shards.is_dir()
    generate(discs, tmp_path / "run")
    names = sorted(path.relative_to(published) for path in published.rglob("*.parquet"))
    assert len(names) == 4
    for name in names:
        assert (repo / name).read_bytes() == (published / name).read_bytes()


@pytest.mark.slow
def test_a_small_batch_size_makes_the_same_mixtures(discs, published, tmp_path):
    repo = generate(discs, tmp_path / "run", batch_size=1, num_workers=1)
    first, second = (
        [pq.read_table(path)["image"].to_pylist() for path in sorted((folder / "data").iterdir())]
        for folder in (published, repo)
    )
    assert first == second


# ---- what a classifier is shown ----


def round_disc(image: Image.Image, preprocess) -> float:
    """Width over height of the white disc in the middle of an image, after a preprocessing."""
    shown = np.asarray(preprocess(image))[0] > 0.5
    rows, columns = np.nonzero(shown)
    return np.ptp(columns) / np.ptp(rows)


@pytest.mark.parametrize("resize", ["stretch", "aspect-buckets"])
@pytest.mark.parametrize("recipe", PUBLISHED)
def test_real_and_synthetic_images_reach_the_classifier_in_the_same_geometry(recipe, resize):
    """A disc in a photograph of 3:2 is as round in the synthetic image, whatever a recipe crops."""
    values = read_yaml(recipe_folder(f"{recipe}-sgdmix") / "classifier.yaml")
    size = values["image_size"]
    preprocessing = Preprocessing(
        size, values.get("resize_size") or size, "bilinear", (0.0,) * 3, (1.0,) * 3, "rgb"
    )
    real, mask = disc((300, 200), (150, 100), 50)
    mixer = mixer_of(resize=resize, resolution=512)
    pixels = mixer.mask(real, np.zeros((64, 64)), None, mask).pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    features = Features(image=ImageFeature(), label=ClassLabel(names=["a"]))
    rows = Dataset.from_dict(
        {"image": [{"bytes": buffer.getvalue(), "path": None}], "label": [0]}, features=features
    )
    rows = rows.add_column("source_index", [0]).add_column("strength", [0.0])
    rows = rows.add_column("source_width", [300]).add_column("source_height", [200])
    synthetic = PublishedRows(
        Pin("discs", "0" * 40), rows, {"format": 2, "resize": resize}
    ).image_like_source(0)
    assert synthetic.width / synthetic.height == pytest.approx(1.5, rel=0.01)
    for preprocess in (
        preprocessing.evaluation(),
        lambda image: preprocessing.whole(image, size, "stretch"),
    ):
        assert round_disc(synthetic, preprocess) == pytest.approx(
            round_disc(real, preprocess), rel=0.03
        )
    transform = preprocessing.training("crops")
    for seed in range(3):
        shown = []
        for image in (real, synthetic.resize(real.size)):
            with seeded(seed):
                shown.append(np.asarray(transform(image))[0] > 0.5)
        assert (shown[0] ^ shown[1]).mean() < 0.03


def test_a_synthetic_image_of_an_older_version_is_taken_as_it_is(published):
    rows = load_published(str(published))
    rows.manifest = {name: value for name, value in rows.manifest.items() if name != "resize"}
    assert rows.image_like_source(0).size == rows.image(0).size
