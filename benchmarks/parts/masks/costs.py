"""What fills, mixing and masks cost, and what the fills look like."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.generation.encoding import encode_image
from sgdmix_hub.method.mixing import compose, fill, inpainting_hole, kept_mask
from sgdmix_hub.method.outlines import widen
from sgdmix_hub.method.saliency.consensus import MASK_SIZE, consensus

from .photographs import Photograph, resized
from .scores import interval

FILLS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Telea": lambda image, hole: cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA),
    "Navier-Stokes": lambda image, hole: cv2.inpaint(
        image, hole.astype(np.uint8), 3, cv2.INPAINT_NS
    ),
    "push-pull": fill,
}


def fill_scores(rows: list[Photograph]) -> dict:
    """Fill -> PSNR in the hole, against the true background, and how much of its texture is there.

    `texture`: mean slope of the brightness in the hole over that of the true background.
    """
    figures: dict = {name: {"psnr": [], "texture": [], "ms": []} for name in FILLS}
    for row in rows:
        hole = widen(row.true, 0.02)
        assert row.ground is not None
        for name, function in FILLS.items():
            started = time.thread_time()
            filled = function(row.image, hole)
            figures[name]["ms"].append(1000 * (time.thread_time() - started))
            error = np.mean((filled[hole].astype(float) - row.ground[hole]) ** 2)
            figures[name]["psnr"].append(10 * np.log10(255**2 / max(error, 1e-9)))
            figures[name]["texture"].append(
                slope(filled)[hole].mean() / slope(row.ground)[hole].mean()
            )
    objects = np.array([row.obj for row in rows])
    return {
        name: {key: interval(np.array(value), objects) for key, value in of.items()}
        for name, of in figures.items()
    }


def slope(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def mixing_cost(rows: list[Photograph], size: int = 512, pairs: int = 20) -> dict:
    """Milliseconds of one thread: a JPEG's way in and out, and the mixing of a row with masks."""
    spent: dict[str, list[float]] = {"jpeg": [], "fill": [], "mix": []}
    images = [cv2.resize(row.image, (size, size)) for row in rows[: pairs + 1]]
    masks = [cv2.resize(row.true.astype(np.uint8), (size, size)) > 0 for row in rows[: pairs + 1]]
    for source, target in zip(range(pairs), range(1, pairs + 1), strict=True):
        started = time.thread_time()
        buffer = io.BytesIO()
        Image.fromarray(images[source]).save(buffer, "JPEG", quality=95)
        np.asarray(Image.open(buffer).convert("RGB"))
        coded = time.thread_time()
        hole = inpainting_hole(masks[target])
        background = fill(images[target], hole)
        filled = time.thread_time()
        compose(images[source], background, kept_mask(masks[source], hole, "inpaint"), 0.01)
        ended = time.thread_time()
        for name, seconds in zip(
            spent, (coded - started, filled - coded, ended - coded), strict=True
        ):
            spent[name].append(1000 * seconds)
    return {name: round(float(np.median(values)), 2) for name, values in spent.items()}


def mask_bytes(rows: list[Photograph], size: int = 512) -> dict[str, float]:
    """Mean bytes of a published row: its image, and its true mask as published and as grey."""
    spent: dict[str, list[int]] = {"image": [], "mask": [], "grey mask": []}
    for row in rows:
        mask = resize_mask(row.true, size)
        grey = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(grey, "PNG")
        spent["image"].append(len(encode_image(resized(row.image, size), "png")))
        spent["mask"].append(len(encode_image(mask, "png")))
        spent["grey mask"].append(len(grey.getvalue()))
    return {name: round(float(np.mean(values)), 1) for name, values in spent.items()}


def consensus_cost(rows: list[Photograph], count: int = 20) -> float:
    """Milliseconds of one thread for a consensus mask, the median of some images."""
    spent = []
    for row in rows[:count]:
        image = resized(row.image, MASK_SIZE)
        started = time.thread_time()
        consensus(image)
        spent.append(1000 * (time.thread_time() - started))
    return round(float(np.median(spent)), 1)
