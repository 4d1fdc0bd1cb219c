"""A split whose images are downscaled when they are first needed, and kept in memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sgdmix_hub.data.splits import Split
from sgdmix_hub.evaluation.drawn_split import downscaled


@dataclass(frozen=True, kw_only=True)
class ShrunkSplit(Split):
    """`side`: the shorter side that larger images are downscaled to, in pixels."""

    side: int
    kept: dict[tuple[int, str | None], Image.Image] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)

    def image(self, index: int, column: str | None = None) -> Image.Image:
        """As `Split.image`, downscaled."""
        key = int(index), column
        if key not in self.kept:
            whole = super().image(index, column)
            image = downscaled(whole, self.side)
            self.scales[key[0]] = image.width / whole.width
            self.kept[key] = image
        return self.kept[key]

    def cell(self, index: int, column: str) -> Any:
        """A box in pixels of the downscaled image; any other value as the dataset stores it."""
        value = super().cell(index, column)
        self.image(index)
        try:
            return [float(number) * self.scales[int(index)] for number in value]
        except (TypeError, ValueError):
            return value


def shrunk(split: Split, side: int) -> ShrunkSplit:
    """The split, with its images downscaled."""
    values: dict[str, Any] = {
        field.name: getattr(split, field.name) for field in dataclasses.fields(Split)
    }
    return ShrunkSplit(**values, side=side)
