"""Few-shot and long-tail subsets of a split, and whether two runs use the same one."""

from __future__ import annotations

import numpy as np

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.seeds import RandomStream, generator

NO_LABEL = -1


def subset_indices(
    labels: np.ndarray,
    num_classes: int,
    seed: int,
    examples_per_class: int | None = None,
    imbalance_factor: float | None = None,
) -> np.ndarray:
    """Rows of a few-shot or long-tail subset, ascending: a function of the labels, the seed and the
    two settings alone.

    Long tail as in Diff-Mix: class k of C, in label order, keeps n * imbalance_factor ** (k / (C -
    1)) rows, n being the mean class size. Unlabelled rows (-1) are left out.
    """
    labelled = np.flatnonzero(labels != NO_LABEL)
    if examples_per_class is None and imbalance_factor is None:
        return labelled
    kept = []
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        wanted = len(rows)
        if imbalance_factor is not None:
            share = imbalance_factor ** (label / max(num_classes - 1, 1))
            wanted = min(wanted, max(1, int(len(labelled) / num_classes * share)))
        if examples_per_class is not None:
            wanted = min(wanted, examples_per_class)
        kept.append(generator(RandomStream.SUBSET, seed, label).permutation(rows)[:wanted])
    return np.sort(np.concatenate(kept))


def check_same_subset(mine: dict, theirs: dict, what: str) -> None:
    """Raises `UserError` when an input was trained on other rows than this run's: that would leak
    between stages.
    """
    different = [
        key
        for key in ("dataset_config_name", "dataset_split", "rows_sha256")
        if mine[key] != theirs.get(key)
    ]
    if not Pin.parse(mine["dataset"]).holds_same_as(Pin.parse(theirs.get("dataset", ""))):
        different.insert(0, "dataset")
    if different:
        raise UserError(
            f"the {what} was trained on another subset ({', '.join(different)} differ): use the same dataset, split, "
            "examples_per_class, imbalance_factor and subset_seed, or pass --allow_other_subset"
        )
