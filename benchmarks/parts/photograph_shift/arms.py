"""The arms, which differ in their masks alone, and the mixtures of each."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.method.masks import grabcut_mask, threshold_mask
from sgdmix_hub.method.saliency.model_free import minimum_barrier
from sgdmix_hub.metrics.mask_quality import mask_iou
from sgdmix_hub.pipeline import SGDMixPipeline

from ..masks.arms import BEFORE
from ..masks.photographs import small
from .task import RESOLUTION, SIZE, Images

VARIANTS, PROBABILITY = 4, 0.5
REAL, WAS, NOW, TRUE, SEGMENTER, RANDOM = ARMS = (
    "flips and crops",
    "`recommended` before",
    "`recommended` now, no model",
    "true masks",
    "segmenter (IS-Net, 512)",
    "masks of other images",
)


def mask_before(image: Image.Image) -> np.ndarray:
    """The mask of `recommended` before, bool (RESOLUTION, RESOLUTION)."""
    pixels = small(np.asarray(image), RESOLUTION)
    saliency_map = minimum_barrier(small(np.asarray(image)))
    coarse = threshold_mask(saliency_map, RESOLUTION)
    return grabcut_mask(pixels, saliency_map, coarse, BEFORE)


def column_masks(arm: str, train: Images, folder: Path | None, seed: int) -> np.ndarray:
    """The stored masks of an arm, uint8 (n, SIZE, SIZE); `folder`: of the segmenter's."""
    if arm == SEGMENTER:
        assert folder is not None, "the segmenter's arm needs --segmenter_masks"
        paths = [folder / f"seed-{seed}_{row:03d}.png" for row in range(len(train.labels))]
        return np.stack([np.asarray(Image.open(path).convert("L")) for path in paths])
    masks = train.masks.astype(np.uint8) * 255
    if arm == RANDOM:  # each image gets the next one's in a random order
        order = np.random.default_rng([seed, 1]).permutation(len(masks))
        masks[order] = masks[np.roll(order, 1)]
    return masks


def mixtures(
    arm: str,
    train: Images,
    stored: np.ndarray | None,
    seed: int,
    names: list[str],
    refinement: dict | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """The arm's mixtures, uint8 (m, RESOLUTION, RESOLUTION, 3), their sources' rows (m,), and the
    mean IoU of its masks with the true ones, those that it abstains from included.

    `names`: of the classes. `refinement`: settings of an arm with a base; S = 0 without.
    """
    columns: dict = {"image": [Image.fromarray(one) for one in train.pixels]}
    columns["label"] = train.labels
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    method: dict = {"strength": [0.0], "resolution": RESOLUTION, "num_variants": VARIANTS}
    if refinement is not None:
        method |= refinement | {"class_names": names}
    if stored is not None:
        columns["mask"] = [Image.fromarray(one) for one in stored]
        features["mask"] = ImageFeature()
        method["mask_column"] = "mask"
    elif arm == WAS:
        method["mask_function"] = mask_before
    dataset = Dataset.from_dict(columns, features=features)
    pipeline = SGDMixPipeline.from_pretrained(preset="recommended", **method)
    mapped = MappedSplit(pipeline, dataset, seed=seed, image_format="png")
    made = mapped({}, list(range(len(dataset))))
    images = [
        np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in made["image"]
    ]
    empty = np.zeros((0, RESOLUTION, RESOLUTION, 3), np.uint8)
    masks = stored > 127 if stored is not None else masks_found(mapped, train.masks)
    iou = float(mask_iou(masks, train.masks).mean())
    return np.stack(images) if images else empty, np.array(made["source_index"], int), iou


def masks_found(mapped: MappedSplit, like: np.ndarray) -> np.ndarray:
    """The masks that the source found, bool as `like`; an image without one has an empty mask."""
    maps, masks = mapped.maker.maps, np.zeros_like(like)
    for row in range(len(like)):
        mask = None if row in maps.unusable else maps.mask(row)
        if mask is not None:
            masks[row] = resize_mask(mask, SIZE)
    return masks
