"""The method's choices side by side on a few hundred images of a dataset: maps, masks, targets and
mixtures, and figures of each.

Everything is made by the functions of a generation, on the drawn part of the split alone: the
recipes that are compared are settings of a generation by mixing alone, and differ in the choice at
hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sgdmix_hub.data.images import aspect_box, foreground_share, square
from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableRow, UserError
from sgdmix_hub.generation.plan import PlanRow, make_plan
from sgdmix_hub.generation.row_store import RowValues
from sgdmix_hub.generation.saliency_maps import block_maps, features_of
from sgdmix_hub.method.masks import CUT, foreground_mask
from sgdmix_hub.method.mixer import MaskedImage, Mixer, Mixture
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
KEPT_SIDE = (
    448  # the shorter side that larger images are brought down to, where the resolution is not more
)
REFINEMENTS = ("none", "grabcut")
RULES = ("l2", "dissimilar", "novel-background", "random")
MIXINGS = ("union", "source", "inpaint")
SHARED = {field.name for field in dataclasses.fields(PreviewSettings)} & {
    field.name for field in dataclasses.fields(AugmentSettings)
}


@dataclass(frozen=True, kw_only=True)
class DrawnSplit(Split):
    """A split whose subset is in memory: RGB images, no larger than they are needed, and, where
    there is a column of them, their true masks, mode L and as large.
    """

    images: dict[int, Image.Image]
    true_masks: dict[int, Image.Image]

    def image(self, index: int, column: str | None = None) -> Image.Image:
        return self.images[int(index)]


@dataclass(frozen=True)
class MaskColumn:
    """One way to mask: bool (size, size) for every drawn row. `presets` mask like this."""

    settings: AugmentSettings
    presets: list[str]
    masks: RowValues


@dataclass(frozen=True)
class TargetColumn:
    """One way to choose targets: the plan of every drawn row. `presets` choose like this."""

    settings: AugmentSettings
    presets: list[str]
    plan: dict[int, PlanRow]


@dataclass(frozen=True)
class MixtureFigures:
    """One mixture against the true foregrounds: `leak`, `foreground_kept` and
    `background_from_target` of metrics/mixture_quality.py.
    """

    leak: float
    foreground_kept: float
    background_from_target: float


@dataclass(frozen=True)
class MixtureColumn:
    """One way to mix: by row the mixture, for the rows of the page alone, or the reason why there
    is none; and its figures, where there are true masks.
    """

    name: str
    settings: AugmentSettings
    plan: dict[int, PlanRow]
    mixtures: dict[int, Mixture] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    figures: dict[int, MixtureFigures] = field(default_factory=dict)


def recipe(settings: PreviewSettings, preset: str = "paper", **choices) -> AugmentSettings:
    """The settings of a generation by mixing alone on the preview's data: a preset, and `choices`
    over it.
    """
    shared = {name: getattr(settings, name) for name in SHARED}
    source = SALIENCY_SOURCES[PRESETS[preset]["saliency_method"]]
    if settings.classifier is None and source.needs == "classifier":
        shared["saliency_method"] = PREVIEW_FALL_BACK
    # No stage takes anything from a preview: a classifier that was trained on other rows leaks
    # nothing here.
    return apply_preset(
        AugmentSettings(**shared | choices, preset=preset, strength=0.0, allow_other_subset=True)
    )


def draw_split(
    settings: PreviewSettings, split: Split, advance: Callable[[int], None]
) -> tuple[DrawnSplit, dict[int, str]]:
    """At most `MEASURED` rows of the split's subset, drawn by the seed; and those drawn that are of
    no use, with their reasons.

    Raises `UserError` when all are.
    """
    drawn = np.sort(
        np.random.default_rng(settings.seed).permutation(split.subset)[:MEASURED]
    ).tolist()
    images, true_masks, left_out = {}, {}, {}
    for row in drawn:
        try:
            image = brought_down(split.image(row), max(KEPT_SIDE, settings.resolution))
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
            f"{split.pin.name} has no usable image among the {len(drawn)} that were drawn{reason}"
        )
    values = {of.name: getattr(split, of.name) for of in dataclasses.fields(Split)} | {
        "subset": np.array(list(images))
    }
    return DrawnSplit(**values, images=images, true_masks=true_masks), left_out


def brought_down(image: Image.Image, side: int) -> Image.Image:
    """The image, with its shorter side brought down to `side` where it is longer."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    return image.resize(
        (round(image.width * scale), round(image.height * scale)),
        Image.Resampling.BICUBIC,
        reducing_gap=3.0,
    )


