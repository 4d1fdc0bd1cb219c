"""Compares the method's choices on a few hundred images: maps, masks, targets and mixtures.

Everything is made by the functions of a generation, with settings that differ in one choice and do
not refine. Only drawn images of the split are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sgdmix_hub.data.images import aspect_box, foreground_share, square
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableRow, UserError
from sgdmix_hub.generation.plan import PlanRow, make_plan
from sgdmix_hub.generation.row_store import RowValues
from sgdmix_hub.generation.saliency_maps import SaliencyMaps, block_maps, features_of
from sgdmix_hub.method.masks import CUT, foreground_mask
from sgdmix_hub.method.mixer import Box, MaskedImage, Mixer, Mixture
from sgdmix_hub.method.saliency.cam import BATCH
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.metrics.mixture_quality import background_from_target, foreground_kept, leak
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import (
    PRESETS,
    PREVIEW_FALL_BACK,
    SALIENCY_SOURCES,
    apply_preset,
)
from sgdmix_hub.settings.programs import PreviewSettings

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Classifier

MEASURED = 200
KEPT_SIDE = 448  # larger images are downscaled to this shorter side (or `resolution`, if larger)
REFINEMENTS = ("none", "grabcut")
RULES = ("l2", "dissimilar", "novel-background", "random")
MIXINGS = ("union", "source", "inpaint")
SHARED = {field.name for field in dataclasses.fields(PreviewSettings)} & {
    field.name for field in dataclasses.fields(AugmentSettings)
} - {"mask_column"}  # in a preview, true masks to compare with


@dataclass(frozen=True, kw_only=True)
class DrawnSplit(Split):
    """A split whose subset is in memory: downscaled RGB images and, if known, their true masks.

    The masks have mode L and the size of their images.
    """

    images: dict[int, Image.Image]
    true_masks: dict[int, Image.Image]

    def image(self, index: int, column: str | None = None) -> Image.Image:
        return self.images[int(index)]


@dataclass(frozen=True)
class MaskColumn:
    """Masks of one recipe, bool (size, size) for each row. `presets`: those that mask like this."""

    settings: AugmentSettings
    presets: list[str]
    masks: RowValues


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


def recipe(settings: PreviewSettings, preset: str = "paper", **choices: Any) -> AugmentSettings:
    """Settings that mix the preview's data without refining: a preset, overridden by `choices`."""
    shared: dict[str, Any] = {name: getattr(settings, name) for name in SHARED}
    source = SALIENCY_SOURCES[PRESETS[preset]["saliency_method"]]
    if settings.classifier is None and source.needs == "classifier":
        shared["saliency_method"] = PREVIEW_FALL_BACK
    # nothing is made from a preview, so a classifier trained on other rows leaks nothing here
    shared |= choices | {"preset": preset, "strength": 0.0, "allow_other_subset": True}
    return apply_preset(AugmentSettings(**shared))


def draw_split(
    settings: PreviewSettings, split: Split, advance: Callable[[int], None]
) -> tuple[DrawnSplit, dict[int, str]]:
    """Draws at most `MEASURED` rows of the split's subset; also returns reasons for unusable ones.

    Raises `UserError` if all are unusable.
    """
    drawn = np.sort(
        np.random.default_rng(settings.seed).permutation(split.subset)[:MEASURED]
    ).tolist()
    images, true_masks, left_out = {}, {}, {}
    for row in drawn:
        try:
            image = downscaled(split.image(row), max(KEPT_SIDE, settings.resolution))
            if settings.mask_column is not None:
                true = foreground_share(split.image(row, settings.mask_column)) > CUT
                true_masks[row] = Image.fromarray(np.uint8(true) * 255).resize(
                    image.size, Image.Resampling.NEAREST
                )
            images[row] = image
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
    return DrawnSplit(**values, images=images, true_masks=true_masks), left_out


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


def spread_over_classes(rows: np.ndarray, labels: np.ndarray, number: int, seed: int) -> list[int]:
    """Draws at most `number` rows evenly from the classes; returns them sorted by class."""
    drawn = np.random.default_rng(seed).permutation(rows)
    rounds = [int(np.sum(labels[drawn[:place]] == labels[row])) for place, row in enumerate(drawn)]
    chosen = drawn[np.argsort(rounds, kind="stable")[:number]]
    return sorted(chosen.tolist(), key=lambda row: (labels[row], row))


