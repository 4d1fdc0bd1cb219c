"""A row of the plan -> its mixture -> its refined image and its columns."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from sgdmix_hub.data.images import Frame, aspect_box
from sgdmix_hub.data.subsets import NO_LABEL
from sgdmix_hub.errors import Unusable, UnusableRow, attempt
from sgdmix_hub.method.mixer import MaskedImage, Mixture, unmixed
from sgdmix_hub.models.loading import load_refiner
from sgdmix_hub.models.prompts import Prompts
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.pipeline_stages import Finished
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.generation import AugmentSettings

from .bank import Bank
from .inputs import Inputs
from .plan import PlanRow
from .provenance import provenance_mark
from .saliency_maps import SaliencyMaps, stored_mask

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Judge

MASKED_IMAGES_KEPT = 256


class RowMaker:
    """Makes the rows of a plan.

    Several threads may make mixtures at once. The diffusion model is loaded on demand, and never if
    all strengths are 0.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        inputs: Inputs,
        maps: SaliencyMaps,
        pipeline: SGDMixPipeline | None = None,
        bank: Bank | None = None,
        masked_by: RowMaker | None = None,
    ):
        """`pipeline`: if it is already loaded. `bank`: where the targets come from, if not from
        the split. `masked_by`: a maker with the same maps and settings of masks, whose masked
        images are used again.
        """
        self.settings = settings
        self.inputs = inputs
        self.maps = maps
        self.bank = bank
        own_masks = lru_cache(maxsize=MASKED_IMAGES_KEPT)(self._masked_image)
        self.masked_image = own_masks if masked_by is None else masked_by.masked_image
        self.prompts = Prompts(settings, inputs.adapter, inputs.split.class_names)
        self.pipeline = pipeline or SGDMixPipeline(settings)
        self.mixer = self.pipeline.mixer
        self.judge: Judge | None = None

    def load_models(self, device: torch.device) -> None:
        """Loads what makes and judges images. Raises `UserError` if the models do not fit."""
        self.load_refiner(device)
        if self.inputs.judge is not None and self.judge is None:
            # here, so that mixing alone loads no library of models
            from sgdmix_hub.models.classifier import Judge

            self.judge = Judge(self.inputs.judge, self.inputs.split.class_names, device)

    def load_refiner(self, device: torch.device) -> None:
        """Loads the diffusion model and its adapter. Raises `UserError` if they do not fit."""
        if self.settings.refines and self.pipeline.refiner is None:
            assert self.inputs.base is not None, "settings that refine name a base model"
            self.pipeline.refiner = load_refiner(
                self.settings,
                self.inputs.base,
                self.inputs.adapter,
                device,
                on_step=stop_if_requested,
                few_step_lora=self.inputs.few_step_lora,
                foreign=self.inputs.foreign,
                prompts=self.prompts,
            )

    def mixture(self, row: PlanRow) -> Mixture:
        """The mixture of a planned row. Raises `UnusableRow`."""
        if row.skip is not None:
            raise UnusableRow(row.skip)
        source = self.masked_image(row.source_index)
        if row.is_unmixed:
            return unmixed(source)
        aspect = self.mixer.target_aspect(source)
        return self.mixer.mix(source, self.masked_image(row.target_index, aspect, source.frame))

    def mixture_or_reason(self, row: PlanRow) -> Mixture | Unusable:
        """The mixture of a planned row, or why there is none."""
        return attempt(self.mixture, row)

    def filled_mixture(self, row: PlanRow) -> Mixture:
        """The mixture of a planned row with its hole filled, as it is refined.

        A diffusion model that fills holes must be loaded. Raises `UnusableRow`.
        """
        mixture = self.mixture(row)
        (filled,) = self.pipeline.inpaint([mixture], [row.seed])
        if isinstance(filled, Unusable):
            raise UnusableRow(filled.reason)
        return filled

    def _masked_image(
        self, index: int, aspect: float | None = None, frame: Frame | None = None
    ) -> MaskedImage:
        settings, split, maps, row = self.settings, self.inputs.split, self.maps, index
        if self.bank is not None and self.bank.owns(index):
            settings, split, maps = self.bank.settings, self.bank.split, self.bank.maps
            row = index - self.bank.first
        image = split.image(row)
        own = self.mixer.frame(image.size)
        cropped = aspect is not None and aspect_box(*image.size, aspect) != (0, 0, *image.size)
        if frame is not None and frame == own and not cropped:
            return self.masked_image(index)  # as it is masked for itself
        found = maps.mask(row)
        stored = None if found is not None else stored_mask(settings, split, row)
        return self.mixer.mask(image, maps[row], aspect, stored, found, frame)

    def label(self, row: PlanRow) -> int:
        """The class of the image's label and prompt."""
        index = row.target_index if self.settings.prompt_class == "target" else row.source_index
        return int(self.inputs.split.labels[index])

    def prompt(self, row: PlanRow) -> str:
        """The prompt of a row's last step."""
        return self.prompts.published(self.label(row), row.prompt)

    def finished(self, rows: list[PlanRow], mixtures: list[Mixture]) -> list[Finished | Unusable]:
        """The finished images, or why there is none.

        `rows`: at most a batch, all of one strength.
        """
        prompts = [self.prompts.of(self.label(row), row.prompt) for row in rows]
        seeds = [row.seed for row in rows]
        return self.pipeline.finish(mixtures, prompts, seeds, rows[0].strength)

    def doubts(self, finished: list[tuple[PlanRow, Finished]]) -> list[str | None]:
        """Why the judge rejects each of at most a batch of rows; None if it accepts a row.

        A source that was kept unmixed is not judged.
        """
        assert self.judge is not None, "rows are judged only by a judge"
        probabilities = self.judge.probabilities([made.image for _, made in finished])
        least = self.settings.asked_probability
        return [
            None
            if row.is_unmixed or of_classes[self.label(row)] >= least
            else f"the judge doubts its label at every attempt (probability below {least:g})"
            for (row, _), of_classes in zip(finished, probabilities, strict=True)
        ]

    def columns(self, row: PlanRow, mixture: Mixture, attempts: int = 1) -> dict:
        """A row's columns without its image. `attempts`: how often it was made."""
        settings, label = self.settings, self.label(row)
        source_width, source_height = mixture.source.size
        size = mixture.mixed.shape[0], mixture.mixed.shape[1]
        target, target_label = row.target_index, NO_LABEL
        if self.bank is not None and self.bank.owns(target):
            target -= self.bank.first
        else:
            target_label = int(self.inputs.split.labels[target])
        foreground_strength = settings.foreground_strength
        return {
            "label": label,
            "source_index": row.source_index,
            "source_width": source_width,
            "source_height": source_height,
            "target_index": target,
            "target_label": target_label,
            "variant": row.variant,
            "strength": row.strength,
            "effective_strength": self.pipeline.effective_strength(row.strength, size),
            "sigma_start": self.pipeline.sigma_start(row.strength, size),
            "foreground_strength": row.strength
            if foreground_strength is None
            else min(foreground_strength, row.strength),
            "seed": row.seed,
            "saliency_distance": row.saliency_distance,
            "foreground_area": mixture.foreground_area,
            "mask_confidence": self.maps.confidence(row.source_index),
            "prompt": self.prompt(row) if row.strength > 0 else "",
        } | ({} if settings.judge is None else {"attempts": attempts})

    def images(self, finished: Finished) -> dict[str, np.ndarray]:
        """The row's published images by column: uint8 (h, w, 3), the mask bool (h, w).

        `mask` is the source's foreground as it was cut, `mixed` what was refined.
        """
        mixture = finished.mixture
        more = {"mask": mixture.source.mask, "mixed": mixture.mixed}
        return {"image": finished.image} | {name: more[name] for name in self.settings.more_images}

    def mark(self, row: PlanRow, column: str = "image") -> bytes:
        """The XMP packet for one of a row's images; empty for an unmixed source, of which it is not
        known how it was made.
        """
        if row.is_unmixed:
            return b""
        refined = column == "image" and row.strength > 0
        return provenance_mark(refined or self.settings.inpainting_method == "diffusion")

    def image_cell(self, row: PlanRow, encoded: bytes, column: str = "image") -> dict:
        """A published cell of one of the row's images."""
        return {"bytes": encoded, "path": self.image_name(row, column)}

    def image_name(self, row: PlanRow, column: str = "image") -> str:
        part = "" if column == "image" else f"-{column}"
        suffix = "png" if column == "mask" else self.settings.image_format
        return f"{row.source_index:08d}-{row.variant}{part}.{suffix}"
