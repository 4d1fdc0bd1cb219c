"""Images of any shape -> the square input of a segmentation model, and its masks back again.

The frame of a run is what its maps cover: the whole image where images are stretched, the middle
square where they are cropped. A model that was trained on stretched images sees the frame
stretched; any other one sees it at its aspect ratio, in the upper left corner of a padded square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from sgdmix_hub.data.images import square

MASK_SIZE = 256  # side of a mask over the run's frame
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Input:
    """What the square input of a segmentation model is: `side` pixels, values in [0, 1] that lose
    `mean` and are divided by `std`; `padded` instead of stretched.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    padded: bool


@dataclass(frozen=True)
class Framed:
    """One image as a model sees it: `pixels`, uint8 (side, side, 3); the `width` and `height` of
    the run's frame in it, as shares of the side; and a `box` in pixels of the input.
    """

    pixels: np.ndarray
    width: float
    height: float
    box: Box | None

    def box_in_frame(self) -> Box | None:
        """The box as shares of the frame's sides."""
        if self.box is None:
            return None
        across, down = (share * len(self.pixels) for share in (self.width, self.height))
        left, top, right, bottom = self.box
        return left / across, top / down, right / across, bottom / down


def framed(image: Image.Image, box: Box | None, resize: str, given: Input) -> Framed:
    """An RGB image, and a box in its pixels, as an input. `resize` is how the run makes images
    square.
    """
    if resize == "center-crop":
        side = min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        image = square(image, side, resize)
        if box is not None:
            box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    width = height = 1.0
    if given.padded:
        longest = max(image.size)
        width, height = image.width / longest, image.height / longest
    shown = (max(1, round(width * given.side)), max(1, round(height * given.side)))
    scales = (shown[0] / image.width, shown[1] / image.height)
    pixels = np.empty((given.side, given.side, 3), np.uint8)
    pixels[:] = np.rint(np.multiply(given.mean, 255)).astype(np.uint8)
    pixels[: shown[1], : shown[0]] = np.asarray(image.resize(shown, Image.Resampling.BILINEAR))
    if box is not None:
        box = _inside(tuple(value * scales[axis % 2] for axis, value in enumerate(box)), shown)
    return Framed(pixels, shown[0] / given.side, shown[1] / given.side, box)


def _inside(box: tuple[float, ...], shown: tuple[int, int]) -> Box | None:
    """The part of a box that is shown; None where that is less than a pixel."""
    left, right = (min(max(box[axis], 0.0), shown[0]) for axis in (0, 2))
    top, bottom = (min(max(box[axis], 0.0), shown[1]) for axis in (1, 3))
    if right - left < 1 or bottom - top < 1:
        return None
    return left, top, right, bottom


def pixel_values(images: list[Framed], given: Input, device: torch.device) -> torch.Tensor:
    """float32 (n, 3, side, side), normalised."""
    values = torch.from_numpy(np.stack([image.pixels for image in images])).to(device)
    values = values.permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(numbers, device=device)[:, None, None] for numbers in (given.mean, given.std)
    )
    return (values - mean) / std


def pixel_mask(images: list[Framed], given: Input, device: torch.device) -> torch.Tensor:
    """int64 (n, side, side): 1 where the input shows the image, 0 where it is padding."""
    mask = torch.zeros((len(images), given.side, given.side), dtype=torch.int64)
    for shown, image in zip(mask, images, strict=True):
        shown[: round(image.height * given.side), : round(image.width * given.side)] = 1
    return mask.to(device)


def over_frame(logits: torch.Tensor, image: Framed) -> torch.Tensor:
    """Logits (k, h, w) over a model's input -> (k, 256, 256) over the run's frame, bilinearly."""
    centres = (torch.arange(MASK_SIZE, device=logits.device) + 0.5) / MASK_SIZE
    x, y = (centres * share * 2 - 1 for share in (image.width, image.height))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    sampled = grid_sample(
        logits[None].float(), grid[None], padding_mode="border", align_corners=False
    )
    return sampled[0]
