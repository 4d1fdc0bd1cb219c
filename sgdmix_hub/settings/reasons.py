"""Why rows are left out: which reasons are no fault, and how they are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sgdmix_hub.errors import shown

# How the reason of a row begins that is left out on purpose, and is no fault: its mask cannot be
# trusted, its target shows hardly any background, or the settings exclude it.
LOW_CONFIDENCE = "mask confidence"
NO_BACKGROUND = "the target's foreground is too large"
EXCLUDED = "excluded by the settings"
# How such a reason begins -> what it is counted as.
EXPECTED_REASONS = {
    LOW_CONFIDENCE: f"{LOW_CONFIDENCE} too low",
    NO_BACKGROUND: NO_BACKGROUND,
    EXCLUDED: EXCLUDED,
}


def kind_of(reason: str) -> str:
    """A reason without the figures that make it one row's own, for counting."""
    kinds = (kind for start, kind in EXPECTED_REASONS.items() if reason.startswith(start))
    return next(kinds, reason)


def cause_of(reason: str) -> str:
    """What a reason says after its heading, if it has one."""
    return reason.partition(": ")[2] or reason


def distrust(confidence: float | None, floor: float | None, whose: str = "") -> str | None:
    """Why a mask of this confidence is not mixed; None if it is, or states no confidence."""
    if confidence is None or confidence >= (floor or 0.0):
        return None
    return f"{LOW_CONFIDENCE}{whose} {confidence:.2f} is below min_mask_confidence {floor:g}"


def is_expected(reason: str) -> bool:
    """Whether a row was left out on purpose, which is no fault."""
    return reason.startswith(tuple(EXPECTED_REASONS))


def is_low_confidence(reason: str) -> bool:
    """Whether a row was left out because its mask cannot be trusted."""
    return reason.startswith(LOW_CONFIDENCE)


def most_common(reasons: Iterable[str], kinds: int = 3) -> str:
    """The most frequent reasons with their counts, in words."""
    counted = Counter(map(kind_of, reasons)).most_common()
    more = f"; {len(counted) - kinds} other reasons" if len(counted) > kinds else ""
    return "; ".join(f"{count} x {shown(reason)}" for reason, count in counted[:kinds]) + more
