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
OTHER_MASK, DISC = "other_mask", "disc"

REAL, RECOMMENDED, EVERY, SAME, OTHERS, FIXED, FIXED_SAME, PAPER = (
    "flips and crops",
    "`recommended`",
    "`recommended`, every mask",
    "every mask, targets of the same class",
    "masks of other cells",
    "a disc as mask",
    "a disc as mask, targets of the same class",
    "`paper`",
)
# arm -> settings beyond GENERATION; None: no mixtures
ARMS: dict[str, dict | None] = {
    REAL: None,
    RECOMMENDED: GOOD,
    EVERY: GOOD | EVERY_MASK,
    SAME: GOOD | EVERY_MASK | {"target_classes": "same"},
    OTHERS: GOOD | {"mask_column": OTHER_MASK},
    FIXED: GOOD | {"mask_column": DISC},
    FIXED_SAME: GOOD | {"mask_column": DISC, "target_classes": "same"},
    PAPER: {"preset": "paper"},
}
PRIMARY = ((RECOMMENDED, REAL), (EVERY, REAL), (SAME, EVERY))
SECONDARY = ((FIXED, REAL), (FIXED_SAME, REAL), (FIXED_SAME, FIXED), (SAME, REAL), (PAPER, REAL))
SCRATCH_ARMS = (REAL, EVERY, FIXED, FIXED_SAME, PAPER)
