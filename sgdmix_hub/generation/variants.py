"""How many variants each source gets: `num_variants`, and more in classes that `images_per_class`
raises.
"""

from __future__ import annotations

import numpy as np

from sgdmix_hub.seeds import RandomStream, generator
from sgdmix_hub.settings.generation import AugmentSettings


def variant_counts(
    settings: AugmentSettings, labels: np.ndarray, mixable: np.ndarray, unmixed: np.ndarray
) -> np.ndarray:
    """Variants of each of the n rows of a subset, int64 (n,): a function of these arguments alone.

    Every row gets `num_variants`; one that cannot be mixed gets at least one, so that the plan
    names its reason. With `images_per_class`, a class whose real and synthetic images are fewer
    gets the missing ones, spread evenly over its mixable rows; which rows get one more is drawn.

    Args:
        labels: class of each row, int (n,).
        mixable: bool (n,), rows that can be mixed.
        unmixed: bool (n,), rows that are published as they are; neither these nor the mixable ones
            are skipped by the plan.
    """
    counts = np.where(mixable, settings.num_variants, max(settings.num_variants, 1))
    counts = counts.astype(np.int64)
    if settings.images_per_class is None:
        return counts
    for label in np.unique(labels):
        of_class = labels == label
        images = int(of_class.sum() + counts[of_class & (mixable | unmixed)].sum())
        missing, rows = settings.images_per_class - images, np.flatnonzero(of_class & mixable)
        if missing <= 0 or not len(rows):
            continue
        counts[rows] += missing // len(rows)
        rng = generator(RandomStream.VARIANTS, settings.seed, int(label))
        counts[rng.permutation(rows)[: missing % len(rows)]] += 1
    return counts
