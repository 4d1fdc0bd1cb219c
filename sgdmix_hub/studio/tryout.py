"""A few hundred images of a dataset under settings that change: masks, targets, mixtures.

Everything is made by the functions of a generation, and what two choices share is made once: maps
by their source, masked images by the settings of masks, networks by their pins.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import Unusable, UnusableRow, UserError, attempt
from sgdmix_hub.evaluation.drawn_split import KEPT_SIDE, in_turns
from sgdmix_hub.generation.background_features import features_of
from sgdmix_hub.generation.inputs import Inputs, check_columns, metaclass_of
from sgdmix_hub.generation.plan import PlanRow, left_out, make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.row_store import RowValues
from sgdmix_hub.generation.saliency_maps import (
    SaliencyMaps,
    load_network,
    store_key,
)
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.method.mixer import MaskedImage
from sgdmix_hub.method.saliency.sources import load_cam, load_source
from sgdmix_hub.method.saliency.trust import Trust, trust_test
from sgdmix_hub.models.loading import (
    Diffusion,
    SegmenterPins,
    load_classifier,
    load_refiner,
    pin_diffusion,
)
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MASK_SETTINGS, sought_words
from sgdmix_hub.settings.presets import apply_preset, saliency_source

from .known_maps import KnownMaps
from .shrunk_split import shrunk

TESTED = 100  # images of the trust test, which runs the classifier twice on each
# Settings that a loaded diffusion model cannot change.
OF_LOADED = (
    "scheduler",
    "timestep_spacing",
    "dtype",
    "compile",
    "safety_checker",
    "inpainting_method",
    "few_step_weight_name",
    "adapter_weight_name",
    "quantization",
    "vae_tiling",
    "vae_slicing",
    "cpu_offload",
)


class Tryout:
    """One drawn set of images. Its methods are for one thread at a time."""

    def __init__(
        self, start: AugmentSettings, num_images: int, picture_size: int, device: torch.device
    ):
        """`start`: dataset and models; `picture_size`: the resolution of mixtures. Raises
        `UserError`.
        """
        self.start, self.picture_size, self.device = start, picture_size, device
        whole = load_split(start, _pin_unread(start.dataset_name))
        drawn = np.random.default_rng(start.seed).permutation(whole.subset)[:num_images]
        split = dataclasses.replace(whole, subset=np.sort(drawn))
        self.split = shrunk(split, max(KEPT_SIDE, picture_size))
        self.rows: list[int] = in_turns(drawn, split.labels, start.seed).tolist()
        self._pins: dict[str, Pin] = {}
        self._maps: dict[str, KnownMaps] = {}
        self._makers: dict[str, RowMaker] = {}
        self._features: dict[str, RowValues] = {}
        self._trust: Trust | None = None
        self._diffusion: Diffusion | None = None
        self._refiners: dict[str, Refiner] = {}

    @property
    def has_base(self) -> bool:
        """Whether a diffusion model was given, so that S can be above 0."""
        return bool(self.start.adapter or self.start.pretrained_model_name_or_path)

    def mixing(self, chosen: AugmentSettings) -> AugmentSettings:
        """The settings without refinement, at the size of the pictures, with their preset."""
        return dataclasses.replace(
            apply_preset(chosen),
            strength=[0.0],
            foreground_strength=None,
            inpainting_method="opencv",
            background_prompt_template=None,
            prompt_class="source",
            num_variants=1,
            images_per_class=None,
            resolution=self.picture_size,
        )

    def known_maps(self, settings: AugmentSettings) -> KnownMaps:
        """The maps of the settings' source, of which some may be made. Raises `UserError`."""
        check_columns(settings, self.split)
        inputs = self._inputs(settings)
        key = store_key(settings, self.split, inputs.classifier, inputs.segmenter)
        if key not in self._maps:
            network = load_network(
                settings, self.split, inputs.classifier, inputs.segmenter, self.device
            )
            source = load_source(settings, network)
            self._maps[key] = KnownMaps(settings, self.split, source, key)
        return self._maps[key]

    def maker(self, settings: AugmentSettings, maps: SaliencyMaps) -> RowMaker:
        """What masks and mixes under the settings; masked images are shared."""
        names = (*MASK_SETTINGS, "resolution", "resize", "mask_column")
        key = str([maps.key, *(getattr(settings, name) for name in names)])
        maker = RowMaker(settings, self._inputs(settings), maps, masked_by=self._makers.get(key))
        self._makers.setdefault(key, maker)
        return maker

    def plan(
        self, settings: AugmentSettings, maps: SaliencyMaps
    ) -> tuple[dict[int, PlanRow], dict[int, str]]:
        """The first variant of every drawn row, and why some are left out. Needs all maps."""
        features = self._background_features(settings, maps)
        planned = make_plan(settings, self.split, maps, features)
        reasons = maps.unusable | left_out(settings, self.split, maps)
        plan = {row.source_index: row for row in planned if row.variant == 0}
        return plan, {row: reason for row, reason in reasons.items() if row in plan}

    def _background_features(
        self, settings: AugmentSettings, maps: SaliencyMaps
    ) -> RowValues | None:
        if settings.selection_method != "novel-background":
            return None
        key = str([maps.key, *(getattr(settings, name) for name in MASK_SETTINGS)])
        if key not in self._features:
            rows = self.split.subset
            values = [features_of(settings, self.split, maps, row) for row in rows]
            self._features[key] = RowValues(rows, np.stack(values))
        return self._features[key]

    def masked(self, maker: RowMaker, row: int) -> MaskedImage | Unusable:
        """A row's image with its mask, or why there is none."""
        reason = maker.maps.unusable.get(row)
        return attempt(maker.masked_image, row) if reason is None else Unusable(reason)

    def trust(self, settings: AugmentSettings) -> Trust | None:
        """The result of the trust test, made once; None for a source without a classifier."""
        if saliency_source(settings).needs != "classifier":
            return None
        if self._trust is None:
            pin = self._pin("classifier", settings.classifier)
            cam = load_cam(settings, load_classifier(pin, self.split.class_names, self.device))
            tested = dataclasses.replace(self.split, subset=self.split.subset[:TESTED])
            self._trust = trust_test(cam.classifier, cam.size, tested, settings.resize)
        return self._trust

    def refined(
        self, chosen: AugmentSettings, rows: list[int]
    ) -> Iterator[tuple[int, str | None, np.ndarray | Unusable]]:
        """Refines the rows one after the other: row, prompt, uint8 (h, w, 3) or a reason.

        Needs all maps, as `plan` does. Raises `UserError`.
        """
        settings = dataclasses.replace(
            apply_preset(chosen), num_variants=max(chosen.num_variants, 1), images_per_class=None
        )
        maps = self.known_maps(settings).maps
        plan, _ = self.plan(settings, maps)
        maker = self.maker(settings, maps)
        maker.pipeline.refiner = self._refiner(settings)
        maker.pipeline.refiner.check_prompts(maker.prompts)
        for row in rows:
            planned = plan[row]
            try:
                mixture = maker.mixture(planned)
                (finished,) = maker.finished([planned], [mixture])
                image = finished if isinstance(finished, Unusable) else finished.image
                yield row, maker.prompt(planned), image
            except UnusableRow as reason:
                yield row, None, Unusable(str(reason))

    def _refiner(self, settings: AugmentSettings) -> Refiner:
        diffusion = self._pinned_diffusion()
        key = str([getattr(settings, name) for name in OF_LOADED])
        if key not in self._refiners:
            self._refiners.clear()  # one at a time in memory
            self._refiners[key] = load_refiner(
                settings,
                diffusion.base,
                diffusion.adapter,
                self.device,
                few_step_lora=diffusion.few_step_lora,
                foreign=diffusion.foreign,
            )
        return self._refiners[key].using(settings)

    def _pinned_diffusion(self) -> Diffusion:
        if self._diffusion is None:
            start = self.start
            self._diffusion = pin_diffusion(
                start,
                start.adapter,
                start.pretrained_model_name_or_path,
                self._pin,
                start.few_step_lora,
            )
            adapter = self._diffusion.adapter
            if adapter is not None and adapter.class_names != self.split.class_names:
                raise UserError(
                    f"the adapter {start.adapter} was trained on other classes than "
                    f"{self.split.pin.name} has"
                )
        return self._diffusion

    def _inputs(self, settings: AugmentSettings) -> Inputs:
        """The pinned inputs that the settings need."""
        needs = saliency_source(settings).needs
        diffusion = self._pinned_diffusion() if self.has_base else None
        adapter = None if diffusion is None else diffusion.adapter
        classifier = segmenter = None
        if needs == "classifier":
            classifier = self._pin("classifier", settings.classifier)
        if needs == "segmenter":
            detector = settings.detector
            segmenter = SegmenterPins(
                self._pin("segmenter", settings.segmenter),
                None if detector is None else self._pin("detector", detector),
                sought_words(settings, metaclass_of(adapter)),
            )
        return Inputs(
            self.split,
            None if diffusion is None else diffusion.adapter_pin,
            adapter,
            None if diffusion is None else diffusion.base,
            classifier,
            segmenter,
            few_step_lora=None if diffusion is None else diffusion.few_step_lora,
            foreign=None if diffusion is None else diffusion.foreign,
        )

    def _pin(self, setting: str, name: Any, repo_type: str = "model") -> Pin:
        """The pin of an input, made once."""
        if setting not in self._pins:
            self._pins[setting] = resolve(name, repo_type)
        return self._pins[setting]


def _pin_unread(dataset: str) -> Pin:
    """The pin of a dataset; of a local folder without the hash of its content, which nothing here
    depends on, and which takes long to read. Raises `UserError`.
    """
    if os.path.isdir(dataset):
        return Pin(Path(dataset).resolve().name, "", path=dataset)
    return resolve(dataset, repo_type="dataset")
