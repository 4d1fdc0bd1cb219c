"""SGDMixPipeline: the stages in order: saliency maps -> masks -> mixture -> refinement.

    pipeline = SGDMixPipeline.from_pretrained("org/cub-adapter", preset="recommended", strength=0.5)
    refined = pipeline(images, targets, labels, seeds=[0, 1])

A generation calls its stages with the maps and targets that its plan holds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from sgdmix_hub.data.images import aspect_box, square
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.method.masks import foreground_mask, share_of
from sgdmix_hub.method.mixing import compose, inpaint, inpainting_hole, kept_mask
from sgdmix_hub.method.saliency.cam import CamSaliency
from sgdmix_hub.method.saliency.model_free import model_free_map
from sgdmix_hub.models.adapters import check_base, read_adapter
from sgdmix_hub.models.prompts import name_prompt
from sgdmix_hub.settings.method import CAM_METHODS, NAME_PROMPT, MethodSettings, apply_preset

from .errors import UnusableRow, UserError, one_row, shown
from .seeds import inpainting_seed

if TYPE_CHECKING:
    from sgdmix_hub.models.refine import Refiner


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskedImage:
    """One image at the resolution of the run with its foreground mask: uint8 (size, size, 3) and
    bool (size, size); `aspect` is the width over the height that it was stored with.
    """

    pixels: np.ndarray
    mask: np.ndarray
    aspect: float


@dataclass(frozen=True)
class Mixture:
    """What mixing one row gives, bool and uint8 at (size, size): `kept` is what comes from the
    source, `hole` what was inpainted in the target, `background` the target with the hole filled,
    `mixed` the result.
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
    """SGD-Mix on images. Without a refiner (strength 0) it mixes alone; a CAM is there for
    `saliency_maps` and whole calls.
    """

    def __init__(
        self,
        settings: MethodSettings,
        refiner: Refiner | None,
        cam: CamSaliency | None = None,
        pins: dict[str, str] | None = None,
        class_names: list[str] | None = None,
    ):
        """`settings` with its preset applied; `pins`: which adapter, base and classifier were
        loaded, as `Inputs.pins` has them; `class_names`: whose prompts the refiner knows.
        """
        self.settings = settings
        self.refiner = refiner
        self.cam = cam
        self.pins = pins
        self.class_names = class_names

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | None = None,
        *,
        pretrained_model_name_or_path: str | None = None,
        class_names: list[str] | None = None,
        classifier: str | None = None,
        device: str | torch.device | None = None,
        **method,
    ) -> SGDMixPipeline:
        """A pipeline of its own. `adapter`, its base model (by default the one it was trained on)
        and the `classifier` that a CAM looks through are `org/name`, `org/name@revision` or local
        folders; a base model without an adapter is told `class_names`, in the order of the labels;
        `method` are fields of `MethodSettings`, `dtype` also as `torch_dtype`. Raises `UserError`.
        """
        settings = apply_preset(MethodSettings(**named_settings(method)))
        settings.validate()
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        refiner = cam = None
        pins: dict[str, Pin] = {}
        if settings.saliency_method in CAM_METHODS and classifier is None:
            raise UserError(
                f"{settings.saliency_method} needs a classifier: give classifier='org/name' or a folder"
            )
        if settings.refines:
            refiner, pins = loaded_refiner(
                settings, adapter, pretrained_model_name_or_path, class_names, device
            )
            class_names = class_names if refiner.adapter is None else refiner.adapter.class_names
        if settings.saliency_method in CAM_METHODS:
            from sgdmix_hub.models.classifier import (
                Classifier,
            )  # a second of the start of a program that needs none

            pins["classifier"] = resolve(classifier)
            network = Classifier(pins["classifier"], device)
            cam = CamSaliency(
                network,
                settings.saliency_method,
                settings.saliency_layer,
                settings.saliency_input_size,
            )
        return cls(
            settings, refiner, cam, {name: str(pin) for name, pin in pins.items()}, class_names
        )

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
        """Every image on the background of its target, refined: RGB, resolution x resolution, with
        the image's label; None, with a warning that says why, for one that must not be used.

        `labels` and, where a CAM makes the maps or prompts name the target's class, `target_labels`
        are class numbers of the adapter and the classifier; `seeds` are of the noise, an image's
        own; `strength` has to be chosen where the settings name several. Raises `ValueError`.
        """
        if strength is None and len(self.settings.strength) > 1:
            raise ValueError(f"choose a strength of {self.settings.strength}")
        if self.cam is not None and target_labels is None:
            raise ValueError("the classifier's maps of the targets need target_labels")
        named = target_labels if self.settings.prompt_class == "target" else labels
        if named is None:
            raise ValueError("prompt_class target needs target_labels")
        strength = self.settings.strength[0] if strength is None else strength
        sources, others = self._with_maps(images, labels), self._with_maps(targets, target_labels)
        outcomes: list[Mixture | np.ndarray | str] = []
        for source, target in zip(sources, others, strict=True):
            try:
                outcomes.append(self._mixture(source, target))
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
                logger.warning(f"image {row}: {outcome}")
        return [
            None if isinstance(outcome, str) else Image.fromarray(outcome) for outcome in outcomes
        ]

    def _mixture(
        self,
        source: tuple[Image.Image, np.ndarray] | str,
        target: tuple[Image.Image, np.ndarray] | str,
    ) -> Mixture:
        for found in (source, target):
            if isinstance(found, str):
                raise UnusableRow(found)
        masked = self.mask(*source)
        return self.mix(masked, self.mask(*target, self.target_aspect(masked)))

    def _with_maps(
        self, images: list[Image.Image], labels: list[int] | None
    ) -> list[tuple[Image.Image, np.ndarray] | str]:
        """Every image, RGB, with its saliency map, or the reason why it has none."""
        size = (
            len(images) if self.cam is not None else 1
        )  # a classifier looks at batches; without one an image's failure is its own
        found: list[tuple[Image.Image, np.ndarray] | str] = list(map(_rgb_or_reason, images))
        usable = [position for position, image in enumerate(found) if not isinstance(image, str)]
        for chosen in (usable[start : start + size] for start in range(0, len(usable), size)):
            try:
                named = None if labels is None else [labels[position] for position in chosen]
                maps = self.saliency_maps([found[position] for position in chosen], named)
                for position, saliency_map in zip(chosen, maps, strict=True):
                    found[position] = (found[position], saliency_map)
            except UnusableRow as reason:
                for position in chosen:
                    found[position] = str(reason)
        return found

    def saliency_maps(
        self, images: list[Image.Image], labels: list[int] | None = None
    ) -> np.ndarray:
        """float16 (n, 64, 64) in [0, 1] of images of any size; `labels` are what a CAM looks for.
        Raises `ValueError`.
        """
        images = [image.convert("RGB") for image in images]
        if self.cam is not None:
            return self.cam.image_maps(images, labels, self.settings.resize).astype(np.float16)
        if self.settings.saliency_method == "mask-column":
            raise ValueError(
                "saliency_method mask-column reads a dataset's masks: give maps and masks to `mask` instead"
            )
        return np.stack([model_free_map(image, self.settings) for image in images]).astype(
            np.float16
        )

    @one_row("mask")
    def mask(
        self,
        image: Image.Image,
        saliency_map: np.ndarray,
        aspect: float | None = None,
        stored_mask: Image.Image | None = None,
    ) -> MaskedImage:
        """An RGB image of any size and its (64, 64) saliency map -> the image at the run's
        resolution with its mask, which is cut from `stored_mask`, a mask that the dataset brings,
        where there is one. Raises `UnusableRow`.

        With `aspect` (width over height) all are first cropped to it, in the middle: the target's
        geometry, so that stretching it with its source distorts both alike.
        """
        resolution, resize = self.settings.resolution, self.settings.resize
        width, height = image.size
        box = None if aspect is None else aspect_box(width, height, aspect)
        share = (
            None
            if stored_mask is None
            else share_of(stored_mask, image.size, box, resolution, resize)
        )
        if aspect is not None:
            image, saliency_map = crop_to_aspect(image, saliency_map, aspect)
        pixels = np.asarray(square(image, resolution, resize))
        return MaskedImage(
            pixels, foreground_mask(pixels, saliency_map, self.settings, share), width / height
        )

    def target_aspect(self, source: MaskedImage) -> float | None:
        """The aspect ratio that a source's target is cropped to; None where it is left whole."""
        crop = (
            self.settings.crop_target and self.settings.resize == "stretch"
        )  # center-crop has made every image square before
        return source.aspect if crop else None

    @one_row("mixing")
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
        return Mixture(
            source,
            target,
            kept,
            hole,
            background,
            compose(source.pixels, background, kept, self.settings.feather),
        )

    def inpaint(self, mixtures: list[Mixture], seeds: list[int]) -> list[Mixture | str]:
        """The mixtures (at most a batch) with what `inpainting_method` puts into their targets'
        holes, or the reason why one is unusable.
        """
        if self.settings.inpainting_method == "opencv":
            return mixtures
        images, holes = (
            np.stack([getattr(mixture, name) for mixture in mixtures])
            for name in ("background", "hole")
        )
        filled = self.refiner.inpaint(images, holes, [inpainting_seed(seed) for seed in seeds])
        return [self._with_hole_filled(*row) for row in zip(mixtures, filled, strict=True)]

    def _with_hole_filled(self, mixture: Mixture, filled: np.ndarray | str) -> Mixture | str:
        if not mixture.hole.any():
            return mixture
        if isinstance(filled, str):
            return f"inpainting: {filled}"
        feather = self.settings.feather
        background = compose(filled, mixture.background, mixture.hole, feather)
        return replace(
            mixture,
            background=background,
            mixed=compose(mixture.source.pixels, background, mixture.kept, feather),
        )

    def finish(
        self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float
    ) -> list[np.ndarray | str]:
        """For each mixture (at most a batch) what inpainting and refinement make of it, uint8
        (size, size, 3), or why it is unusable.
        """
        filled = self.inpaint(mixtures, seeds)
        usable = [row for row, mixture in enumerate(filled) if not isinstance(mixture, str)]
        refined = self.refine(
            *([values[row] for row in usable] for values in (filled, labels, seeds)), strength
        )
        finished: list[np.ndarray | str] = list(filled)
        for row, image in zip(usable, refined, strict=True):
            finished[row] = image
        return finished

    def refine(
        self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float
    ) -> list[np.ndarray | str]:
        """For each mixture (at most a batch) the finished image, uint8 (size, size, 3), or the
        reason why it is unusable.
        """
        if strength == 0 or not mixtures:
            return [mixture.mixed for mixture in mixtures]
        mixed = np.stack([mixture.mixed for mixture in mixtures])
        foregrounds = np.stack([mixture.source.mask for mixture in mixtures])
        refined = self.refiner.refine(mixed, foregrounds, labels, seeds, strength)
        return [
            self._finish(mixture, image) for mixture, image in zip(mixtures, refined, strict=True)
        ]

    def _finish(self, mixture: Mixture, refined: np.ndarray | str) -> np.ndarray | str:
        if isinstance(refined, str) or not self.settings.paste_foreground:
            return refined
        return compose(mixture.source.pixels, refined, mixture.source.mask, self.settings.feather)


