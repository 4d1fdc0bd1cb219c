"""The rows of the augmented dataset: a planned row -> its mixture -> its refined image and its
columns.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from sgdmix_hub.data.images import aspect_box
from sgdmix_hub.errors import Unusable, UnusableRow, attempt
from sgdmix_hub.method.mixer import MaskedImage, Mixture
from sgdmix_hub.models.prompts import name_prompt
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import effective_strength

from .inputs import Inputs
from .plan import PlanRow
from .row_store import RowValues
from .saliency_maps import SaliencyMaps, stored_mask

MASKED_IMAGES_KEPT = 256


class RowMaker:
    """Makes rows of a plan. Mixtures may be made on several threads at once; the diffusion model is
    loaded on demand, and never where all strengths are 0.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        inputs: Inputs,
        maps: SaliencyMaps | RowValues,
        pipeline: SGDMixPipeline | None = None,
    ):
        """`pipeline`: one that is loaded already."""
        self.settings = settings
        self.inputs = inputs
        self.maps = maps
        self.masked_image = lru_cache(maxsize=MASKED_IMAGES_KEPT)(self._masked_image)
        self.pipeline = pipeline or SGDMixPipeline(settings)
        self.mixer = self.pipeline.mixer

    def load_refiner(self, device: torch.device) -> None:
        """Loads the diffusion model and its adapter. Raises `UserError` when they do not fit each
        other.
        """
        if self.settings.refines and self.pipeline.refiner is None:
            # seconds of the start of a program that mixes alone
            from sgdmix_hub.models.refine import Refiner

            self.pipeline.refiner = Refiner(
                self.inputs.base, self.inputs.adapter, self.prompt, self.settings, device
            )

    def mixture(self, row: PlanRow) -> Mixture:
        """The mixture of one planned row. Raises `UnusableRow`."""
        if row.skip is not None:
            raise UnusableRow(row.skip)
        source = self.masked_image(row.source_index)
        aspect = self.mixer.target_aspect(source)
        return self.mixer.mix(source, self.masked_image(row.target_index, aspect))

    def mixture_or_reason(self, row: PlanRow) -> Mixture | Unusable:
        """The mixture of one planned row, or why there is none."""
        return attempt(self.mixture, row)

    def filled_mixture(self, row: PlanRow) -> Mixture:
        """The mixture of one planned row as it is refined, also where a diffusion model, which has
        to be loaded, fills its hole. Raises as `mixture` does.
        """
        mixture = self.mixture(row)
        (filled,) = self.pipeline.inpaint([mixture], [row.seed])
        if isinstance(filled, Unusable):
            raise UnusableRow(filled.reason)
        return filled

    def _masked_image(self, index: int, aspect: float | None = None) -> MaskedImage:
        image = self.inputs.split.image(index)
        if aspect is not None and aspect_box(*image.size, aspect) == (0, 0, *image.size):
            return self.masked_image(index)  # the crop takes nothing away
        return self.mixer.mask(
            image, self.maps[index], aspect, stored_mask(self.settings, self.inputs.split, index)
        )

    def label(self, row: PlanRow) -> int:
        """The class that the image is labelled with, and that its prompt names."""
        index = row.target_index if self.settings.prompt_class == "target" else row.source_index
        return int(self.inputs.split.labels[index])

    def prompt(self, label: int) -> str:
        """The prompt of a class: the adapter's, or, for a base model alone, one that names it."""
        if self.inputs.adapter is not None:
            return self.inputs.adapter.prompt(label)
        return name_prompt(self.inputs.split.class_names[label], self.settings.prompt_template)

    def refined(self, rows: list[PlanRow], mixtures: list[Mixture]) -> list[np.ndarray | Unusable]:
        """The finished images, uint8 (size, size, 3), of at most a batch of rows of one strength,
        or why there is none.
        """
        return self.pipeline.finish(
            mixtures,
            [self.label(row) for row in rows],
            [row.seed for row in rows],
            rows[0].strength,
        )

    def columns(self, row: PlanRow, foreground_area: float) -> dict:
        """A row's columns but its image."""
        settings, label = self.settings, self.label(row)
        return {
            "label": label,
            "source_index": row.source_index,
            "target_index": row.target_index,
            "target_label": int(self.inputs.split.labels[row.target_index]),
            "variant": row.variant,
            "strength": row.strength,
            "effective_strength": effective_strength(settings, row.strength),
            "foreground_strength": row.strength
            if settings.foreground_strength is None
            else settings.foreground_strength,
            "seed": row.seed,
            "saliency_distance": row.saliency_distance,
            "foreground_area": foreground_area,
            "prompt": self.prompt(label) if row.strength > 0 else "",
        }

    def image_name(self, row: PlanRow) -> str:
        return f"{row.source_index:08d}-{row.variant}.{self.settings.image_format}"
