"""A split whose images are downscaled when they are first needed, and kept in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from PIL import Image

from sgdmix_hub.data.splits import Split
from sgdmix_hub.evaluation.drawn_split import downscaled


@dataclass(frozen=True, kw_only=True)
class ShrunkSplit(Split):
    """`side`: the shorter side that larger images are downscaled to, in pixels. `most_kept`: the
    images last used stay in memory; all if None.
    """

    side: int
    most_kept: int | None = None
    _kept: Callable[[int, str | None], Image.Image] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kept = lru_cache(self.most_kept)(self._downscaled)
        object.__setattr__(self, "_kept", kept)

    def image(self, index: int, column: str | None = None) -> Image.Image:
        """As `Split.image`, downscaled."""
        return self._kept(int(index), column)

    def _downscaled(self, index: int, column: str | None) -> Image.Image:
        return downscaled(super().image(index, column), self.side)

    def cell(self, index: int, column: str) -> Any:
        """A box in pixels of the downscaled image; any other value as the dataset stores it."""
        value = super().cell(index, column)
        scale = self.image(index).width / self.size(index)[0]
        try:
            return [float(number) * scale for number in value]
        except (TypeError, ValueError):
            return value


def shrunk(split: Split, side: int, most_kept: int | None = None) -> ShrunkSplit:
    """The split, with its images downscaled."""
    values: dict[str, Any] = {
        field.name: getattr(split, field.name) for field in dataclasses.fields(Split)
    }
    return ShrunkSplit(**values, side=side, most_kept=most_kept)
