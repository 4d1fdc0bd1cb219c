"""The images that a version was made from, and its mixtures where it does not publish them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.data.subsets import NO_LABEL
from sgdmix_hub.errors import Unusable, UserError, attempt
from sgdmix_hub.evaluation.drawn_split import KEPT_SIDE
from sgdmix_hub.generation.inputs import Inputs
from sgdmix_hub.generation.plan import PlanRow
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.hub.pins import parse_pins, resolve
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.settings.presets import saliency_source

from .known_maps import KnownMaps
from .places import Place
from .shrunk_split import shrunk

NO_SUCH_ROW = "the dataset has no such row"
IMAGES_KEPT = 128  # of some pages, with the masks that a column holds
MAPS_KEPT = 1000
ALONE = ("nothing", "column", "boxes")  # what sources of masks need that are at hand here


class Originals:
    """Sources and targets of a version's rows."""

    def __init__(self, place: Place, dataset_name: str | None):
        """`dataset_name`: where the dataset is, if it was a local folder. Raises `UserError`."""
        stated = parse_pins(place.pins)["dataset_name"]
        if dataset_name is None and stated.is_local:
            raise UserError(
                f"sources and targets are those of a local folder ({stated.name}): start with "
                "--dataset_name to see them"
            )
        pin = resolve(dataset_name or str(stated), repo_type="dataset")
        if not pin.holds_same_as(stated):
            raise UserError(
                f"{dataset_name} is not the dataset that the version was made from ({stated})"
            )
        self.settings = place.settings()
        split = load_split(self.settings, pin)
        self.split = shrunk(split, max(KEPT_SIDE, self.settings.resolution), IMAGES_KEPT)
        self.has_bank = "background_dataset_name" in place.pins
        self._maker: RowMaker | None = None
        self._maps: KnownMaps | None = None
        if saliency_source(self.settings).needs in ALONE and not self.has_bank:
            source = load_source(self.settings)
            self._maps = KnownMaps(self.settings, self.split, source, "")
            inputs = Inputs(self.split, None, None, None, None)
            self._maker = RowMaker(self.settings, inputs, self._maps.maps)

    def source(self, row: dict[str, Any]) -> Image.Image | Unusable:
        return self._image(row["source_index"])

    def target(self, row: dict[str, Any]) -> Image.Image | Unusable:
        if self.has_bank and row.get("target_label") == NO_LABEL:
            return Unusable("of the background dataset")
        return self._image(row["target_index"])

    def _image(self, index: int) -> Image.Image | Unusable:
        return attempt(self.split.image, index) if self._has(index) else Unusable(NO_SUCH_ROW)

    def _has(self, index: int) -> bool:
        return 0 <= index < len(self.split.rows)

    def mixed(self, row: dict[str, Any]) -> np.ndarray | Unusable:
        """The mixture, made again from the downscaled images."""
        if self._maker is None or self._maps is None:
            return Unusable("not published; its masks come from a model")
        pair = [row["source_index"], row["target_index"]]
        if not all(map(self._has, pair)):
            return Unusable(NO_SUCH_ROW)
        if len(self._maps.known.values) > MAPS_KEPT:
            self._maps.known.forget()
        for _ in self._maps.make(pair):
            pass
        missing = [
            self._maps.known.unusable[one] for one in pair if one in self._maps.known.unusable
        ]
        if missing:
            return Unusable(missing[0])
        planned = PlanRow(
            row["source_index"], row["variant"], row["target_index"], 0, 0.0, 0.0, 0, None
        )
        mixture = attempt(self._maker.mixture, planned)
        return mixture if isinstance(mixture, Unusable) else mixture.mixed
