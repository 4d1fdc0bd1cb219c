"""The sources and refinements that are compared: photographs -> masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.method.masks import GrabCut, grabcut_mask, threshold, threshold_mask
from sgdmix_hub.method.saliency.consensus import MASK_SIZE, consensus
from sgdmix_hub.method.saliency.model_free import minimum_barrier, spectral_residual

from .photographs import Photograph, resized, small
from .self_trained import SIZE, predicted_shares, train_segmenter

BEFORE = GrabCut(probable_radius=0.1, background_radius=0.3, sharp=None)  # as released before


def of_map(saliency_map: np.ndarray, photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    return saliency_map, threshold_mask(saliency_map, len(photograph.image))


def spectral(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    grey = cv2.cvtColor(small(photograph.image), cv2.COLOR_RGB2GRAY)
    return of_map(spectral_residual(grey.astype(np.float64)), photograph)


def barrier(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    return of_map(minimum_barrier(small(photograph.image)), photograph)


def segmenter(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    assert photograph.alpha is not None
    alpha = photograph.alpha
    return cv2.resize(alpha, (64, 64), interpolation=cv2.INTER_AREA), alpha > threshold(alpha)


def truth(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    share = photograph.true.astype(np.float32)
    return cv2.resize(share, (64, 64), interpolation=cv2.INTER_AREA), photograph.true


SOURCES = {
    "spectral residual": spectral,
    "minimum barrier": barrier,
    "segmenter (IS-Net, 512)": segmenter,
    "true masks": truth,
}
REFINEMENTS: dict[str, GrabCut | None] = {
    "": None,
    ", GrabCut as before": BEFORE,
    ", GrabCut": GrabCut(),
}
RADII = ((0.01, 0.05), (0.02, 0.1), (0.05, 0.15), (0.1, 0.3))  # probable, background
CONSENSUS, SELF_TRAINED = "consensus", "self-trained"


def all_masks(
    rows: list[Photograph], steps: int, sources: Sequence[str] = tuple(SOURCES)
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arm -> masks, bool (n, size, size), and the confidences, (n,), of the arms that state any.

    `steps`: of the training of the segmenter on the consensus' masks; 0 leaves it out. `sources`:
    those of `SOURCES` that are compared with the consensus.
    """
    masks: dict[str, np.ndarray] = {}
    trust: dict[str, np.ndarray] = {}
    for source in sources:
        find = SOURCES[source]
        if find is segmenter and any(row.alpha is None for row in rows):
            continue
        found = [find(row) for row in rows]
        for refinement, grabcut in REFINEMENTS.items():
            if find is spectral and grabcut is not None:
                continue
            masks[source + refinement] = np.stack(
                [
                    coarse if grabcut is None else grabcut_mask(row.image, scores, coarse, grabcut)
                    for row, (scores, coarse) in zip(rows, found, strict=True)
                ]
            )
    at_size = [resized(row.image, MASK_SIZE) for row in rows]
    made = [consensus(image) for image in at_size]
    size = len(rows[0].image)
    masks[CONSENSUS] = np.stack([resize_mask(mask, size) for mask, _ in made])
    trust[CONSENSUS] = np.array([confidence for _, confidence in made])
    if steps:
        images = np.stack([resized(row.image, SIZE) for row in rows])
        coarse = np.stack([resize_mask(mask, SIZE) for mask, _ in made])
        model = train_segmenter(images, coarse, trust[CONSENSUS], seed=0, steps=steps)
        if model is not None:
            shares = predicted_shares(model, images)
            masks[SELF_TRAINED] = np.stack([resize_mask(share > 0.5, size) for share in shares])
            masks[SELF_TRAINED + ", GrabCut"] = np.stack(
                [
                    grabcut_mask(row.image, share, mask)
                    for row, share, mask in zip(rows, shares, masks[SELF_TRAINED], strict=True)
                ]
            )
    return masks, trust
