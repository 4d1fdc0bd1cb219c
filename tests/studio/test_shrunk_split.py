"""Downscaled images: boxes follow them, and as many stay in memory as were asked for."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.studio.shrunk_split import shrunk


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Images of 800 pixels; their masks have 100."""
    folder = tmp_path_factory.mktemp("large") / "birds"
    features = Features(
        image=ImageFeature(),
        label=ClassLabel(names=["one", "other"]),
        mask=ImageFeature(),
        bbox=List(Value("int64")),
    )
    row = {
        "image": Image.new("RGB", (800, 800)),
        "mask": Image.new("L", (100, 100)),
        "bbox": [80, 80, 400, 400],
    }
    rows = [row | {"label": label} for label in (0, 1, 0)]
    (folder / "data").mkdir(parents=True)
    shard = folder / "data" / "train-00000-of-00001.parquet"
    Dataset.from_list(rows, features=features).to_parquet(shard)
    settings = AugmentSettings(dataset_name=str(folder), output_dir="outputs")
    return load_split(settings, Pin("birds", "", path=str(folder)))


def test_a_box_has_the_scale_of_its_image_whatever_other_columns_were_read(split):
    small = shrunk(split, 400)
    for column in (None, "mask", None):
        small.image(0, column)
        assert small.cell(0, "bbox") == [40, 40, 200, 200]
    assert small.image(0, "mask").size == (100, 100)
    assert small.cell(0, "label") == 0


def test_images_that_were_not_used_for_long_are_forgotten(split):
    small = shrunk(split, 400, most_kept=2)
    first = small.image(0)
    assert small.image(0) is first
    for index in (1, 0, 2):
        small.image(index)
    assert small.image(0) is first
    small.image(1), small.image(2)
    again = small.image(0)
    assert again is not first
    np.testing.assert_array_equal(np.asarray(again), np.asarray(first))
    everything = shrunk(split, 400)
    assert [everything.image(i) for i in range(3)] == [everything.image(i) for i in range(3)]
