"""The arms, as settings of `augment`."""

from __future__ import annotations

from parts.photograph_shift.arms import VARIANTS
from parts.photograph_shift.task import RESOLUTION

GENERATION = {
    "strength": 0.0,
    "num_variants": VARIANTS,
    "resolution": RESOLUTION,
    "image_format": "png",
    "max_skipped": 1.0,
}
GOOD, EVERY_MASK = {"preset": "recommended"}, {"min_mask_confidence": 0.0}
MASK_COLUMN = "other_mask"

REAL, RECOMMENDED, EVERY, SAME, OTHERS, PAPER = (
    "flips and crops",
    "`recommended`",
    "`recommended`, every mask",
    "the same, targets of the same class",
    "the same, masks of other cells",
    "`paper`",
)
# arm -> settings beyond GENERATION; None: no mixtures
ARMS: dict[str, dict | None] = {
    REAL: None,
    RECOMMENDED: GOOD,
    EVERY: GOOD | EVERY_MASK,
    SAME: GOOD | EVERY_MASK | {"target_classes": "same"},
    OTHERS: GOOD | {"mask_column": MASK_COLUMN},
    PAPER: {"preset": "paper"},
}
PRIMARY = ((RECOMMENDED, REAL), (EVERY, REAL), (SAME, EVERY))
SECONDARY = ((SAME, REAL), (OTHERS, REAL), (EVERY, OTHERS), (PAPER, REAL))