def loaded_refiner(
    settings: MethodSettings,
    adapter: str | None,
    base_model: str | None,
    class_names: list[str] | None,
    device: torch.device,
) -> tuple[Refiner, dict[str, Pin]]:
    """The diffusion model with its adapter, or alone and told the classes' names, and which they
    are. Raises `UserError`.
    """
    from sgdmix_hub.models.refine import (
        Refiner,
    )  # seconds of the start of a program that mixes alone

    if adapter is not None:
        pins = {"adapter": resolve(adapter)}
        learned = read_adapter(pins["adapter"])
        base = resolve(base_model or learned.facts["base"])
        check_base(learned, base)
        return Refiner(base, learned, learned.prompt, settings, device), pins | {
            "pretrained_model_name_or_path": base
        }
    if base_model is None or class_names is None:
        raise UserError(
            "strength > 0 needs an adapter, or pretrained_model_name_or_path with class_names; strength=0 mixes without one"
        )
    if settings.inpainting_method == "diffusion":
        raise UserError(
            "inpainting_method diffusion needs an adapter, which knows the metaclass that a hole must not show"
        )
    base = resolve(base_model)
    refiner = Refiner(
        base, None, lambda label: name_prompt(class_names[label], NAME_PROMPT), settings, device
    )
    return refiner, {"pretrained_model_name_or_path": base}


