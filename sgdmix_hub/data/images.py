"""Decodes one cell of an image column into a PIL image.

Cells are untrusted: a cell holds bytes in a known format, or names a file inside the dataset.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from sgdmix_hub.errors import UnusableImage, one_row
from sgdmix_hub.files import lies_in

# How an image fills a frame, by `resize`. `aspect-buckets` stretches too, but a run's frames then
# have nearly the image's aspect ratio; a square, as of a saliency map, shows the whole image.
FITS = {
    "stretch": Image.Image.resize,
    "aspect-buckets": Image.Image.resize,
    "center-crop": ImageOps.fit,
}
Frame = tuple[int, int]  # width and height, in pixels
BUCKET_STEP = 64  # of the sides of buckets, in pixels; less at a resolution below 256
LONGEST_SIDE = 2  # of a bucket, in units of the resolution

# Only formats whose decoders Pillow brings itself: EPS would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
MAX_IMAGE_PIXELS = 178_956_970  # what Pillow refuses by default
ANYWHERE = os.path.abspath(os.sep)  # as `files_in`, for a `Dataset` object passed by the user
OUTSIDE = "the cell names a file outside the dataset"
MISSING = "the image file is missing"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


# `decode_image` enforces the limit; Pillow's own warning below the limit is noise.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_image(
    cell: dict | None, files_in: str | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Decodes a cell of an image column and rotates the image as its EXIF says.

    `files_in`: real path of the folder that may hold the cell's file; if None, the cell must hold
    bytes. `max_pixels`: larger images are refused (default `MAX_IMAGE_PIXELS`). Raises
    `UnusableImage`; its text contains no path.
    """
    data = stored_bytes(cell, files_in)
    if data.startswith(LFS_POINTER):
        raise UnusableImage(
            "a git-lfs pointer in place of the image: fetch the files with `git lfs pull`"
        )
    max_pixels = max_pixels or MAX_IMAGE_PIXELS
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # Pillow refuses above twice its limit
    with one_row("corrupt image", UnusableImage):
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_pixels(image.size, max_pixels)
            image.load()
        except Image.DecompressionBombError:
            raise UnusableImage(too_large(max_pixels)) from None
        _check_pixels(image.size, max_pixels)  # in some formats only decoding gives the size
        return ImageOps.exif_transpose(image)


def image_size(cell: dict | None, files_in: str | None = None) -> tuple[int, int]:
    """Width and height of the image that `decode_image` gives, read from the file's header.

    Raises `UnusableImage`.
    """
    with one_row("corrupt image", UnusableImage):
        image = Image.open(io.BytesIO(stored_bytes(cell, files_in)), formats=FORMATS)
        if image.format == "TIFF":  # whether its size is turned already differs between versions
            return decode_image(cell, files_in).size
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)


def stored_bytes(cell: dict | None, files_in: str | None) -> bytes:
    """The encoded bytes of a cell.

    Raises `UnusableImage`, or `OSError` if the disk fails (that is not the row's fault).
    """
    if cell is None or (cell.get("bytes") is None and cell.get("path") is None):
        raise UnusableImage("no image")
    if cell.get("bytes") is not None:
        return cell["bytes"]
    path = file_of(cell, files_in)
    try:
        if os.path.isfile(path):
            return Path(path).read_bytes()
    except FileNotFoundError:
        pass
    except PermissionError:
        raise UnusableImage("the image file cannot be read: no permission") from None
    raise UnusableImage(MISSING)


def file_of(cell: dict, files_in: str | None) -> str:
    """The real path of a cell's file. Raises `UnusableImage` if it is outside `files_in`."""
    if files_in is None or not lies_in(cell["path"], files_in):
        raise UnusableImage(OUTSIDE)
    return os.path.realpath(cell["path"])


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise UnusableImage(too_large(max_pixels))


def too_large(max_pixels: int) -> str:
    return f"larger than max_image_pixels ({max_pixels})"


