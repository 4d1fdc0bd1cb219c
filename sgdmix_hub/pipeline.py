"""SGDMixPipeline: the stages in order: saliency maps -> masks -> mixture -> refinement.

    pipeline = SGDMixPipeline.from_pretrained("org/cub-adapter", preset="recommended", strength=0.5)
    refined = pipeline(images, targets, labels, seeds=[0, 1])

A generation calls the later stages with the maps and targets of its plan.
"""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.method.mixer import Mixer, Mixture, unmixed
from sgdmix_hub.method.mixing import compose
from sgdmix_hub.method.saliency.segmentation import MaskFunction, MaskFunctionSource
from sgdmix_hub.method.saliency.sources import Found, Source, load_source
from sgdmix_hub.models.adapters import check_base, check_family
from sgdmix_hub.models.bases.supported import check_supported
from sgdmix_hub.models.loading import (
    Diffusion,
    SegmenterPins,
    class_prompt,
    load_classifier,
    load_refiner,
    load_segmenter,
    pin_diffusion,
)
from sgdmix_hub.settings.generation import check_base_alone, check_few_step
from sgdmix_hub.settings.method import (
    NAME_PROMPT,
    MethodSettings,
    apply_preset,
    saliency_source,
    sought_words,
)
from sgdmix_hub.settings.saliency import distrust

from .errors import Unusable, UnusableRow, UserError, among_usable, attempt, one_row, shown
from .seeds import inpainting_seed

if TYPE_CHECKING:
    from sgdmix_hub.models.refine import Refiner


logger = logging.getLogger(__name__)
ImageAndFound = tuple[Image.Image, Found]


