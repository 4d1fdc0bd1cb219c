"""What bases like SDXL are told of an image: its size without decoding it, and the crop."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torchvision.transforms import v2

from sgdmix_hub.data.images import decode_image, image_size, trained_geometry
from sgdmix_hub.data.splits import DataSettings, load_split
from sgdmix_hub.errors import UnusableImage
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.training.adapter.dataset import geometries


def cell(size, format="JPEG", orientation=None):
    image, exif = Image.new("RGB", size), Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format, exif=exif.tobytes())
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_the_size_is_that_of_the_decoded_upright_image(format, orientation):
    stored = cell((37, 21), format, orientation)
    assert image_size(stored) == decode_image(stored).size


@pytest.mark.parametrize("data", [b"", b"no image", None])
def test_what_is_no_image_has_a_reason(data):
    with pytest.raises(UnusableImage):
        image_size({"bytes": data, "path": None})


@pytest.mark.slow
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), square=st.integers(1, 1024))
def test_the_crop_is_that_of_the_official_trainings(width, height, square):
    """train_dreambooth_lora_sdxl.py: resize the shorter side, crop the centre; (height, width)."""
    told = trained_geometry((width, height), square, "center-crop")
    resized = torch.empty((1, height, width), device="meta")
    resized = v2.functional.resize(resized, [square], antialias=False)
    top = max(0, int(round((resized.shape[1] - square) / 2.0)))
    left = max(0, int(round((resized.shape[2] - square) / 2.0)))
    assert told == (height, width, top, left, square, square)
    stretched = trained_geometry((width, height), square, "stretch")
    assert stretched == (height, width, 0, 0, square, square)


def test_rows_are_told_of_themselves_and_drawn_images_of_their_square(birds):
    split = load_split(
        DataSettings(dataset_name=str(birds), output_dir="unused"),
        resolve(str(birds), repo_type="dataset"),
    )
    told = geometries(split, split.subset[:3], 16, "stretch")
    assert told.dtype == np.int64 and told.shape == (len(split.rows) + 1, 6)
    assert told[split.subset[:3]].tolist() == [[32, 32, 0, 0, 16, 16]] * 3
    assert told[-1].tolist() == [16, 16, 0, 0, 16, 16]
