"""The images of a preview: a few hundred drawn from a split, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sgdmix_hub.data.images import foreground_share
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableRow, UserError
from sgdmix_hub.method.masks import CUT
from sgdmix_hub.settings.programs import PreviewSettings

MEASURED = 200
KEPT_SIDE = 448  # larger images are downscaled to this shorter side (or `resolution`, if larger)


@dataclass(frozen=True, kw_only=True)
class DrawnSplit(Split):
    """A split whose subset is in memory: downscaled RGB images and, if known, their true masks.
    What another column holds is read when it is asked for, as the dataset stores it.

    The masks have mode L and the size of their images. `scales`: row -> size of its image over that
    in the dataset.
    """

    images: dict[int, Image.Image]
    true_masks: dict[int, Image.Image]
    scales: dict[int, float]

    def image(self, index: int, column: str | None = None) -> Image.Image:
        return self.images[int(index)] if column is None else super().image(index, column)

    def cell(self, index: int, column: str) -> Any:
        """A box in pixels of the downscaled image; any other value as the dataset stores it."""
        value = super().cell(index, column)
        try:
            return [float(number) * self.scales[int(index)] for number in value]
        except (TypeError, ValueError):
            return value


def draw_split(
    settings: PreviewSettings, split: Split, advance: Callable[[int], None]
) -> tuple[DrawnSplit, dict[int, str]]:
    """Draws at most `MEASURED` rows of the split's subset; also returns reasons for unusable ones.

    Raises `UserError` if all are unusable.
    """
    drawn = np.sort(
        np.random.default_rng(settings.seed).permutation(split.subset)[:MEASURED]
    ).tolist()
    images, true_masks, scales, left_out = {}, {}, {}, {}
    for row in drawn:
        try:
            whole = split.image(row)
            image = downscaled(whole, max(KEPT_SIDE, settings.resolution))
            if settings.true_mask_column is not None:
                true = foreground_share(split.image(row, settings.true_mask_column)) > CUT
                true_masks[row] = Image.fromarray(np.uint8(true) * 255).resize(
                    image.size, Image.Resampling.NEAREST
                )
            images[row], scales[row] = image, image.width / whole.width
        except UnusableRow as reason:
            left_out[row] = str(reason)
        advance(1)
    if not images:
        reason = f" ({left_out[drawn[0]]})" if drawn else ""
        raise UserError(
            f"none of the {len(drawn)} drawn images of {split.pin.name} is usable{reason}"
        )
    values: dict[str, Any] = {
        field.name: getattr(split, field.name) for field in dataclasses.fields(Split)
    }
    values["subset"] = np.array(list(images))
    return DrawnSplit(**values, images=images, true_masks=true_masks, scales=scales), left_out


def downscaled(image: Image.Image, side: int) -> Image.Image:
    """The image, downscaled if its shorter side is longer than `side`."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    return image.resize(
        (round(image.width * scale), round(image.height * scale)),
        Image.Resampling.BICUBIC,
        reducing_gap=3.0,
    )


def in_turns(rows: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The rows in a drawn order in which the classes take turns."""
    drawn = np.random.default_rng(seed).permutation(rows)
    rounds = [int(np.sum(labels[drawn[:place]] == labels[row])) for place, row in enumerate(drawn)]
    return drawn[np.argsort(rounds, kind="stable")]


def spread_over_classes(rows: np.ndarray, labels: np.ndarray, number: int, seed: int) -> list[int]:
    """Draws at most `number` rows evenly from the classes; returns them sorted by class."""
    chosen = in_turns(rows, labels, seed)[:number]
    return sorted(chosen.tolist(), key=lambda row: (labels[row], row))
