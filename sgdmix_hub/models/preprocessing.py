"""A classifier's preprocessing, shared by training, accuracy, judge, CAM and trust test.

A classifier trained by this package records it in `classifier.json`. For any other one its image
processor decides; what that does to geometry, values and channels is measured on probe images
(black, white, grey, red, edges), because its fields mean different things in different classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import DeiTImageProcessor, MobileViTImageProcessor

from sgdmix_hub.data.images import resize_mask, square
from sgdmix_hub.errors import UserError, first_line, one_line, shown

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")  # Pillow's names
LARGEST_SIDE = 8192
PROBE_SIDES = (1000, 750)  # a processor that resizes brings both to one scale
EDGES = (0.4, 0.6)  # where probes turn from black to white, as shares of the width: inside any crop
EVEN = 1e-3  # smaller differences do not count, in units of white minus black


@dataclass(frozen=True)
class Preprocessing:
    """RGB image -> input: stretch, centre crop, normalise.

    The image is stretched to `resize_size` x `resize_size` by Pillow's `interpolation`,
    antialiased, and cropped to `size` x `size`. Its values in [0, 1], in the order of `channels`
    (rgb or bgr), become (value - mean) / std.
    """

    size: int
    resize_size: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str

    def record(self) -> dict:
        """Its entry in `classifier.json`."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def evaluation(self) -> v2.Compose:
        """PIL image -> float32 (3, size, size), for evaluation."""
        return v2.Compose([v2.Lambda(self._stretched), v2.Lambda(self._middle), *self._values()])

    def training(self, augmentation: str) -> v2.Compose:
        """PIL image -> float32 (3, size, size) for training: random crop, flip, augmentation.

        Crops have a random scale, or, if `resize_size` is larger than `size`, are windows of the
        stretched image. `augmentation`: "randaugment" adds torchvision's, with its defaults;
        "resized-crops" are ImageNet's, with colour jitter, as in Diff-Mix's long-tail training.
        """
        stretched = [] if self.resize_size == self.size else [v2.Lambda(self._stretched)]
        scaled = partial(v2.RandomResizedCrop, self.size, antialias=True)
        crop = v2.RandomCrop(self.size) if stretched else scaled(scale=(0.6, 1.0))
        if augmentation == "resized-crops":
            crop = scaled(scale=(0.08, 1.0))
        more = {"randaugment": [v2.RandAugment()], "resized-crops": [v2.ColorJitter(0.4, 0.4, 0.4)]}
        return v2.Compose(
            [
                *stretched,
                crop,
                v2.RandomHorizontalFlip(),
                *more.get(augmentation, []),
                *self._values(),
            ]
        )

    def whole(self, image: Image.Image, side: int, resize: str) -> torch.Tensor:
        """The whole image as float32 (3, side, side), made square by the run's `resize`."""
        return v2.Compose(self._values())(square(image, side, resize, self._resampling))

    def seen(self, mask: np.ndarray) -> np.ndarray:
        """The part of a mask, bool (h, h), that the input shows: bool (size, size)."""
        window = slice(self._before, self._before + self.size)
        return resize_mask(mask, self.resize_size)[window, window]

    @property
    def normalises(self) -> bool:
        """Whether mean and std change the values in [0, 1]."""
        return (self.mean, self.std) != ((0.0,) * 3, (1.0,) * 3)

    @property
    def _resampling(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _stretched(self, image: Image.Image) -> Image.Image:
        return image.resize((self.resize_size, self.resize_size), self._resampling)

    @property
    def _before(self) -> int:
        """Pixels cropped away on the left and at the top, rounded as in transformers."""
        return (self.resize_size - self.size) // 2

    def _middle(self, image: Image.Image) -> Image.Image:
        before = self._before
        return image.crop((before, before, before + self.size, before + self.size))

    def _values(self) -> list:
        order = [v2.Lambda(_reversed)] if self.channels == "bgr" else []
        normalise = [v2.Normalize(list(self.mean), list(self.std))] if self.normalises else []
        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *order, *normalise]