class SGDMixPipeline:
    """SGD-Mix on images. Without a refiner it mixes alone, which is strength 0."""

    def __init__(
        self,
        settings: MethodSettings,
        refiner: Refiner | None = None,
        source: Source | None = None,
        pins: dict[str, str] | None = None,
        class_names: list[str] | None = None,
        prompt_template: str = NAME_PROMPT,
    ):
        """`settings`: with their preset applied.

        `source`: makes the maps of a whole call; may be left out for a method that needs no model.
        `pins`: the adapter, base and classifier that were loaded, as in `Inputs.pins`.
        `class_names`: the classes that the models know, if there are models. `prompt_template`: of
        a base model without an adapter.
        """
        self.settings = settings
        self.mixer = Mixer(settings)
        self.refiner = refiner
        self.source = source
        self.pins = pins
        self.class_names = class_names
        self.prompt_template = prompt_template

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | None = None,
        *,
        pretrained_model_name_or_path: str | None = None,
        few_step_lora: str | None = None,
        class_names: list[str] | None = None,
        prompt_template: str = NAME_PROMPT,
        classifier: str | None = None,
        segmenter: str | None = None,
        detector: str | None = None,
        mask_function: MaskFunction | None = None,
        device: str | torch.device | None = None,
        **method: Any,
    ) -> SGDMixPipeline:
        """Loads a pipeline. Models are `org/name`, `org/name@revision` or local folders.

        `adapter`: not needed for strength 0, nor for a base model alone.
        `pretrained_model_name_or_path`: the base model, by default the one that the adapter was
        trained on. `few_step_lora`: a LoRA that distils it to few steps; needs `few_step_method`.
        `class_names`, `prompt_template`: for a base model alone; the names in the order
        of the labels. `classifier`: for a saliency method that needs one. `segmenter`, `detector`:
        for saliency_method segmentation. `mask_function`: RGB image -> its foreground mask, a PIL
        image or an array (h, w), instead of a saliency method. `method`: fields of
        `MethodSettings`; `dtype` may be called `torch_dtype`. Raises `UserError`.
        """
        if mask_function is not None:
            method = {"saliency_method": "function"} | method
        if segmenter is not None:
            method = {"saliency_method": "segmentation"} | method
        settings = apply_preset(MethodSettings(**named_settings(method)))
        settings.validate()
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        check_few_step(settings, few_step_lora)
        needs = saliency_source(settings).needs
        given = {"classifier": classifier, "segmenter": segmenter}
        if needs in given and given[needs] is None:
            raise UserError(
                f"{settings.saliency_method} needs a {needs}: give {needs}='org/name' or a folder"
            )
        if (needs == "function") != (mask_function is not None):
            raise UserError("mask_function and saliency_method 'function' belong together")
        pins: dict[str, str] = {}

        def pin(setting: str, name: str) -> Pin:
            pinned = resolve(name)
            pins[setting] = str(pinned)
            return pinned

        refiner = network = None
        if settings.refines:
            base = pretrained_model_name_or_path
            if adapter is None:
                _check_without_adapter(settings, base, class_names, prompt_template)
            diffusion = pin_diffusion(adapter, base, pin, few_step_lora)
            if diffusion.adapter is not None:
                class_names = diffusion.adapter.class_names
            refiner = _load_refiner(settings, diffusion, class_names, prompt_template, device)
        if needs == "classifier" and classifier is not None:
            owner = "given class_names" if adapter is None else "adapter"
            network = load_classifier(pin("classifier", classifier), class_names, device, owner)
            class_names = network.class_names
        if needs == "segmenter" and segmenter is not None:
            learned = refiner.adapter if refiner else None
            asked = SegmenterPins(
                pin("segmenter", segmenter),
                None if detector is None else pin("detector", detector),
                sought_words(settings, learned.facts["metaclass"] if learned else None),
            )
            network = load_segmenter(asked, settings.segmenter_instances, settings.resize, device)
        if mask_function is None:
            source = load_source(settings, network)
        else:
            source = MaskFunctionSource(mask_function, settings.resize)
        return cls(settings, refiner, source, pins, class_names, prompt_template)

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
        """Every image on the background of its target, refined: RGB, resolution x resolution.

        An image that cannot be used gives None and a warning that says why. `labels` and
        `target_labels` are class numbers of the adapter and the classifier; `target_labels` is
        needed by a classifier's maps and by `prompt_class` target. `seeds`: of each image's noise.
        `strength` must be chosen if the settings name several. Raises `ValueError`.
        """
        strength = self._chosen_strength(strength)
        named = target_labels if self.settings.prompt_class == "target" else labels
        if named is None:
            raise ValueError("prompt_class target needs target_labels")
        if target_labels is None and saliency_source(self.settings).needs == "classifier":
            raise ValueError("the classifier's maps of the targets need target_labels")
        mixtures = self.mixtures(images, targets, labels, target_labels)
        finished = among_usable(
            mixtures,
            lambda rows, batch: self.finish(batch, *_at(rows, named, seeds), strength),
            self.settings.batch_size,
        )
        for row, outcome in enumerate(finished):
            if isinstance(outcome, Unusable):
                logger.warning(f"image {row}: {outcome.reason}")
        return [
            None if isinstance(outcome, Unusable) else Image.fromarray(outcome)
            for outcome in finished
        ]

    def _chosen_strength(self, strength: float | None) -> float:
        if strength is not None:
            return strength
        if len(self.settings.strength) > 1:
            raise ValueError(f"choose a strength of {self.settings.strength}")
        return self.settings.strength[0]

    def mixtures(
        self,
        images: list[Image.Image],
        targets: list[Image.Image],
        labels: list[int],
        target_labels: list[int] | None = None,
    ) -> list[Mixture | Unusable]:
        """Every image mixed with its target, or why it cannot be used. Raises `ValueError`."""
        source = self.source or load_source(self.settings)
        pairs = zip(
            _with_maps(source, images, labels),
            _with_maps(source, targets, target_labels),
            strict=True,
        )
        return [attempt(self._mixture, *pair) for pair in pairs]

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

    def inpaint(self, mixtures: list[Mixture], seeds: list[int]) -> list[Mixture | Unusable]:
        """The mixtures (at most a batch) after `inpainting_method` has filled their holes."""
        if self.settings.inpainting_method == "opencv":
            return list(mixtures)  # `Mixer.mix` has filled them
        assert self.refiner is not None, "settings of a pipeline without a refiner name opencv"
        images = np.stack([mixture.background for mixture in mixtures])
        holes = np.stack([mixture.hole for mixture in mixtures])
        filled = self.refiner.inpaint(images, holes, [inpainting_seed(seed) for seed in seeds])
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
        self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float
    ) -> list[np.ndarray | Unusable]:
        """The inpainted and refined images of at most a batch, uint8 (size, size, 3).

        Mixtures of several frames are refined frame by frame.
        """
        frames = dict.fromkeys(mixture.source.frame for mixture in mixtures)
        if len(frames) > 1:
            finished: dict[int, np.ndarray | Unusable] = {}
            for frame in frames:
                rows = [
                    row for row, mixture in enumerate(mixtures) if mixture.source.frame == frame
                ]
                alike = self.finish(*_at(rows, mixtures, labels, seeds), strength)
                finished |= dict(zip(rows, alike, strict=True))
            return [finished[row] for row in range(len(mixtures))]
        filled = self.inpaint(mixtures, seeds)
        return among_usable(
            filled, lambda rows, batch: self.refine(batch, *_at(rows, labels, seeds), strength)
        )

    def refine(
        self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float
    ) -> list[np.ndarray | Unusable]:
        """The refined images of at most a batch, uint8 (size, size, 3)."""
        if strength == 0 or not mixtures:
            return [mixture.mixed for mixture in mixtures]
        if any(mixture.is_source for mixture in mixtures):
            rows = [row for row, mixture in enumerate(mixtures) if not mixture.is_source]
            refined = iter(self.refine(*_at(rows, mixtures, labels, seeds), strength))
            return [m.mixed if m.is_source else next(refined) for m in mixtures]
        assert self.refiner is not None, "a strength above 0 needs a refiner"
        mixed = np.stack([mixture.mixed for mixture in mixtures])
        foregrounds = np.stack([mixture.source.mask for mixture in mixtures])
        refined = self.refiner.refine(mixed, foregrounds, labels, seeds, strength)
        return [self._pasted(*row) for row in zip(mixtures, refined, strict=True)]

    def sigma_start(self, strength: float) -> float:
        """The noise level, in [0, 1], that refinement starts from; 0 without refinement."""
        if strength == 0:
            return 0.0
        assert self.refiner is not None, "a strength above 0 needs a refiner"
        return self.refiner.sigma_start(strength)

    def _pasted(self, mixture: Mixture, refined: np.ndarray | Unusable) -> np.ndarray | Unusable:
        """The refined image, with the source's foreground on it if `paste_foreground` is set."""
        if isinstance(refined, Unusable) or not self.settings.paste_foreground:
            return refined
        return compose(mixture.source.pixels, refined, mixture.source.mask, self.mixer.feather)


