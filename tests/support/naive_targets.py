"""The choice of targets, source by source, and as a naive loop over rows, to compare with."""

import math
from typing import NamedTuple

import numpy as np

from sgdmix_hub.method.targets import TargetSelection
from sgdmix_hub.seeds import RandomStream, generator

ROWS = 30
# Classes of 9, 12, 8 and one row, not in blocks, numbered with gaps.
LABELS = np.array(
    [5, 0, 0, 2, 0, 5, 2, 0, 5, 0, 2, 0, 0, 5, 5, 2, 0, 7, 5, 2, 0, 2, 0, 5, 5, 0, 2, 2, 0, 5]
)


class Target(NamedTuple):
    index: int
    distance: float


def select_targets(
    sources, usable, labels, maps, settings, backgrounds=None, variants=None, bank_from=None
):
    """The targets of each source's variants: lists of `Target`."""
    selection = TargetSelection(usable, labels, maps, settings, backgrounds, bank_from)
    if variants is None:
        variants = np.full(len(sources), settings.num_variants)
    found = map(Target, *(values.tolist() for values in selection.targets(sources, variants)))
    return [[next(found) for _ in range(count)] for count in variants]


def naive_distance(first, second):
    """Root of the mean square difference, one value after the other in float64."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    return (sum(value * value for value in difference.ravel().tolist()) / difference.size) ** 0.5


def pool_of(source, usable, classes):
    allowed = {
        "any": True,
        "other": LABELS[usable] != LABELS[source],
        "same": LABELS[usable] == LABELS[source],
    }[classes]
    return usable[allowed & (usable != source)]


def background_distances(backgrounds, usable, label):
    """Euclidean distances, by row, of standardised features to their mean over the label's rows."""
    varying = [
        column for column in backgrounds[usable].T.astype(np.float64) if len(set(column)) > 1
    ]
    standard = [(column - np.mean(column)) / np.std(column) for column in varying]
    centre = [np.mean(column[LABELS[usable] == label]) for column in standard]
    return {
        int(row): math.dist([column[place] for column in standard], centre)
        for place, row in enumerate(usable)
    }


def naive_targets(
    map_distances,
    backgrounds,
    sources,
    usable,
    method="l2",
    classes="any",
    candidates=50,
    variants=1,
    max_reuse=None,
    seed=0,
):
    """The same targets, from lists that are searched through. `random` draws again from the pool
    where no drawn row is left.
    """
    uses = dict.fromkeys(usable.tolist(), 0)
    plan = []
    for source in sources.tolist():
        pool = pool_of(source, usable, classes)
        novelty = background_distances(backgrounds, usable, LABELS[source])
        cost = {
            "l2": lambda row, source=source: (map_distances[source, row], row),
            "dissimilar": lambda row, source=source: (-map_distances[source, row], row),
            "novel-background": lambda row, novelty=novelty: (-novelty[row], row),
        }.get(method)
        chosen, taken = [], set()
        for variant in range(variants):
            if len(pool) == 0:
                chosen.append(-1)
                continue
            if len(taken) == len(pool):
                taken = set()
            rng = generator(RandomStream.CANDIDATES, seed, source, variant)
            drawn = rng.choice(pool, min(candidates, len(pool)), replace=False).tolist()
            fresh = [row for row in pool.tolist() if row not in taken]
            least = min(uses[row] for row in fresh) + 1
            limit = max(least, max_reuse or math.inf)
            free_drawn = [row for row in drawn if row in fresh and uses[row] < limit]
            free = free_drawn or [row for row in fresh if uses[row] < limit]
            if method != "random":
                best = min(free, key=cost)
            elif free_drawn:
                best = free[0]
            else:
                best = int(generator(RandomStream.POOL, seed, source, variant).permutation(free)[0])
            uses[best] += 1
            taken.add(best)
            chosen.append(best)
        plan.append(chosen)
    return plan
