"""SGDMixPipeline: the stages in order: saliency maps -> masks -> mixture -> refinement.

    pipeline = SGDMixPipeline.from_pretrained("org/cub-adapter", preset="recommended", strength=0.5)
    refined = pipeline(images, targets, labels, seeds=[0, 1])

A generation calls the later stages with the maps and targets of its plan.
"""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.method.mixer import Mixer, Mixture
from sgdmix_hub.method.mixing import compose
from sgdmix_hub.method.saliency.sources import Source, load_source
from sgdmix_hub.models.adapters import check_base, read_adapter
from sgdmix_hub.models.loading import load_classifier
from sgdmix_hub.models.prompts import name_prompt
from sgdmix_hub.settings.method import NAME_PROMPT, MethodSettings, apply_preset, saliency_source

from .errors import Unusable, UnusableRow, UserError, among_usable, attempt, one_row, shown
from .seeds import inpainting_seed

if TYPE_CHECKING:
    from sgdmix_hub.models.refine import Refiner


ImageWithMap = tuple[Image.Image, np.ndarray]


class SGDMixPipeline:
    """SGD-Mix on images. Without a refiner it mixes alone, which is strength 0."""

    def __init__(
        self,
        settings: MethodSettings,
        refiner: Refiner | None = None,
        source: Source | None = None,
        pins: dict[str, str] | None = None,
        class_names: list[str] | None = None,
    ):
        """`settings`: with their preset applied.

        `source`: finds the foregrounds in a whole call; may be left out for a method that needs no
        model. `pins`: the adapter, base and classifier that were loaded, as in `Inputs.pins`.
        `class_names`: the classes that the models know, if there are models.
        """
        self.settings = settings
        self.mixer = Mixer(settings)
        self.refiner = refiner
        self.source = source
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
        """Loads a pipeline. Models are `org/name`, `org/name@revision` or local folders.

        `adapter`: none for strength 0, or for a base model alone. `pretrained_model_name_or_path`:
        the base model; default: the one that the adapter was trained on. `class_names`: for a base
        model without an adapter, in the order of the labels. `classifier`: for a saliency method
        that needs one. `method`: fields of `MethodSettings`; `dtype` may be called `torch_dtype`.
        Raises `UserError`.
        """
        settings = apply_preset(MethodSettings(**named_settings(method)))
        settings.validate()
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        refiner = network = None
        pins: dict[str, Pin] = {}
        needs_classifier = saliency_source(settings).needs == "classifier"
        if needs_classifier and classifier is None:
            raise UserError(
                f"{settings.saliency_method} needs a classifier: "
                "give classifier='org/name' or a folder"
            )
        if settings.refines:
            refiner, pins = loaded_refiner(
                settings, adapter, pretrained_model_name_or_path, class_names, device
            )
            class_names = class_names if refiner.adapter is None else refiner.adapter.class_names
        if needs_classifier:
            pins["classifier"] = resolve(classifier)
            network = load_classifier(pins["classifier"], class_names, device)
            class_names = network.class_names
        source = load_source(settings, network)
        return cls(
            settings, refiner, source, {name: str(pin) for name, pin in pins.items()}, class_names
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
            lambda rows: self.finish(*_at(rows, mixtures, named, seeds), strength),
            self.settings.batch_size,
        )
        for row, outcome in enumerate(finished):
            if isinstance(outcome, Unusable):
                warnings.warn(f"image {row}: {outcome.reason}", stacklevel=2)
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

    def _mixture(self, source: ImageWithMap | Unusable, target: ImageWithMap | Unusable) -> Mixture:
        for outcome in (source, target):
            if isinstance(outcome, Unusable):
                raise UnusableRow(outcome.reason)
        masked = self.mixer.mask(*source)
        aspect = self.mixer.target_aspect(masked)
        return self.mixer.mix(masked, self.mixer.mask(*target, aspect))

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
        feather = self.settings.feather
        background = compose(filled, mixture.background, mixture.hole, feather)
        mixed = compose(mixture.source.pixels, background, mixture.kept, feather)
        return replace(mixture, background=background, mixed=mixed)

    def finish(
        self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float
    ) -> list[np.ndarray | Unusable]:
        """The inpainted and refined images of at most a batch, uint8 (size, size, 3)."""
        filled = self.inpaint(mixtures, seeds)
        return among_usable(
            filled, lambda rows: self.refine(*_at(rows, filled, labels, seeds), strength)
        )

    def refine(
        self, mixtures: list[Mixture], labels: list[int], seeds: list[int], strength: float
    ) -> list[np.ndarray | Unusable]:
        """The refined images of at most a batch, uint8 (size, size, 3)."""
        if strength == 0 or not mixtures:
            return [mixture.mixed for mixture in mixtures]
        assert self.refiner is not None, "a strength above 0 needs a refiner"
        mixed = np.stack([mixture.mixed for mixture in mixtures])
        foregrounds = np.stack([mixture.source.mask for mixture in mixtures])
        refined = self.refiner.refine(mixed, foregrounds, labels, seeds, strength)
        return [self._pasted(*row) for row in zip(mixtures, refined, strict=True)]

    def _pasted(self, mixture: Mixture, refined: np.ndarray | Unusable) -> np.ndarray | Unusable:
        """The refined image, with the source's foreground on it if `paste_foreground` is set."""
        if isinstance(refined, Unusable) or not self.settings.paste_foreground:
            return refined
        return compose(mixture.source.pixels, refined, mixture.source.mask, self.settings.feather)


def _with_maps(
    source: Source, images: list[Image.Image], labels: list[int] | None
) -> list[ImageWithMap | Unusable]:
    """The images, RGB, with their maps."""
    readable = [attempt(_rgb, image) for image in images]
    found = among_usable(
        readable,
        lambda rows: source.found(
            [readable[row] for row in rows],
            None if labels is None else [labels[row] for row in rows],
            None,
        ),
    )
    return [
        outcome if isinstance(outcome, Unusable) else (image, outcome.map)
        for image, outcome in zip(readable, found, strict=True)
    ]


@one_row("corrupt image")
def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _at(rows: list[int], *columns: list) -> list[list]:
    """The values of some rows, from each of the columns."""
    return [[column[row] for row in rows] for column in columns]


def loaded_refiner(
    settings: MethodSettings,
    adapter: str | None,
    base_model: str | None,
    class_names: list[str] | None,
    device: torch.device,
) -> tuple[Refiner, dict[str, Pin]]:
    """The diffusion model with its adapter, or alone with the names of the classes, and the pins.

    Raises `UserError`.
    """
    # seconds of the start of a program that mixes alone
    from sgdmix_hub.models.refine import Refiner

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
            "strength > 0 needs an adapter, or pretrained_model_name_or_path with class_names; "
            "strength=0 mixes without one"
        )
    if settings.inpainting_method == "diffusion":
        raise UserError(
            "inpainting_method diffusion needs an adapter: it knows the metaclass that a hole must "
            "not show"
        )
    base = resolve(base_model)
    refiner = Refiner(
        base, None, lambda label: name_prompt(class_names[label], NAME_PROMPT), settings, device
    )
    return refiner, {"pretrained_model_name_or_path": base}


def named_settings(method: dict) -> dict:
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