def _with_maps(
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


def _at(rows: list[int], *columns: list) -> list[list]:
    """The values of some rows, from each of the columns."""
    return [[column[row] for row in rows] for column in columns]


def _check_without_adapter(
    settings: MethodSettings, base: str | None, class_names: list[str] | None, prompt_template: str
) -> None:
    if base is None or class_names is None:
        raise UserError(
            "strength above 0 needs an adapter, or pretrained_model_name_or_path with class_names; "
            "strength=0 mixes without a model"
        )
    check_base_alone(settings, prompt_template)


def _load_refiner(
    settings: MethodSettings,
    diffusion: Diffusion,
    class_names: list[str] | None,
    prompt_template: str,
    device: torch.device,
) -> Refiner:
    family = check_supported(diffusion.base)
    if diffusion.adapter is not None:
        check_family(diffusion.adapter, family)
        check_base(diffusion.adapter, diffusion.base)
    prompt = partial(class_prompt, diffusion.adapter, class_names or [], prompt_template)
    return load_refiner(
        settings,
        diffusion.base,
        diffusion.adapter,
        prompt,
        device,
        few_step_lora=diffusion.few_step_lora,
    )


def named_settings(method: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments as fields of `MethodSettings`.

    Raises `UserError` for an unknown name, or for a setting that is given by two names.
    """
    if {"dtype", "torch_dtype"} <= method.keys():
        raise UserError("dtype and torch_dtype are two names of one setting: give one")
    named = {"dtype" if name == "torch_dtype" else name: value for name, value in method.items()}
    unknown = named.keys() - {field.name for field in fields(MethodSettings)}
    if unknown:
        raise UserError(f"no such setting: {shown(min(unknown))}")
    return named