@one_row("corrupt image", UnusableImage)
def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any PIL image to RGB. Raises `UnusableImage`.

    Transparent pixels are blended with white. 16-bit values are scaled (PIL would clip them).
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(
            np.clip(values / full_scale(image.mode, values) * 255 + 0.5, 0, 255).astype(np.uint8)
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def full_scale(mode: str, values: np.ndarray) -> float:
    """The value of white. Modes I and F do not define it: the smallest common scale that fits."""
    peak = values.max(initial=0)
    if mode.startswith("I;16") or peak > 255:
        return 65535.0
    return 1.0 if mode == "F" and peak <= 1 else 255.0


@one_row("mask", UnusableImage)
def foreground_share(mask: Image.Image) -> np.ndarray:
    """Converts a foreground mask of any mode to float32 (h, w) in [0, 1]. Raises `UnusableImage`.

    Byte masks use 0 to 255, or 0 and 1 if no value is above 1. In a coloured palette each index is
    a segment, and index 0 is the background.
    """
    if mask.mode == "P" and not _is_grey(mask):
        return (np.asarray(mask) > 0).astype(np.float32)
    numeric = mask.mode.startswith("I") or mask.mode == "F"
    values = (
        np.asarray(mask, np.float64) if numeric else np.asarray(mask.convert("RGB")).max(axis=-1)
    )
    values = np.nan_to_num(values, posinf=0, neginf=0)
    scale = 1.0 if values.max(initial=0) <= 1 else full_scale(mask.mode, values)
    return np.clip(values / scale, 0, 1).astype(np.float32)


def _is_grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette(), dtype=np.int64).reshape(-1, 3)
    colours = palette[np.unique(np.asarray(image))]
    return bool((colours == colours[:, :1]).all())


def square(
    image: Image.Image, size: int, resize: str, resample=Image.Resampling.BICUBIC
) -> Image.Image:
    """Resizes an image to size x size. Raises `KeyError` for an unknown `resize`.

    `center-crop` keeps the aspect ratio; the others keep the whole image. The image and mask of a
    row use the same geometry.
    """
    return fitted(image, (size, size), resize, resample)


def fitted(
    image: Image.Image, frame: Frame, resize: str, resample=Image.Resampling.BICUBIC
) -> Image.Image:
    """Resizes an image to a frame, as `square` does."""
    return FITS[resize](image, frame, resample)


def frame_for(size: Frame, resolution: int, resize: str) -> Frame:
    """The frame in which an image of a size, (width, height), is generated.

    With `aspect-buckets` the bucket of the nearest aspect ratio: sides are multiples of
    `BUCKET_STEP`, the area is about resolution squared. Otherwise a square.
    """
    if resize != "aspect-buckets":
        return resolution, resolution
    aspect = math.log(size[0] / size[1])
    return min(
        buckets(resolution),
        key=lambda frame: (abs(math.log(frame[0] / frame[1]) - aspect), frame),
    )


@lru_cache
def buckets(resolution: int) -> tuple[Frame, ...]:
    """The frames of `aspect-buckets`: each width with the height that comes nearest to an area of
    resolution squared, and each height with such a width.
    """
    step = min(BUCKET_STEP, max(8, resolution // 32 * 8))
    longest, found = LONGEST_SIDE * resolution, set()
    for side in range(step, longest + 1, step):
        other = round(resolution**2 / side / step) * step
        if resolution // LONGEST_SIDE <= other <= side:
            found |= {(side, other), (other, side)}
    return tuple(sorted(found))


def trained_geometry(size: tuple[int, int], resolution: int, resize: str) -> tuple[int, ...]:
    """Height and width of an image, top and left of the frame in the resized image, and height and
    width of the frame. `size`: (width, height).

    The first four are `original_sizes` and `crop_top_lefts` of diffusers' SDXL trainings.
    """
    width, height = size
    top = left = 0
    across, down = frame_for(size, resolution, resize)
    if resize == "center-crop":
        sides = (int(resolution * side / min(width, height)) for side in (height, width))
        top, left = (round((side - resolution) / 2) for side in sides)
    return height, width, top, left, down, across


def aspect_box(width: int, height: int, aspect: float) -> tuple[int, int, int, int]:
    """The largest centred box (left, top, right, bottom), in pixels, with this width / height."""
    cut_width = min(width, max(1, round(height * aspect)))
    cut_height = min(height, max(1, round(width / aspect)))
    left, top = (width - cut_width) // 2, (height - cut_height) // 2
    return left, top, left + cut_width, top + cut_height


def resize_mask(mask: np.ndarray, size: int | Frame) -> np.ndarray:
    """Resizes a bool mask to size x size, or to a frame; a pixel is set if half of it is covered,
    so thin parts stay.
    """
    frame = frame_of(size)
    smaller = frame[0] * frame[1] < mask.size
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(mask.astype(np.float32), frame, interpolation=interpolation) >= 0.5


def frame_of(size: int | Frame) -> Frame:
    """The frame of a square of `size`, or the frame itself."""
    return (size, size) if isinstance(size, int) else size


def side_of(pixels: np.ndarray) -> float:
    """The image size in which shares are given: the side of a square of the area of (h, w, ...)."""
    return math.sqrt(pixels.shape[0] * pixels.shape[1])