def _reversed(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flip(0)


def recorded_preprocessing(record: Any, name: str) -> Preprocessing:
    """The preprocessing in the `classifier.json` of the classifier `name`.

    Anybody may have written it: raises `UserError` for anything that a training would not write.
    """
    try:
        if set(record) != {field.name for field in fields(Preprocessing)}:
            raise ValueError("its fields are not those of a preprocessing")
        size, resize_size = record["size"], record["resize_size"]
        if not (
            type(size) is type(resize_size) is int and 1 <= size <= resize_size <= LARGEST_SIDE
        ):
            raise ValueError(f"size {shown(size, 20)} and resize_size {shown(resize_size, 20)}")
        interpolation, channels = record["interpolation"], record["channels"]
        if interpolation not in INTERPOLATIONS or channels not in ("rgb", "bgr"):
            raise ValueError(
                f"interpolation {shown(interpolation, 20)}, channels {shown(channels, 20)}"
            )
        mean, std = (_three(record[part]) for part in ("mean", "std"))
        if 0.0 in std:
            raise ValueError("std has a zero")
    except (TypeError, ValueError) as error:
        raise UserError(
            one_line(
                f"classifier.json of {name} states no usable preprocessing: {first_line(error)}"
            )
        ) from error
    return Preprocessing(size, resize_size, interpolation, mean, std, channels)


def _three(values: Any) -> tuple[float, float, float]:
    """Three finite numbers, one per channel. Raises `ValueError`."""
    first, second, third = (float(value) for value in values)
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError("mean and std are not finite")
    return first, second, third


def stock_processor(preprocessing: Preprocessing) -> Any:
    """The same as an image processor of transformers, up to the rounding of its resize.

    Raises `UserError` if there is none.
    """
    options = {
        "size": {"height": preprocessing.resize_size, "width": preprocessing.resize_size},
        "do_center_crop": preprocessing.resize_size > preprocessing.size,
        "crop_size": {"height": preprocessing.size, "width": preprocessing.size},
        "resample": Image.Resampling[preprocessing.interpolation.upper()],
    }
    if preprocessing.channels == "rgb":
        values = {"image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std)}
        return DeiTImageProcessor(**options, **values, do_normalize=preprocessing.normalises)
    if preprocessing.normalises:
        raise UserError(
            "a classifier of normalised BGR images cannot be trained: "
            "transformers has no image processor to save with it"
        )
    return MobileViTImageProcessor(**options)


def timm_configuration(preprocessing: Preprocessing) -> dict:
    """The same as timm's `pretrained_cfg`, which timm has in place of an image processor."""
    return {
        "input_size": [3, preprocessing.size, preprocessing.size],
        "crop_pct": preprocessing.size / preprocessing.resize_size,
        "crop_mode": "squash",  # timm's word for stretching
        "interpolation": preprocessing.interpolation,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def apply(processor: Any, image: Image.Image) -> torch.Tensor:
    """An image through a classifier's own image processor: float32 (3, size, size).

    Raises `UserError` if the processor fails or gives another shape.
    """
    try:
        values = processor(images=image, return_tensors="pt")["pixel_values"]
    except Exception as error:  # a fetched configuration may ask for anything
        raise UserError(one_line(f"{_called(processor)} fails: {first_line(error)}")) from error
    if (
        not isinstance(values, torch.Tensor)
        or values.ndim != 4
        or values.shape[:2] != (1, 3)
        or values.shape[2] != values.shape[3]
    ):
        is_tensor = isinstance(values, torch.Tensor)
        given = f"inputs of shape {tuple(values.shape)}" if is_tensor else "no tensor"
        raise UserError(
            f"{_called(processor)} gives {given}: "
            "only classifiers of square images, (1, 3, size, size), can be used"
        )
    return values[0].float()


def measured_preprocessing(processor: Any) -> Preprocessing:
    """What an image processor does to square images, measured on probes.

    `resize_size` is the side of the whole image at the scale of the input. Other images may be
    cropped in another way, which only the processor itself knows. Raises `UserError` if it does
    more to values than to scale and shift them, or gives inputs of several sizes.
    """
    _check_sides(processor)
    black, white = (
        apply(processor, Image.new("RGB", side, color))
        for side, color in (((96, 64), "black"), ((64, 96), "white"))
    )
    if black.shape != white.shape:
        raise UserError(
            f"{_called(processor)} gives inputs of several sizes, "
            f"{tuple(black.shape)} and {tuple(white.shape)}"
        )
    low, high = black.mean((1, 2)).double(), white.mean((1, 2)).double()
    spread = (high - low)[:, None, None]
    uneven = max((probe - probe[:, :1, :1]).abs().max().item() for probe in (black, white))
    if not (spread.isfinite() & (spread > 0)).all() or uneven > EVEN * spread.min().item():
        raise UserError(
            f"{_called(processor)} pads images, or does not make white brighter than black"
        )

    def share(image: Image.Image) -> torch.Tensor:
        """The input on a scale from 0, black, to 1, white."""
        return (apply(processor, image) - low[:, None, None]) / spread

    size = black.shape[-1]
    red, grey = (
        share(Image.new("RGB", (64, 64), color)).mean((1, 2)).tolist()
        for color in ("red", (102, 102, 102))
    )
    if not np.allclose(grey, 102 / 255, atol=EVEN):
        raise UserError(f"{_called(processor)} does more to values than to scale and shift them")
    channels = [
        name
        for name, expected in (("rgb", (1, 0, 0)), ("bgr", (0, 0, 1)))
        if np.allclose(red, expected, atol=EVEN)
    ]
    if not channels:
        raise UserError(f"{_called(processor)} mixes the colours")
    first, second = (_whole_side(share, side, size) for side in PROBE_SIDES)
    if first is None or first != second:
        raise UserError(f"{_called(processor)} does not bring images to one scale")
    std = 1 / (high - low)
    mean, std = (_three(map(_short, values.tolist())) for values in (-low * std, std))
    return Preprocessing(size, max(size, first), _interpolation(processor), mean, std, channels[0])


def _check_sides(processor: Any) -> None:
    """Raises `UserError` on a size above `LARGEST_SIDE`: the first probe would take gigabytes."""
    described = processor.to_dict()
    described |= described.get("data_config") or {}  # of timm
    for name in ("size", "crop_size", "pad_size", "input_size"):
        sides = described.get(name)
        if isinstance(sides, Mapping):
            sides = list(sides.values())
        for side in sides if isinstance(sides, (list, tuple)) else [sides]:
            if isinstance(side, (int, float)) and side > LARGEST_SIDE:
                raise UserError(
                    f"{_called(processor)} has a {name} of {shown(side, 20)}: "
                    f"{LARGEST_SIDE} is the largest possible"
                )


def _whole_side(share: Callable[[Image.Image], torch.Tensor], side: int, size: int) -> int | None:
    """Pixels across a whole square image of `side` at the scale of its input of `size`.

    Measured by the distance of two edges; None if one of them is cropped away.
    """
    whites = []
    for edge in EDGES:
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[:, round(edge * side) :] = 255
        whites.append(float(share(Image.fromarray(pixels)).mean()))
    if not EVEN < whites[1] < whites[0] < 1 - EVEN:
        return None
    return round(size * (whites[0] - whites[1]) / (EDGES[1] - EDGES[0]))


def _called(processor: Any) -> str:
    return f"the classifier's image processor ({type(processor).__name__})"


def _short(value: float) -> float:
    """A measured number to six digits, which removes its rounding error."""
    return float(f"{round(value, 8):.6g}") + 0.0  # no -0.0


def _interpolation(processor: Any) -> str:
    """How the processor resamples; bilinear if it does not say."""
    asked = getattr(processor, "data_config", {}).get("interpolation") or getattr(
        processor, "resample", None
    )
    if isinstance(asked, int):
        return Image.Resampling(asked).name.lower()
    name = str(getattr(asked, "value", asked))
    return name if name in INTERPOLATIONS else "bilinear"
