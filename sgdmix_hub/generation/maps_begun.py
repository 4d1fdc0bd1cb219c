"""What a dry run looks at before all maps are made: a part of the images, with their maps.

Making all maps can take hours, so a dry run makes them for two minutes. If all are made then, it
makes the plan as a run would; otherwise a plan of the images whose maps are there, from which it
extrapolates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sgdmix_hub.data.report import report_unusable
from sgdmix_hub.data.splits import Split
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.loading import SegmenterPins
from sgdmix_hub.runtime.ranks import Rank
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.storage.stores import Store

from .bank import Bank, bank_settings, whole_images
from .inputs import Inputs
from .row_maker import RowMaker
from .row_store import BegunRows
from .saliency_maps import SaliencyMaps, asked_maps
from .variants import variant_counts

SECONDS = 120.0  # for which a dry run makes maps


@dataclass(frozen=True)
class MapsBegun:
    """What a dry run has of a run whose maps are not all made.

    `maker`: makes rows of the images whose maps are there. `rows`: of the run, if every image has a
    usable map. `sources`: of the run. `parts`: of the split and of its bank, what was made.
    """

    maker: RowMaker
    rows: int
    sources: np.ndarray
    parts: list[BegunRows]

    @property
    def seconds(self) -> float:
        """What making the other maps takes one process."""
        return sum((part.count - part.made) * part.seconds for part in self.parts)


def begin_maps(
    settings: AugmentSettings, inputs: Inputs, store: Store, rank: Rank
) -> RowMaker | MapsBegun:
    """What makes rows, with all maps or with some. A collective. Raises `UserError`."""
    parts: list[BegunRows] = []

    def begun(
        own: AugmentSettings, split: Split, classifier: Pin | None, segmenter: SegmenterPins | None
    ) -> tuple[Split, SaliencyMaps]:
        asked = asked_maps(own, split, classifier, rank.index, rank.device, segmenter, store)
        sample = asked.sample(split, rank, store, SECONDS)
        if sample is None:
            maps = asked.compute(split, rank.index, rank.count, store)
        else:
            maps, part = sample
            parts.append(part)
            split = replace(split, subset=part.sample.rows)
        report_unusable(split, maps.unusable)
        return split, maps

    whole = inputs.split
    split, maps = begun(settings, whole, inputs.classifier, inputs.segmenter)
    bank = None
    if inputs.bank is not None and not settings.background_has_foreground:
        bank = whole_images(settings, whole, inputs.bank)
    elif inputs.bank is not None:
        own = bank_settings(settings)
        images, bank_maps = begun(own, inputs.bank, None, inputs.segmenter)
        bank = Bank(own, images, bank_maps, len(whole.labels))
    if not parts:
        return RowMaker(settings, inputs, maps, bank=bank)
    maker = RowMaker(of_a_sample(settings), replace(inputs, split=split), maps, bank=bank)
    return MapsBegun(maker, planned_rows(settings, whole), whole.subset, parts)


def of_a_sample(settings: AugmentSettings) -> AugmentSettings:
    """Settings for the plan of a few images: other targets, of which there are enough, so that the
    rows cost what they will cost.
    """
    compares = settings.selection_method != "novel-background"
    return replace(
        settings,
        target_classes="any",
        selection_method=settings.selection_method if compares else "random",
        max_target_reuse=None,
        images_per_class=None,
        num_variants=max(1, settings.num_variants),
    )


def planned_rows(settings: AugmentSettings, split: Split) -> int:
    """Rows of the plan if every image has a usable map."""
    labels = split.labels[split.subset]
    mixable = ~np.isin(split.subset, settings.excluded_rows or [])
    return int(variant_counts(settings, labels, mixable, np.zeros_like(mixable)).sum())