def spread_over_classes(rows: np.ndarray, labels: np.ndarray, number: int, seed: int) -> list[int]:
    """At most `number` of the rows, drawn by the seed: one of each class, then a second of each,
    and so on; in the order of the classes.
    """
    drawn = np.random.default_rng(seed).permutation(rows)
    rounds = [int(np.sum(labels[drawn[:place]] == labels[row])) for place, row in enumerate(drawn)]
    chosen = drawn[np.argsort(rounds, kind="stable")[:number]]
    return sorted(chosen.tolist(), key=lambda row: (labels[row], row))


class Comparison:
    """Maps, masks, targets and mixtures of a drawn split under one recipe after the other."""

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
                [preset.saliency_method for preset in self.presets.values()]
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
        """How many images `make` tells its `advance` of."""
        return len(self.rows) * (len(self.methods) * (1 + len(REFINEMENTS)) + 1) + len(
            self.mixed_rows
        ) * len(PRESETS)

    def make(self, classifier: Classifier | None, advance: Callable[[int], None]) -> None:
        """Makes `maps`, by method, and the columns `masks`, `targets` and `mixtures`; `advance(n)`
        is told of n more images.
        """
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

    def true_mask(self, row: int, aspect: float | None = None) -> np.ndarray:
        """The true foreground, bool (size, size), in the geometry of a source or, with the source's
        `aspect`, of its target.
        """
        mask = self.split.true_masks[row]
        if aspect is not None:
            mask = mask.crop(aspect_box(*mask.size, aspect))
        return self._square(mask, Image.Resampling.NEAREST) > 0

    def _square(self, image: Image.Image, resample=Image.Resampling.BICUBIC) -> np.ndarray:
        return np.asarray(square(image, self.settings.resolution, self.settings.resize, resample))

    def _maps(
        self, method: str, classifier: Classifier | None, advance: Callable[[int], None]
    ) -> RowValues:
        """Maps of all rows, zeros where there is none."""
        settings, blocks, unusable = recipe(self.settings, saliency_method=method), [], {}
        source = load_source(settings, classifier)
        for start in range(0, len(self.rows), BATCH):
            values, reasons = block_maps(
                settings, self.split, self.rows[start : start + BATCH], source
            )
            blocks.append(values)
            unusable |= {int(row): reason for row, reason in reasons.items()}
            advance(len(values))
        return RowValues(self.rows, np.concatenate(blocks), unusable)

    def _presets_like(self, settings: AugmentSettings, *names: str) -> list[str]:
        def choice(of: AugmentSettings) -> list:
            return [getattr(of, name) for name in names]

        return [name for name, preset in self.presets.items() if choice(preset) == choice(settings)]

    def _mask_column(
        self, method: str, refinement: str, advance: Callable[[int], None]
    ) -> MaskColumn:
        settings = recipe(self.settings, saliency_method=method, mask_refinement=refinement)
        presets = self._presets_like(settings, "saliency_method", "mask_refinement")
        settings = (
            self.presets[presets[0]] if presets else settings
        )  # with all else that the preset says about masks
        masks = []
        for row in self.rows:
            try:
                masks.append(foreground_mask(self.pixels[row], self.maps[method][row], settings))
            except UnusableRow:  # shown, and counted, as an empty mask
                masks.append(np.zeros(self.pixels[row].shape[:2], bool))
            advance(1)
        return MaskColumn(settings, presets, RowValues(self.rows, np.stack(masks)))

    def _target_column(
        self, settings: AugmentSettings, advance: Callable[[int], None]
    ) -> TargetColumn:
        maps, backgrounds = self.maps[settings.saliency_method], None
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
        """Columns that share a preset's targets and masks and differ in how they are mixed."""
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
                    self.true_mask(row.target_index, aspect)[None],
                )
                column.figures[row.source_index] = MixtureFigures(
                    float(leak(mixture.shown[None], true_target)[0]),
                    float(foreground_kept(mixture.kept[None], true_source)[0]),
                    float(background_from_target(mixture.kept[None], true_source)[0]),
                )

    def _masked(
        self, preset: AugmentSettings, row: int, aspect: float | None = None
    ) -> MaskedImage:
        """An image with its mask under a preset; made anew only where the crop to `aspect` takes
        something away.
        """
        image = self.split.images[row]
        if aspect is None or aspect_box(*image.size, aspect) == (0, 0, *image.size):
            masks = next(column.masks for column in self.masks if preset.preset in column.presets)
            return MaskedImage(self.pixels[row], masks[row], image.width / image.height)
        return Mixer(preset).mask(image, self.maps[preset.saliency_method][row], aspect)
