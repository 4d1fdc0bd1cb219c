"""Images of every mode, upright, damaged or cut to squares."""

import struct

import numpy as np
import pytest
from cells import HEIGHT, WIDTH, cell, known_rgb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import (
    decode_image,
    to_rgb,
)
from sgdmix_hub.errors import UnusableImage

ORIENTATION = 0x0112  # Exif tag
# orientation -> how an upright image is stored; the tag undoes it (Exif 2.3, 4.6.4 A)
STORED_FOR = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def known_grey():
    return known_rgb().convert("L")


def half_transparent(image):
    """The image with its left half transparent, and what is seen of it over white."""
    visible = np.zeros((HEIGHT, WIDTH), bool)
    visible[:, WIDTH // 2 :] = True
    with_alpha = image.copy()
    with_alpha.putalpha(Image.fromarray(np.uint8(visible) * 255))
    return with_alpha, Image.fromarray(
        np.where(visible[..., None], np.asarray(image.convert("RGB")), 255).astype(np.uint8)
    )


def palette_transparent():
    """A palette image whose colour 0, used for the left half, is transparent."""
    palette = known_rgb().quantize(200, dither=Image.Dither.NONE)
    values = np.asarray(palette).astype(np.uint8) + 1
    colours = [255, 0, 255, *palette.getpalette()[: 3 * 200]]
    values[:, : WIDTH // 2] = 0
    image = Image.fromarray(values).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(colours)
    return image, half_transparent(known_rgb())[1]


def sixteen_bit(top=65535):
    return Image.fromarray(
        (np.asarray(known_grey()).astype(np.float64) / 255 * top).round().astype(np.uint16)
    )


def bilevel():
    return known_grey().point(lambda value: 255 if value > 127 else 0, mode="1")


CASES = {
    "RGB": lambda: (cell(known_rgb(), "PNG"), known_rgb()),
    "grey": lambda: (cell(known_grey(), "PNG"), known_grey()),
    "RGBA": lambda: (
        cell(half_transparent(known_rgb())[0], "PNG"),
        half_transparent(known_rgb())[1],
    ),
    "LA": lambda: (
        cell(half_transparent(known_grey())[0], "PNG"),
        half_transparent(known_grey())[1],
    ),
    "palette": lambda: (cell(known_rgb().quantize(256), "PNG"), known_rgb()),
    "palette with transparency": lambda: (
        cell(palette_transparent()[0], "PNG", transparency=0),
        palette_transparent()[1],
    ),
    "GIF with transparency": lambda: (
        cell(palette_transparent()[0], "GIF", transparency=0),
        palette_transparent()[1],
    ),
    "RGB with a transparent colour": lambda: (
        cell(known_rgb(), "PNG", transparency=(250, 240, 20)),
        Image.fromarray(
            np.where(
                (np.asarray(known_rgb()) == (250, 240, 20)).all(-1, keepdims=True), 255, known_rgb()
            ).astype(np.uint8)
        ),
    ),
    "CMYK": lambda: (cell(known_rgb().convert("CMYK"), "TIFF"), known_rgb()),
    "CMYK JPEG": lambda: (cell(known_rgb().convert("CMYK"), "JPEG", quality=98), known_rgb()),
    "16 bit": lambda: (cell(sixteen_bit(), "PNG"), known_grey()),
    "16 bit TIFF": lambda: (cell(sixteen_bit(), "TIFF"), known_grey()),
    "32 bit": lambda: (cell(sixteen_bit().convert("I"), "TIFF"), known_grey()),
    "1 bit": lambda: (cell(bilevel(), "PNG"), bilevel()),
    "float up to 255": lambda: (cell(known_grey().convert("F"), "TIFF"), known_grey()),
    "float up to 1": lambda: (
        cell(Image.fromarray(np.asarray(known_grey(), np.float32) / 255), "TIFF"),
        known_grey(),
    ),
    # uncompressed, Pillow 12.3 reads back none
    "YCbCr": lambda: (
        cell(known_rgb().convert("YCbCr"), "TIFF", compression="tiff_lzw"),
        known_rgb(),
    ),
    "LAB": lambda: (
        cell(Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8), "LAB"), "TIFF"),
        None,
    ),
    "WebP": lambda: (
        cell(half_transparent(known_rgb())[0], "WEBP", lossless=True),
        half_transparent(known_rgb())[1],
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_every_mode_becomes_rgb_of_the_same_content(name):
    stored, expected = CASES[name]()
    image = to_rgb(decode_image(stored))
    assert image.mode == "RGB" and image.size == (WIDTH, HEIGHT)
    if expected is not None:
        difference = np.abs(
            np.asarray(image).astype(int) - np.asarray(expected.convert("RGB")).astype(int)
        )
        assert difference.mean() < 4, f"mean difference {difference.mean()}"


@pytest.mark.parametrize("orientation", STORED_FOR)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_images_are_upright_as_exif_says(orientation, file_format):
    stored = (
        known_rgb()
        if STORED_FOR[orientation] is None
        else known_rgb().transpose(STORED_FOR[orientation])
    )
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}
    image = to_rgb(decode_image(cell(stored, file_format, exif=exif, **options)))
    assert image.size == (WIDTH, HEIGHT)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(known_rgb()).astype(int)).mean() < 3