def named_settings(method: dict) -> dict:
    """Keyword arguments as fields of `MethodSettings`. Raises `UserError` on one that is none, or
    is given by two names.
    """
    if {"dtype", "torch_dtype"} <= method.keys():
        raise UserError("dtype and torch_dtype are two names of one setting: give one")
    named = {"dtype" if name == "torch_dtype" else name: value for name, value in method.items()}
    unknown = named.keys() - {field.name for field in fields(MethodSettings)}
    if unknown:
        raise UserError(f"no such setting: {shown(min(unknown))}")
    return named


def _rgb_or_reason(image: Image.Image) -> Image.Image | str:
    try:
        with one_row("corrupt image"):
            return image.convert("RGB")
    except UnusableRow as reason:
        return str(reason)


def crop_to_aspect(
    image: Image.Image, saliency_map: np.ndarray, aspect: float
) -> tuple[Image.Image, np.ndarray]:
    """Image and map, which covers the whole image, cut by one box to `aspect` (width over height)."""
    left, top, right, bottom = box = aspect_box(image.width, image.height, aspect)
    size = saliency_map.shape[0]
    across, down = size / image.width, size / image.height
    map_box = (left * across, top * down, right * across, bottom * down)
    cut = Image.fromarray(np.asarray(saliency_map, np.float32)).resize(
        (size, size), Image.Resampling.BILINEAR, box=map_box
    )
    return image.crop(box), np.asarray(cut)
