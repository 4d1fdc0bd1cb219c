"""The stages of SGD-Mix on images: saliency maps -> masks -> mixture -> refinement.

A generation calls the later ones with the maps and targets of its plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sgdmix_hub.method.mixer import Mixer, Mixture, unmixed
from sgdmix_hub.method.mixing import compose
from sgdmix_hub.method.outlines import narrow
from sgdmix_hub.method.saliency.sources import Found, Source, load_source
from sgdmix_hub.models.noise import Noise, seed_of_noise
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.reasons import distrust

from .errors import Unusable, UnusableRow, among_usable, attempt, one_row
from .seeds import inpainting_seed

if TYPE_CHECKING:
    from sgdmix_hub.models.refine import Refiner

ImageAndFound = tuple[Image.Image, Found]


@dataclass(frozen=True)
class Finished:
    """A finished image, uint8 (h, w, 3), and the mixture that it was refined from."""

    image: np.ndarray
    mixture: Mixture


class Stages:
    """The stages under settings with their preset applied. Without a refiner they mix alone."""

    def __init__(
        self,
        settings: MethodSettings,
        refiner: Refiner | None = None,
        source: Source | None = None,
    ):
        """`source`: makes the maps; may be left out for a method that needs no model."""
        self.settings = settings
        self.mixer = Mixer(settings)
        self.refiner = refiner
        self.source = source

    def mixtures(
        self,
        images: list[Image.Image],
        targets: list[Image.Image],
        labels: list[int],
        target_labels: list[int] | None = None,
    ) -> list[Mixture | Unusable]:
        """Every image mixed with its target, or why it cannot be used. Raises `ValueError`."""
        source = self.source or load_source(self.settings)
        return self.mixed(
            with_maps(source, images, labels), with_maps(source, targets, target_labels)
        )

    def mixed(
        self, images: list[ImageAndFound | Unusable], targets: list[ImageAndFound | Unusable]
    ) -> list[Mixture | Unusable]:
        """`mixtures` of images with what the saliency source found in them."""
        return [attempt(self._mixture, *pair) for pair in zip(images, targets, strict=True)]

    def _mixture(
        self, source: ImageAndFound | Unusable, target: ImageAndFound | Unusable
    ) -> Mixture:
        if isinstance(source, Unusable):
            raise UnusableRow(source.reason)
        if isinstance(target, Unusable):
            raise UnusableRow(target.reason)
        (image, found), (target_image, target_found) = source, target
        masked = self.mixer.mask(image, found.map, None, None, found.mask)
        for name, one in (("", found), (" of the target", target_found)):
            reason = distrust(one.confidence, self.settings.min_mask_confidence, name)
            if reason is None:
                continue
            if self.settings.low_confidence == "keep-unmixed":
                return unmixed(masked)
            raise UnusableRow(reason)
        aspect = self.mixer.target_aspect(masked)
        masked_target = self.mixer.mask(
            target_image, target_found.map, aspect, None, target_found.mask, masked.frame
        )
        return self.mixer.mix(masked, masked_target)

    def inpaint(self, mixtures: list[Mixture], noise: Sequence[Noise]) -> list[Mixture | Unusable]:
        """The mixtures (at most a batch) after `inpainting_method` has filled their holes."""
        if self.settings.inpainting_method == "opencv":
            return list(mixtures)  # `Mixer.mix` has filled them
        assert self.refiner is not None, "settings of a pipeline without a refiner name opencv"
        images = np.stack([mixture.background for mixture in mixtures])
        holes = np.stack([mixture.hole for mixture in mixtures])
        seeds = [inpainting_seed(seed_of_noise(row)) for row in noise]
        filled = self.refiner.inpaint(images, holes, seeds)
        return [self._with_hole_filled(*row) for row in zip(mixtures, filled, strict=True)]

    def _with_hole_filled(
        self, mixture: Mixture, filled: np.ndarray | Unusable
    ) -> Mixture | Unusable:
        if not mixture.hole.any():
            return mixture
        if isinstance(filled, Unusable):
            return Unusable(f"inpainting: {filled.reason}")
        feather = self.mixer.feather
        background = compose(filled, mixture.background, mixture.hole, feather)
        mixed = compose(mixture.source.pixels, background, mixture.kept, feather)
        return replace(mixture, background=background, mixed=mixed)

    def finish(
        self,
        mixtures: list[Mixture],
        prompts: list[RowPrompt],
        noise: Sequence[Noise],
        strength: float,
    ) -> list[Finished | Unusable]:
        """The mixtures of at most a batch, their holes filled, with their refined images.

        Mixtures of several frames are refined frame by frame.
        """
        frames = dict.fromkeys(mixture.source.frame for mixture in mixtures)
        if len(frames) > 1:
            all_finished: dict[int, Finished | Unusable] = {}
            for frame in frames:
                alike = [row for row, one in enumerate(mixtures) if one.source.frame == frame]
                made = self.finish(*at(alike, mixtures, prompts, noise), strength)
                all_finished |= dict(zip(alike, made, strict=True))
            return [all_finished[row] for row in range(len(mixtures))]

        def finished(rows: list[int], filled: list[Mixture]) -> list[Finished | Unusable]:
            refined = self.refine(filled, *at(rows, prompts, noise), strength)
            return [
                image if isinstance(image, Unusable) else Finished(image, mixture)
                for image, mixture in zip(refined, filled, strict=True)
            ]

        return among_usable(self.inpaint(mixtures, noise), finished)

    def sigma_start(self, strength: float, size: tuple[int, int] | None = None) -> float:
        """The noise level, in [0, 1], that refinement starts from; 0 without refinement.

        `size`: height and width of the image; of the settings if not given.
        """
        if strength == 0:
            return 0.0
        assert self.refiner is not None, "a strength above 0 needs a refiner"
        return self.refiner.levels.sigma_start(strength, size)

    def num_steps(self, strength: float, size: tuple[int, int] | None = None) -> int:
        """How many diffusion steps refinement runs; `size` as in `sigma_start`."""
        if strength == 0:
            return 0
        assert self.refiner is not None, "a strength above 0 needs a refiner"
        return self.refiner.levels.steps(strength, size)

    def effective_strength(self, strength: float, size: tuple[int, int] | None = None) -> float:
        """The share of the diffusion steps that refinement runs; `size` as in `sigma_start`."""
        return self.num_steps(strength, size) / self.settings.num_inference_steps

    def refine(
        self,
        mixtures: list[Mixture],
        prompts: list[RowPrompt],
        noise: Sequence[Noise],
        strength: float,
    ) -> list[np.ndarray | Unusable]:
        """The refined images of at most a batch, uint8 (h, w, 3)."""
        if strength == 0 or not mixtures:
            return [mixture.mixed for mixture in mixtures]
        if any(mixture.is_source for mixture in mixtures):
            rows = [row for row, mixture in enumerate(mixtures) if not mixture.is_source]
            refined = iter(self.refine(*at(rows, mixtures, prompts, noise), strength))
            return [m.mixed if m.is_source else next(refined) for m in mixtures]
        assert self.refiner is not None, "a strength above 0 needs a refiner"
        mixed = np.stack([mixture.mixed for mixture in mixtures])
        foregrounds = np.stack([self.kept_part(mixture) for mixture in mixtures])
        refined = self.refiner.refine(mixed, foregrounds, prompts, noise, strength)
        return [self._pasted(*row) for row in zip(mixtures, refined, strict=True)]

    def _pasted(self, mixture: Mixture, refined: np.ndarray | Unusable) -> np.ndarray | Unusable:
        """The refined image, with the source's foreground on it if `paste_foreground` is set."""
        if isinstance(refined, Unusable) or not self.settings.paste_foreground:
            return refined
        kept = self.kept_part(mixture)
        return compose(mixture.source.pixels, refined, kept, self.mixer.feather)

    def kept_part(self, mixture: Mixture) -> np.ndarray:
        """What refinement keeps of the source, bool (h, w): its foreground, without a ring along
        its edge if `kept_erosion` is set.
        """
        mask, ring = mixture.source.mask, self.settings.kept_erosion
        return mask if ring is None else narrow(mask, ring)


def with_maps(
    source: Source, images: list[Image.Image], labels: list[int] | None
) -> list[ImageAndFound | Unusable]:
    """The images, RGB, with what the source finds in them."""

    def find(rows: list[int], readable: list[Image.Image]) -> list[ImageAndFound | Unusable]:
        known = None if labels is None else [labels[row] for row in rows]
        found = source.found(readable, known, None)
        return [
            outcome if isinstance(outcome, Unusable) else (image, outcome)
            for image, outcome in zip(readable, found, strict=True)
        ]

    return among_usable([attempt(_rgb, image) for image in images], find)


@one_row("corrupt image")
def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def at(rows: list[int], *columns: Sequence) -> list[list]:
    """The values of some rows, from each of the columns."""
    return [[column[row] for row in rows] for column in columns]
