"""What a classifier's images go through before it sees them: the one transform that training,
accuracy, judge, CAM and trust test share.

A classifier that was trained here has it in `classifier.json`. Of any other one the image processor
decides. What that does to geometry, values and channels is measured on probes (black, white, grey,
red, edges): its fields mean different things in different classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import DeiTImageProcessor, MobileViTImageProcessor

from sgdmix_hub.data.images import resize_mask, square
from sgdmix_hub.errors import UserError, first_line, one_line, shown

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")  # Pillow's names
LARGEST_SIDE = 8192
PROBE_SIDES = (1000, 750)  # two, since a processor that resizes brings both to one scale
EDGES = (
    0.4,
    0.6,
)  # where black turns to white in a probe, as shares of its width: within every crop
EVEN = 1e-3  # two inputs that differ by less are the same, in units of white minus black


@dataclass(frozen=True)
class Preprocessing:
    """An RGB image is stretched to `resize_size` x `resize_size` by Pillow's `interpolation`,
    antialiased; its middle of `size` x `size` is the input. Its values in [0, 1], in the order of
    `channels` (rgb or bgr), lose `mean` and are divided by `std`.
    """

    size: int
    resize_size: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str

    def record(self) -> dict:
        """As `classifier.json` states it."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def evaluation(self) -> v2.Compose:
        """PIL image -> float32 (3, size, size), as accuracy is measured."""
        return v2.Compose([v2.Lambda(self._stretched), v2.Lambda(self._middle), *self._values()])

    def training(self, augmentation: str) -> v2.Compose:
        """PIL image -> float32 (3, size, size), drawn at random: crops and flips, with
        `augmentation` randaugment that too (torchvision's defaults). Crops are of random scale, or,
        where `resize_size` is larger than `size`, windows of the stretched image.
        """
        if self.resize_size == self.size:
            crop = [v2.RandomResizedCrop(self.size, scale=(0.6, 1.0), antialias=True)]
        else:
            crop = [v2.Lambda(self._stretched), v2.RandomCrop(self.size)]
        more = [v2.RandAugment()] if augmentation == "randaugment" else []
        return v2.Compose([*crop, v2.RandomHorizontalFlip(), *more, *self._values()])

    def whole(self, image: Image.Image, side: int, resize: str) -> torch.Tensor:
        """float32 (3, side, side): nothing of the image is cropped away but what `resize`, the
        run's way to a square, does.
        """
        return v2.Compose(self._values())(square(image, side, resize, self._resampling))

    def seen(self, mask: np.ndarray) -> np.ndarray:
        """The part of a mask, bool (h, h), that the input shows, bool (size, size)."""
        before = self._before
        return resize_mask(mask, self.resize_size)[
            before : before + self.size, before : before + self.size
        ]

    @property
    def normalises(self) -> bool:
        """Whether values in [0, 1] are changed at all."""
        return (self.mean, self.std) != ((0.0,) * 3, (1.0,) * 3)

    @property
    def _resampling(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _stretched(self, image: Image.Image) -> Image.Image:
        return image.resize((self.resize_size, self.resize_size), self._resampling)

    @property
    def _before(self) -> int:
        """Pixels on the left and above that the input does not show: rounded as transformers'
        processors do.
        """
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


def recorded_preprocessing(record: object, name: str) -> Preprocessing:
    """The transform in a `classifier.json`, which anybody may have written. Raises `UserError` for
    what no training writes.
    """
    try:
        if set(record) != {field.name for field in fields(Preprocessing)}:
            raise ValueError("its names are not those of a transform")
        size, resize_size = record["size"], record["resize_size"]
        if not (
            type(size) is type(resize_size) is int and 1 <= size <= resize_size <= LARGEST_SIDE
        ):
            raise ValueError(f"size {shown(size, 20)} and resize_size {shown(resize_size, 20)}")
        if record["interpolation"] not in INTERPOLATIONS or record["channels"] not in (
            "rgb",
            "bgr",
        ):
            raise ValueError(
                f"interpolation {shown(record['interpolation'], 20)}, channels {shown(record['channels'], 20)}"
            )
        values = {part: tuple(float(value) for value in record[part]) for part in ("mean", "std")}
        if (
            not all(len(part) == 3 and all(map(math.isfinite, part)) for part in values.values())
            or 0.0 in values["std"]
        ):
            raise ValueError("mean and std are not three numbers each")
    except (TypeError, ValueError) as error:
        raise UserError(
            one_line(
                f"classifier.json of {name} states no usable preprocessing: {first_line(error)}"
            )
        ) from error
    return Preprocessing(**(record | values))


def stock_processor(preprocessing: Preprocessing):
    """The image processor of transformers that does the same, up to the rounding of its resize.
    Raises `UserError` where there is none.
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
            "a classifier of images in BGR whose values are normalised cannot be trained: no image processor could be saved"
        )
    return MobileViTImageProcessor(**options)


def timm_configuration(preprocessing: Preprocessing) -> dict:
    """The same as `pretrained_cfg`, which timm's models have in config.json instead of an image
    processor.
    """
    return {
        "input_size": [3, preprocessing.size, preprocessing.size],
        "crop_pct": preprocessing.size / preprocessing.resize_size,
        "crop_mode": "squash",  # timm's word for stretching
        "interpolation": preprocessing.interpolation,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def apply(processor, image: Image.Image) -> torch.Tensor:
    """float32 (3, size, size): what a classifier's own image processor makes of an image. Raises
    `UserError` for one that makes something else of it.
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
        found = (
            f"inputs of shape {tuple(values.shape)}"
            if isinstance(values, torch.Tensor)
            else "no tensor"
        )
        raise UserError(
            f"{_called(processor)} gives {found}: only classifiers of square images, (1, 3, size, size), can be used"
        )
    return values[0].float()


def measured_preprocessing(processor) -> Preprocessing:
    """What an image processor does to square images, by what it makes of probes.

    `resize_size` is the size at which the whole image would be seen at the scale of the input.
    Images that are not square it may crop in another way: only the processor itself is right about
    those. Raises `UserError` for one that does anything else to values than to scale and shift
    them, or that gives inputs of several sizes.
    """
    _check_sides(processor)
    black, white = (
        apply(processor, Image.new("RGB", side, color))
        for side, color in (((96, 64), "black"), ((64, 96), "white"))
    )
    if black.shape != white.shape:
        raise UserError(
            f"{_called(processor)} gives inputs of several sizes, {tuple(black.shape)} and {tuple(white.shape)}"
        )
    low, high = black.mean((1, 2)).double(), white.mean((1, 2)).double()
    spread = (high - low)[:, None, None]
    uneven = max((probe - probe[:, :1, :1]).abs().max() for probe in (black, white))
    if not (spread.isfinite() & (spread > 0)).all() or uneven > EVEN * spread.min():
        raise UserError(
            f"{_called(processor)} pads images, or makes no values that tell black from white"
        )

    def share(image: Image.Image) -> torch.Tensor:
        """0 where the input is as that of black, 1 where it is as that of white."""
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
    wholes = {_whole_side(share, side, size) for side in PROBE_SIDES}
    if len(wholes) > 1 or None in wholes:
        raise UserError(f"{_called(processor)} does not bring images to one scale")
    std = 1 / (high - low)
    mean, std = (tuple(_short(value) for value in values.tolist()) for values in (-low * std, std))
    return Preprocessing(size, max(size, *wholes), _interpolation(processor), mean, std, *channels)


def _check_sides(processor) -> None:
    """Raises `UserError` on a size above `LARGEST_SIDE`: the first probe would take gigabytes."""
    described = processor.to_dict()
    described |= described.get("data_config") or {}  # of timm
    for name in ("size", "crop_size", "pad_size", "input_size"):
        sides = described.get(name)
        for side in (
            sides.values()
            if isinstance(sides, Mapping)
            else sides
            if isinstance(sides, (list, tuple))
            else [sides]
        ):
            if isinstance(side, (int, float)) and side > LARGEST_SIDE:
                raise UserError(
                    f"{_called(processor)} has a {name} of {shown(side, 20)}: {LARGEST_SIDE} is the largest that is taken"
                )


def _whole_side(share: Callable[[Image.Image], torch.Tensor], side: int, size: int) -> int | None:
    """How many pixels a whole square image of `side` has at the scale of its input of `size`, by
    where two edges lie; None where one of them is cropped away.
    """
    whites = []
    for edge in EDGES:
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[:, round(edge * side) :] = 255
        whites.append(float(share(Image.fromarray(pixels)).mean()))
    if not EVEN < whites[1] < whites[0] < 1 - EVEN:
        return None
    return round(size * (whites[0] - whites[1]) / (EDGES[1] - EDGES[0]))


def _called(processor) -> str:
    return f"the classifier's image processor ({type(processor).__name__})"


def _short(value: float) -> float:
    """A measured number without its rounding error: six digits."""
    return float(f"{round(value, 8):.6g}") + 0.0  # no -0.0


def _interpolation(processor) -> str:
    """How the processor resamples; bilinear where it does not say."""
    asked = getattr(processor, "data_config", {}).get("interpolation") or getattr(
        processor, "resample", None
    )
    if isinstance(asked, int):
        return Image.Resampling(asked).name.lower()
    name = str(getattr(asked, "value", asked))
    return name if name in INTERPOLATIONS else "bilinear"