class Comparison:
    """Maps, masks, targets and mixtures of a drawn split for all recipes."""

    def __init__(self, settings: PreviewSettings, split: DrawnSplit):
        self.settings, self.split = settings, split
        self.rows = split.subset
        self.shown = spread_over_classes(
            self.rows, split.labels, settings.num_images, settings.seed
        )
        self.mixed_rows = self.rows.tolist() if split.true_masks else self.shown
        self.presets = {name: recipe(settings, name) for name in PRESETS}
        self.methods = list(
            dict.fromkeys(
                [str(preset.saliency_method) for preset in self.presets.values()]
                + [name for name, source in SALIENCY_SOURCES.items() if source.needs == "nothing"]
            )
        )
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
        return len(self.rows) * (len(self.methods) * (1 + len(REFINEMENTS)) + 1) + len(
            self.mixed_rows
        ) * len(PRESETS)

    def make(self, classifier: Classifier | None, advance: Callable[[int], None]) -> None:
        """Makes `maps`, `masks`, `targets`, `mixtures`; calls `advance(n)` after every n images."""
        paper, recommended = self.presets["paper"], self.presets["recommended"]
        self.maps = {method: self._maps(method, classifier, advance) for method in self.methods}
        self.masks = [
            self._mask_column(method, refinement, advance)
            for method in self.methods
            for refinement in REFINEMENTS
        ]
        rules = [dataclasses.replace(recommended, selection_method=rule) for rule in RULES]
        self.targets = [self._target_column(settings, advance) for settings in (paper, *rules)]
        plain = {
            name: dataclasses.replace(recommended, mixing_method=name, feather=0.0)
            for name in MIXINGS
        }
        *plain, whole = self._mixture_columns(
            recommended, plain | {"recommended": recommended}, advance
        )
        self.mixtures = [*plain, *self._mixture_columns(paper, {"paper": paper}, advance), whole]

    def true_mask(self, row: int, box: Box | None = None) -> np.ndarray:
        """The true foreground, bool (size, size), of a source.

        `box`: the part of the image that is shown.
        """
        mask = self.split.true_masks[row]
        if box is not None:
            mask = mask.crop(box)
        return self._square(mask, Image.Resampling.NEAREST) > 0

    def _square(self, image: Image.Image, resample=Image.Resampling.BICUBIC) -> np.ndarray:
        return np.asarray(square(image, self.settings.resolution, self.settings.resize, resample))

    def _maps(
        self, method: str, classifier: Classifier | None, advance: Callable[[int], None]
    ) -> SaliencyMaps:
        """The maps of all rows; zeros for rows without one."""
        settings, blocks, unusable = recipe(self.settings, saliency_method=method), [], {}
        source = load_source(settings, classifier)
        for start in range(0, len(self.rows), BATCH):
            values, reasons = block_maps(
                settings, self.split, self.rows[start : start + BATCH], source
            )
            blocks.append(values)
            unusable |= {int(row): reason for row, reason in reasons.items()}
            advance(len(values))
        return SaliencyMaps(RowValues(self.rows, np.concatenate(blocks), unusable), "", method)

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
        self, method: str, refinement: str, advance: Callable[[int], None]
    ) -> MaskColumn:
        settings = recipe(self.settings, saliency_method=method, mask_refinement=refinement)
        presets = self._presets_like(settings, "saliency_method", "mask_refinement")
        if presets:  # take the preset's other settings for masks, too
            settings = self.presets[presets[0]]
        masks = []
        for row in self.rows:
            try:
                masks.append(foreground_mask(self.pixels[row], self.maps[method][row], settings))
            except UnusableRow:  # shown and counted as an empty mask
                masks.append(np.zeros(self.pixels[row].shape[:2], bool))
            advance(1)
        return MaskColumn(settings, presets, RowValues(self.rows, np.stack(masks)))

    def _target_column(
        self, settings: AugmentSettings, advance: Callable[[int], None]
    ) -> TargetColumn:
        maps, backgrounds = self._maps_for(settings), None
        if settings.selection_method == "novel-background":
            features = []
            for row in self.rows:
                features.append(features_of(settings, self.split, maps, row))
                advance(1)
            backgrounds = RowValues(self.rows, np.stack(features))
        plan = {row.source_index: row for row in make_plan(settings, self.split, maps, backgrounds)}
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
        source = self._masked(preset, row.source_index)
        aspect = Mixer(preset).target_aspect(source)
        target = self._masked(preset, row.target_index, aspect)
        for column in columns:
            mixture = Mixer(column.settings).mix(source, target)
            if row.source_index in self.shown:
                column.mixtures[row.source_index] = mixture
            if self.true_masks is not None:
                true_source, true_target = (
                    self.true_masks[[row.source_index]],
                    self.true_mask(row.target_index, target.box)[None],
                )
                column.figures[row.source_index] = MixtureFigures(
                    float(leak(mixture.shown[None], true_target)[0]),
                    float(foreground_kept(mixture.kept[None], true_source)[0]),
                    float(background_from_target(mixture.kept[None], true_source)[0]),
                )

    def _masked(
        self, preset: AugmentSettings, row: int, aspect: float | None = None
    ) -> MaskedImage:
        """An image with a preset's mask. It is masked again only if `aspect` crops it."""
        image = self.split.images[row]
        if aspect is None or aspect_box(*image.size, aspect) == (0, 0, *image.size):
            masks = next(column.masks for column in self.masks if preset.preset in column.presets)
            return MaskedImage(self.pixels[row], masks[row], image.width / image.height)
        return Mixer(preset).mask(image, self._maps_for(preset)[row], aspect)
