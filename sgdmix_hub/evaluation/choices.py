"""Compares the method's choices on a few hundred images: maps, masks, targets and mixtures.

Everything is made by the functions of a generation, with settings that differ in one choice and do
not refine. Only drawn images of the split are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from sgdmix_hub.data.images import Frame, aspect_box, fitted, frame_of, square
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.generation.background_features import backgrounds_at_hand
from sgdmix_hub.generation.bank import Bank, NoForeground, joined_labels
from sgdmix_hub.generation.plan import PlanRow, low_confidence, make_plan
from sgdmix_hub.generation.row_store import RowValues
from sgdmix_hub.generation.saliency_maps import SaliencyMaps, block_maps, stored_mask
from sgdmix_hub.method.masks import foreground_mask, share_of, share_of_frame
from sgdmix_hub.method.mixer import Box, MaskedImage, Mixer, Mixture
from sgdmix_hub.method.saliency.cam import BATCH
from sgdmix_hub.method.saliency.sources import Network, load_source
from sgdmix_hub.metrics.mixture_quality import background_from_target, foreground_kept, leak
from sgdmix_hub.settings.generation import AugmentSettings, bank_settings
from sgdmix_hub.settings.method import COMPARE_MAPS
from sgdmix_hub.settings.presets import (
    AT_HAND,
    PRESETS,
    saliency_method,
    saliency_source,
)
from sgdmix_hub.settings.programs import PreviewSettings, recipe
from sgdmix_hub.settings.saliency import SALIENCY_SOURCES

from .drawn_split import DrawnSplit, spread_over_classes

REFINEMENTS = ("none", "grabcut")
RULES = ("l2", "dissimilar", "novel-background", "random")
UNMIXED = "kept unmixed"
MIXINGS = ("union", "source", "inpaint")


@dataclass(frozen=True)
class MaskColumn:
    """Masks of one recipe, bool (size, size) for each row. `presets`: those that mask like this.

    `confidences`: of the rows for which the source states one; `untrusted`: why rows are not mixed.
    """

    settings: AugmentSettings
    presets: list[str]
    masks: RowValues
    confidences: dict[int, float]
    untrusted: dict[int, str]

    @property
    def has_own_masks(self) -> bool:
        """Whether the source makes the masks itself, without a threshold or GrabCut."""
        return saliency_source(self.settings).gives_masks

    @property
    def untrusted_share(self) -> float | None:
        """Share of the rows without a trusted mask; None if the source states no confidence."""
        if not saliency_source(self.settings).has_confidence:
            return None
        return len(self.untrusted) / len(self.masks.rows)


@dataclass(frozen=True)
class TargetColumn:
    """Targets of one recipe, as plan rows by source. `presets`: those that choose like this."""

    settings: AugmentSettings
    presets: list[str]
    plan: dict[int, PlanRow]


@dataclass(frozen=True)
class MixtureFigures:
    """One mixture measured against the true foregrounds, by metrics/mixture_quality.py."""

    leak: float
    foreground_kept: float
    background_from_target: float


@dataclass(frozen=True)
class MixtureColumn:
    """Mixtures of one recipe by source row.

    `mixtures`: for the rows on the page; `skipped`: reasons for rows without a mixture; `figures`:
    only with true masks.
    """

    name: str
    settings: AugmentSettings
    plan: dict[int, PlanRow]
    mixtures: dict[int, Mixture] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    figures: dict[int, MixtureFigures] = field(default_factory=dict)


class Comparison:
    """Maps, masks, targets and mixtures of a drawn split for all recipes."""

    def __init__(
        self, settings: PreviewSettings, split: DrawnSplit, bank: DrawnSplit | None = None
    ):
        """`bank`: drawn images of the background dataset, if the settings name one."""
        self.settings, self.split, self.bank = settings, split, bank
        self.rows = split.subset
        self.shown = spread_over_classes(
            self.rows, split.labels, settings.num_images, settings.seed
        )
        self.mixed_rows = self.rows.tolist() if split.true_masks else self.shown
        self.presets = {name: recipe(settings, name) for name in PRESETS}
        self.rules = RULES
        if bank is not None and not settings.background_has_foreground:
            self.rules = tuple(rule for rule in RULES if rule not in COMPARE_MAPS)
        asked, paper = [of.saliency_method for of in self.presets.values()], self.presets["paper"]
        at_hand = [method for name, method in AT_HAND.items() if getattr(paper, name)]
        free = [name for name, source in SALIENCY_SOURCES.items() if source.needs == "nothing"]
        self.methods = list(dict.fromkeys(map(str, [*asked, *at_hand, *free])))
        self.masked_by = [
            (method, refinement)
            for method in self.methods
            for refinement in ((None,) if SALIENCY_SOURCES[method].gives_masks else REFINEMENTS)
        ]
        self.pixels = RowValues(
            self.rows, np.stack([self._square(split.images[row]) for row in self.rows.tolist()])
        )
        self.true_masks = None
        if split.true_masks:
            self.true_masks = RowValues(
                self.rows, np.stack([self.true_mask(row) for row in self.rows.tolist()])
            )

    @property
    def work(self) -> int:
        """How many images `make` reports to its `advance`."""
        passes = len(self.methods) + len(self.masked_by) + 1
        return len(self.rows) * passes + len(self.mixed_rows) * len(PRESETS)

    @property
    def recommended(self) -> MaskColumn:
        """The masks of the preset `recommended`."""
        return next(column for column in self.masks if "recommended" in column.presets)

    def make(self, networks: Mapping[str, Network], advance: Callable[[int], None]) -> None:
        """Makes `maps`, `masks`, `targets`, `mixtures`; calls `advance(n)` after every n images.

        `networks`: what a source needs ("classifier", "segmenter") -> the loaded network.
        """
        paper, recommended = self.presets["paper"], self.presets["recommended"]
        self.maps = {method: self._maps(method, networks, advance) for method in self.methods}
        self.masks = [
            self._mask_column(method, refinement, advance) for method, refinement in self.masked_by
        ]
        self.banks = {
            str(preset.saliency_method): self._bank_of(preset, networks)
            for preset in (paper, recommended)
        }
        rules = [dataclasses.replace(recommended, selection_method=rule) for rule in self.rules]
        self.targets = [self._target_column(settings, advance) for settings in (paper, *rules)]
        plain = {
            name: dataclasses.replace(recommended, mixing_method=name, feather=0.0)
            for name in MIXINGS
        }
        *plain, whole = self._mixture_columns(
            recommended, plain | {"recommended": recommended}, advance
        )
        self.mixtures = [*plain, *self._mixture_columns(paper, {"paper": paper}, advance), whole]

    def true_mask(self, row: int, box: Box | None = None, frame: Frame | None = None) -> np.ndarray:
        """The true foreground of a source, bool (size, size) or of a frame.

        `box`: the part of the image that is shown.
        """
        mask = self.split.true_masks[row]
        if box is not None:
            mask = mask.crop(box)
        frame = frame or frame_of(self.settings.resolution)
        nearest = Image.Resampling.NEAREST
        return np.asarray(fitted(mask, frame, self.settings.resize, nearest)) > 0

    def _square(self, image: Image.Image) -> np.ndarray:
        return np.asarray(square(image, self.settings.resolution, self.settings.resize))

    def _maps(
        self, method: str, networks: Mapping[str, Network], advance: Callable[[int], None]
    ) -> SaliencyMaps:
        """The maps of all rows; zeros for rows without one."""
        settings = recipe(self.settings, saliency_method=method)
        return _maps_of(settings, self.split, networks, advance)

    def _bank_of(self, settings: AugmentSettings, networks: Mapping[str, Network]) -> Bank | None:
        """The background dataset with maps as the settings make them."""
        if self.bank is None:
            return None
        own, maps = bank_settings(settings), NoForeground("")
        if settings.background_has_foreground:
            maps = _maps_of(own, self.bank, networks, lambda rows: None)
        return Bank(own, self.bank, maps, len(self.split.labels))

    @property
    def labels(self) -> np.ndarray:
        """int64: of the split's rows, then no label for those of the background dataset."""
        bank = next(iter(self.banks.values()))
        return self.split.labels if bank is None else joined_labels(self.split, bank)

    def target(self, row: int) -> tuple[np.ndarray, str]:
        """The pixels of a planned target, and what it is called on the page."""
        first = len(self.split.labels)
        if self.bank is not None and row >= first:
            return self._square(self.bank.images[row - first]), f"background {row - first}"
        return self.pixels[row], self.split.class_names[self.split.labels[row]]

    def _maps_for(self, settings: AugmentSettings) -> SaliencyMaps:
        return self.maps[str(settings.saliency_method)]

    def _presets_like(self, settings: AugmentSettings, *names: str) -> list[str]:
        """The presets that agree with the settings in the named ones."""
        return [
            preset
            for preset, values in self.presets.items()
            if all(getattr(values, name) == getattr(settings, name) for name in names)
        ]

    def _mask_column(
        self, method: str, refinement: str | None, advance: Callable[[int], None]
    ) -> MaskColumn:
        """Masks of one method. `refinement`: None for the method's own masks."""
        choices = {"saliency_method": method, "mask_refinement": refinement}
        choices = {name: value for name, value in choices.items() if value is not None}
        floor = {}
        if method != self.presets["recommended"].saliency_method:
            floor = {"min_mask_confidence": None}  # confidences of sources are on different scales
        settings = recipe(self.settings, "recommended", **choices, **floor)
        presets = self._presets_like(settings, *choices)
        if presets:  # take the preset's other settings for masks, too
            settings = self.presets[presets[0]]
        maps, masks = self.maps[method], []
        for row in self.rows.tolist():
            try:
                masks.append(self._mask(settings, maps, row))
            except UnusableRow:  # shown and counted as an empty mask
                masks.append(np.zeros(self.pixels[row].shape[:2], bool))
            advance(1)
        stated = {row: maps.confidence(row) for row in self.rows.tolist()}
        not_mixed = maps.unusable if saliency_source(settings).has_confidence else {}
        return MaskColumn(
            settings,
            presets,
            RowValues(self.rows, np.stack(masks)),
            {row: confidence for row, confidence in stated.items() if confidence is not None},
            not_mixed | low_confidence(settings, self.split, maps),
        )

    def _mask(self, settings: AugmentSettings, maps: SaliencyMaps, row: int) -> np.ndarray:
        """The mask of a whole image. Raises `UnusableRow`."""
        if row in maps.unusable:
            raise UnusableRow(maps.unusable[row])
        share, own, stored = None, maps.mask(row), stored_mask(settings, self.split, row)
        place = self.split.images[row].size, None, self.settings.resolution
        if own is not None:
            share = share_of_frame(own, *place)
        elif stored is not None:
            share = share_of(stored, *place, settings.resize)
        return foreground_mask(self.pixels[row], maps[row], settings, share)

    def _target_column(
        self, settings: AugmentSettings, advance: Callable[[int], None]
    ) -> TargetColumn:
        maps = self._maps_for(settings)
        bank = self.banks[str(settings.saliency_method)]
        backgrounds = backgrounds_at_hand(settings, self.split, maps, bank, advance)
        planned = make_plan(settings, self.split, maps, backgrounds, bank)
        plan = {row.source_index: row for row in planned}
        return TargetColumn(
            settings,
            self._presets_like(settings, "saliency_method", "selection_method", "target_classes"),
            plan,
        )

    def _mixture_columns(
        self,
        preset: AugmentSettings,
        recipes: dict[str, AugmentSettings],
        advance: Callable[[int], None],
    ) -> list[MixtureColumn]:
        """Columns with a preset's targets and masks that differ in the mixing method."""
        plan = next(column.plan for column in self.targets if preset.preset in column.presets)
        columns = [MixtureColumn(name, settings, plan) for name, settings in recipes.items()]
        for row in self.mixed_rows:
            try:
                self._mix(preset, plan[row], columns)
            except UnusableRow as reason:
                for column in columns:
                    column.skipped[row] = str(reason)
            advance(1)
        return columns

    def _mix(self, preset: AugmentSettings, row: PlanRow, columns: list[MixtureColumn]) -> None:
        if row.skip is not None:
            raise UnusableRow(row.skip)
        if row.is_unmixed:
            for column in columns:
                column.skipped[row.source_index] = UNMIXED
            return
        source = self._masked(preset, row.source_index)
        aspect = Mixer(preset).target_aspect(source)
        target = self._masked(preset, row.target_index, aspect, source.frame)
        for column in columns:
            mixture = Mixer(column.settings).mix(source, target)
            if row.source_index in self.shown:
                column.mixtures[row.source_index] = mixture
            if self.true_masks is not None:
                true_source = self.true_mask(row.source_index, frame=source.frame)[None]
                true_target = np.zeros_like(true_source)  # unknown for a background dataset
                if self.bank is None:
                    true_target = self.true_mask(row.target_index, target.box, source.frame)
                    true_target = true_target[None]
                column.figures[row.source_index] = MixtureFigures(
                    float(leak(mixture.shown[None], true_target)[0]),
                    float(foreground_kept(mixture.kept[None], true_source)[0]),
                    float(background_from_target(mixture.kept[None], true_source)[0]),
                )

    def _masked(
        self,
        preset: AugmentSettings,
        row: int,
        aspect: float | None = None,
        frame: Frame | None = None,
    ) -> MaskedImage:
        """An image with a preset's mask, in a frame, by default its own.

        It is masked again only if `aspect` crops it or its frame is not the square of its column.
        """
        bank = self.banks[str(preset.saliency_method)]
        if bank is not None and bank.owns(row):
            row -= bank.first
            image, found = bank.split.image(row), bank.maps.mask(row)
            # a background dataset without foregrounds is not asked for a column of masks
            stored = None if found is not None else stored_mask(bank.settings, bank.split, row)
            return Mixer(preset).mask(image, bank.maps[row], aspect, stored, found, frame)
        image = self.split.images[row]
        frame = frame or Mixer(preset).frame(image.size)
        whole = aspect is None or aspect_box(*image.size, aspect) == (0, 0, *image.size)
        if whole and frame == frame_of(preset.resolution):
            masks = next(column.masks for column in self.masks if preset.preset in column.presets)
            return MaskedImage(self.pixels[row], masks[row], image.size)
        maps, stored = self._maps_for(preset), stored_mask(preset, self.split, row)
        return Mixer(preset).mask(image, maps[row], aspect, stored, maps.mask(row), frame)


def _maps_of(
    settings: AugmentSettings,
    split: DrawnSplit,
    networks: Mapping[str, Network],
    advance: Callable[[int], None],
) -> SaliencyMaps:
    """The maps of a drawn split; zeros for rows without one."""
    method, blocks, unusable = saliency_method(settings), [], {}
    source = load_source(settings, networks.get(SALIENCY_SOURCES[method].needs))
    for start in range(0, len(split.subset), BATCH):
        values, reasons = block_maps(settings, split, split.subset[start : start + BATCH], source)
        blocks.append(values)
        unusable |= {int(row): reason for row, reason in reasons.items()}
        advance(len(values))
    return SaliencyMaps(RowValues(split.subset, np.concatenate(blocks), unusable), "", method)
