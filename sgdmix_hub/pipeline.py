"""SGDMixPipeline: the stages in order: saliency maps -> masks -> mixture -> refinement.

    pipeline = SGDMixPipeline.from_pretrained("org/cub-adapter", preset="recommended", strength=0.5)
    refined = pipeline(images, targets, labels, seeds=[0, 1])

A generation calls its stages with the maps and targets that its plan holds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .adapters import check_base, read_adapter
from .cam import CamSaliency
from .config import MethodSettings, apply_preset
from .data import aspect_box, square
from .errors import UnusableRow, UserError
from .masks import foreground_mask
from .mixing import compose, inpaint, inpainting_hole, kept_mask
from .pins import resolve
from .presets import CAM_METHODS
from .saliency import model_free_map

if TYPE_CHECKING:
    from .refine import Refiner


@dataclass(frozen=True)
class MaskedImage:
    """One image at the resolution of the run with its foreground mask: uint8 (size, size, 3) and bool (size, size); `aspect` is the
    width over the height that it was stored with."""

    pixels: np.ndarray
    mask: np.ndarray
    aspect: float


@dataclass(frozen=True)
class Mixture:
    """What mixing one row gives, bool and uint8 at (size, size): `kept` is what comes from the source, `hole` what was inpainted in the
    target, `background` the target with the hole filled, `mixed` the result.
    """

    source: MaskedImage
    target: MaskedImage
    kept: np.ndarray
    hole: np.ndarray
    background: np.ndarray
    mixed: np.ndarray

    @property
    def foreground_area(self) -> float:
        """Share of the pixels that were kept from the source."""
        return float(self.kept.mean())

    @property
    def shown(self) -> np.ndarray:
        """The pixels that show the target as it is, bool (size, size)."""
        return ~self.kept & ~self.hole


class SGDMixPipeline:
    """SGD-Mix on images. Without a refiner (strength 0) it mixes alone; a CAM is there for `saliency_maps` and whole calls."""

    def __init__(self, settings: MethodSettings, refiner: Refiner | None, cam: CamSaliency | None = None):
        """`settings` with its preset applied."""
        self.settings = settings
        self.refiner = refiner
        self.cam = cam

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | None = None,
        *,
        pretrained_model_name_or_path: str | None = None,
        classifier: str | None = None,
        device: str | torch.device | None = None,
        **method,
    ) -> SGDMixPipeline:
        """A pipeline of its own. `adapter`, its base model (by default the one it was trained on) and the `classifier` that a CAM looks
        through are `org/name`, `org/name@revision` or local folders; `method` are fields of `MethodSettings`. Raises `UserError`.
        """
        settings = apply_preset(MethodSettings(**method))
        settings.validate()
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        refiner = cam = None
        if settings.refines:
            if adapter is None:
                raise UserError("strength > 0 needs an adapter; strength=0 mixes without one")
            learned = read_adapter(resolve(adapter))
            base = resolve(pretrained_model_name_or_path or learned.facts["base"])
            check_base(learned, base)
            from .refine import Refiner  # seconds of the start of a program that mixes alone

            refiner = Refiner(base, learned, learned.prompt, settings, device)
        if settings.saliency_method in CAM_METHODS:
            if classifier is None:
                raise UserError(f"{settings.saliency_method} needs a classifier")
            from .classifiers import Classifier  # a second of the start of a program that needs none

            network = Classifier(resolve(classifier), device)
            cam = CamSaliency(network, settings.saliency_method, settings.saliency_layer, settings.saliency_input_size)
        return cls(settings, refiner, cam)

    def __call__(
        self,
        images: list[Image.Image],
        targets: list[Image.Image],
        labels: list[int],
        *,
        seeds: list[int],
        target_labels: list[int] | None = None,
        strength: float | None = None,
    ) -> list[Image.Image | None]:
        """Every image on the background of its target, refined: RGB, resolution x resolution, with the image's label; None, with a
        warning that says why, for one that must not be used.

        `labels` and, where a CAM makes the maps or prompts name the target's class, `target_labels` are class numbers of the adapter and
        the classifier; `seeds` are of the noise, an image's own; `strength` has to be chosen where the settings name several. Raises
        `ValueError`.
        """
        if strength is None and len(self.settings.strength) > 1:
            raise ValueError(f"choose a strength of {self.settings.strength}")
        if self.cam is not None and target_labels is None:
            raise ValueError("the classifier's maps of the targets need target_labels")
        named = target_labels if self.settings.prompt_class == "target" else labels
        if named is None:
            raise ValueError("prompt_class target needs target_labels")
        strength = self.settings.strength[0] if strength is None else strength
        source_maps, target_maps = self.saliency_maps(images, labels), self.saliency_maps(targets, target_labels)
        outcomes: list[Mixture | np.ndarray | str] = []
        for image, target, *maps in zip(images, targets, source_maps, target_maps, strict=True):
            try:
                source = self.mask(image.convert("RGB"), maps[0])
                outcomes.append(self.mix(source, self.mask(target.convert("RGB"), maps[1], self.target_aspect(source))))
            except UnusableRow as reason:
                outcomes.append(str(reason))
        rows = [row for row, outcome in enumerate(outcomes) if isinstance(outcome, Mixture)]
        for start in range(0, len(rows), self.settings.batch_size):
            batch = rows[start : start + self.settings.batch_size]
            chosen = [[values[row] for row in batch] for values in (outcomes, named, seeds)]
            for row, outcome in zip(batch, self.finish(*chosen, strength), strict=True):
                outcomes[row] = outcome
        for row, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                warnings.warn(f"image {row}: {outcome}", stacklevel=2)
        return [None if isinstance(outcome, str) else Image.fromarray(outcome) for outcome in outcomes]

    def saliency_maps(self, images: list[Image.Image], labels: list[int] | None = None) -> np.ndarray:
        """float16 (n, 64, 64) in [0, 1] of images of any size; `labels` are what a CAM looks for. Raises `ValueError`."""
        images = [image.convert("RGB") for image in images]
        if self.cam is not None:
            return self.cam.image_maps(images, labels, self.settings.resize).astype(np.float16)
        if self.settings.saliency_method == "mask-column":
            raise ValueError("saliency_method mask-column reads a dataset's masks: give maps to `mask` instead")
        return np.stack([model_free_map(image, self.settings) for image in images]).astype(np.float16)

    def mask(self, image: Image.Image, saliency_map: np.ndarray, aspect: float | None = None) -> MaskedImage:
        """An RGB image of any size and its (64, 64) saliency map -> the image at the run's resolution with its mask.

        With `aspect` (width over height) image and map are first cropped to it, in the middle: the target's geometry, so that stretching
        it with its source distorts both alike.
        """
        stored = image.width / image.height
        if aspect is not None:
            image, saliency_map = crop_to_aspect(image, saliency_map, aspect)
        pixels = np.asarray(square(image, self.settings.resolution, self.settings.resize))
        return MaskedImage(pixels, foreground_mask(pixels, saliency_map, self.settings), stored)

    def target_aspect(self, source: MaskedImage) -> float | None:
        """The aspect ratio that a source's target is cropped to; None where it is left whole."""
        crop = self.settings.crop_target and self.settings.resize == "stretch"  # center-crop has made every image square before
        return source.aspect if crop else None

    def mix(self, source: MaskedImage, target: MaskedImage) -> Mixture:
        """Mixes two images. Raises `UnusableRow` when the source has no foreground."""
        method = self.settings.mixing_method
        if not source.mask.any() and method != "none":
            raise UnusableRow("empty mask: the saliency map has no foreground")
        kept = kept_mask(source.mask, target.mask, method)
        hole, background = np.zeros_like(kept), target.pixels
        if method == "inpaint":
            hole = inpainting_hole(target.mask)
            background = inpaint(target.pixels, hole)
        return Mixture(source, target, kept, hole, background, compose(source.pixels, background, kept, self.settings.feather))

    def inpaint(self, mixtures: list[Mixture], seeds: list[int]) -> list[Mixture | str]:
        """The mixtures (at most a batch) with what `inpainting_method` puts into their targets' holes, or the reason why one is
        unusable."""
        if self.settings.inpainting_method == "opencv":
            return mixtures
        images, holes = (np.stack([getattr(mixture, name) for mixture in mixtures]) for name in ("background", "hole"))
        filled = self.refiner.inpaint(images, holes, seeds)
        return [self._with_hole_filled(*row) for row in zip(mixtures, filled, strict=True)]

    def _with_hole_filled(self, mixture: Mixture, filled: np.ndarray | str) -> Mixture | str:
        if not mixture.hole.any():
            return mixture
        if isinstance(filled, str):
            return f"inpainting: {filled}"
        feather = self.settings.feather
        background = compose(filled, mixture.background, mixture.hole, feather)
        return replace(mixture, background=background, mixed=compose(mixture.source.pixels, background, mixture.kept, feather))

    def finish(self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float) -> list[np.ndarray | str]:
        """For each mixture (at most a batch) what inpainting and refinement make of it, uint8 (size, size, 3), or why it is unusable."""
        filled = self.inpaint(mixtures, seeds)
        usable = [row for row, mixture in enumerate(filled) if not isinstance(mixture, str)]
        refined = self.refine(*([values[row] for row in usable] for values in (filled, labels, seeds)), strength)
        finished: list[np.ndarray | str] = list(filled)
        for row, image in zip(usable, refined, strict=True):
            finished[row] = image
        return finished

    def refine(self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float) -> list[np.ndarray | str]:
        """For each mixture (at most a batch) the finished image, uint8 (size, size, 3), or the reason why it is unusable."""
        if strength == 0 or not mixtures:
            return [mixture.mixed for mixture in mixtures]
        mixed = np.stack([mixture.mixed for mixture in mixtures])
        foregrounds = np.stack([mixture.source.mask for mixture in mixtures])
        refined = self.refiner.refine(mixed, foregrounds, labels, seeds, strength)
        return [self._finish(mixture, image) for mixture, image in zip(mixtures, refined, strict=True)]

    def _finish(self, mixture: Mixture, refined: np.ndarray | str) -> np.ndarray | str:
        if isinstance(refined, str) or not self.settings.paste_foreground:
            return refined
        return compose(mixture.source.pixels, refined, mixture.source.mask, self.settings.feather)


def crop_to_aspect(image: Image.Image, saliency_map: np.ndarray, aspect: float) -> tuple[Image.Image, np.ndarray]:
    """Image and map, which covers the whole image, cut by one box to `aspect` (width over height)."""
    left, top, right, bottom = box = aspect_box(image.width, image.height, aspect)
    size = saliency_map.shape[0]
    across, down = size / image.width, size / image.height
    map_box = (left * across, top * down, right * across, bottom * down)
    cut = Image.fromarray(np.asarray(saliency_map, np.float32)).resize((size, size), Image.Resampling.BILINEAR, box=map_box)
    return image.crop(box), np.asarray(cut)