def test_a_path_is_read_where_there_are_no_bytes(tmp_path):
    known_rgb().save(tmp_path / "bird.png")
    image = decode_image(
        {"bytes": None, "path": str(tmp_path / "bird.png")}, files_in=str(tmp_path.resolve())
    )
    assert np.array_equal(np.asarray(image), np.asarray(known_rgb()))


@pytest.mark.parametrize(
    "empty",
    [
        None,
        {"bytes": b"", "path": None},
        {"bytes": None, "path": None},
        {"bytes": None, "path": "/absent.png"},
    ],
    ids=repr,
)
def test_a_cell_without_an_image_is_unusable(empty):
    with pytest.raises(UnusableImage):
        decode_image(empty)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_bytes_are_an_image_or_unusable(file_format, data):
    """Whatever happened to a file, one row is lost and not the run: no other exception leaves the
    decoder.
    """
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {} if file_format in ("GIF", "BMP") else {"exif": exif}
    whole = bytearray(cell(known_rgb(), file_format, **options)["bytes"])
    damaged = whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole
    for _ in range(data.draw(st.integers(0, 6)) if damaged else 0):
        position = data.draw(st.integers(0, min(len(damaged) - 1, 200)))
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        image = to_rgb(decode_image({"bytes": bytes(damaged), "path": None}))
    except UnusableImage as error:
        assert "\n" not in str(error) and "0x" not in str(error)
    else:
        assert image.mode == "RGB"


@pytest.mark.filterwarnings("ignore")
def test_a_tiff_with_a_tag_of_another_type_is_an_image_or_unusable():
    """Pillow does not check a tag's type, so it may raise anything, for example a TypeError."""
    whole = cell(known_rgb(), "TIFF")["bytes"]
    (directory,) = struct.unpack("<I", whole[4:8])
    (entries,) = struct.unpack("<H", whole[directory : directory + 2])
    for entry in range(entries):
        for tag_type in range(1, 13):
            damaged = bytearray(whole)
            damaged[directory + 2 + 12 * entry + 2] = tag_type
            try:
                assert to_rgb(decode_image({"bytes": bytes(damaged), "path": None})).mode == "RGB"
            except UnusableImage:
                continue


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_unusable_with_the_same_reason_every_time(file_format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    stored = cell(noise, file_format)
    stored["bytes"] = stored["bytes"][: len(stored["bytes"]) // 2]
    reasons = set()
    for _ in range(3):
        with pytest.raises(UnusableImage) as error:
            decode_image(stored)
        reasons.add(str(error.value))
    assert len(reasons) == 1 and "corrupt" in reasons.pop()


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    resize=st.sampled_from(["stretch", "center-crop"]),
)
@settings(max_examples=40)
def test_squares_have_the_size_asked_for(width, height, size, resize):
    assert square(Image.new("RGB", (width, height)), size, resize).size == (size, size)


def test_stretching_keeps_everything_and_cropping_keeps_the_aspect_ratio():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # a white square in the middle
    stretched = np.asarray(square(Image.fromarray(wide), 30, "stretch", Image.Resampling.NEAREST))
    cropped = np.asarray(square(Image.fromarray(wide), 30, "center-crop", Image.Resampling.NEAREST))
    assert stretched.mean() == wide.mean()
    assert (cropped == 255).all()
