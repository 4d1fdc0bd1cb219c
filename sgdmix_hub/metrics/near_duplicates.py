"""An `evaluate` metric: synthetic images that nearly equal a training image.

Two images are near if they are closer than 99 % of the real images are to their nearest other real
image. This scale comes from the data, so any features can be used: those of an encoder, or the
pixels of thumbnails.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Share of synthetic images that are nearer to a real image than real images are to each other, "
    "and the pairs."
)
NEAR_QUANTILE = 0.01  # of the distances of real images to their nearest other real image
ROWS_AT_ONCE = 1024


class NearDuplicates(evaluate.Metric):
    """`compute(features=, source_index=, target_index=, real_features=)`.

    Columns, one entry per synthetic image: `features` (d,); `source_index`, `target_index`, the
    rows of `real_features` that it was mixed from. Not a column: `real_features` (m, d), m >= 2.

    Returns:
    - `near_duplicates`, in [0, 1]: share of the images that are near a real image other than their
      source and target;
    - `near_source`, in [0, 1]: share near their source, which have hardly changed;
    - `near_target`, in [0, 1]: share near their target, which may have another label; in pixels
      these are images with a small foreground;
    - `near_distance`: Euclidean distance below which images are near;
    - `pairs`: a list of [row, real row, distance] of all near duplicates, the nearest first.
    """

    def _info(self):
        vector, integer = datasets.Sequence(datasets.Value("float64")), datasets.Value("int64")
        features = datasets.Features(
            {"features": vector, "source_index": integer, "target_index": integer}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, **columns):
        return near_duplicates(**{name: np.asarray(column) for name, column in columns.items()})


def near_duplicates(
    features: np.ndarray,
    source_index: np.ndarray,
    target_index: np.ndarray,
    real_features: np.ndarray,
) -> dict[str, Any]:
    """The metric's figures, of features (n, d), integers (n,) and real features (m, d)."""
    near = near_distance(real_features)
    index, distance = nearest(
        features, real_features, np.stack([source_index, target_index], axis=1)
    )
    rows = np.flatnonzero(distance < near)
    rows = rows[np.argsort(distance[rows], kind="stable")]
    return {
        "near_duplicates": len(rows) / len(features),
        "near_source": float(np.mean(distances(features, real_features, source_index) < near)),
        "near_target": float(np.mean(distances(features, real_features, target_index) < near)),
        "near_distance": near,
        "pairs": [[int(row), int(index[row]), float(distance[row])] for row in rows],
    }


def near_distance(real_features: np.ndarray) -> float:
    """The distance that 99 % of real features (m, d) keep from their nearest other one."""
    _, distance = nearest(real_features, real_features, np.arange(len(real_features))[:, None])
    return float(np.quantile(distance, NEAR_QUANTILE))


def nearest(
    features: np.ndarray, others: np.ndarray, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of others (m, d) to each of features (n, d): rows, int64 (n,), and distances.

    `left_out`: integers (n, k), rows of `others` that are ignored. Distances are Euclidean, float64
    (n,), infinite if all rows are left out. Works in blocks, so both may be memory-mapped.
    """
    index, squared = np.zeros(len(features), np.int64), np.full(len(features), np.inf)
    for start in range(0, len(features), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        block = np.asarray(features[rows], np.float64)
        for other_start in range(0, len(others), ROWS_AT_ONCE):
            other = np.asarray(others[other_start : other_start + ROWS_AT_ONCE], np.float64)
            to_other = (
                (block**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * block @ other.T
            )
            numbers = np.arange(other_start, other_start + len(other))
            to_other[(left_out[rows, :, None] == numbers).any(axis=1)] = np.inf
            best = to_other.argmin(axis=1)
            smallest = np.take_along_axis(to_other, best[:, None], axis=1)[:, 0]
            better = smallest < squared[rows]
            index[rows] = np.where(better, best + other_start, index[rows])
            squared[rows] = np.where(better, smallest, squared[rows])
    # small distances are computed again: above they are differences of large numbers
    return index, np.where(np.isinf(squared), np.inf, distances(features, others, index))


def distances(features: np.ndarray, others: np.ndarray, index: np.ndarray) -> np.ndarray:
    """float64 (n,): Euclidean distances of features (n, d) from rows `index` of others (m, d)."""
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(features), ROWS_AT_ONCE)]
    return np.concatenate(
        [
            np.linalg.norm(features[rows].astype(np.float64) - others[index[rows]], axis=1)
            for rows in blocks
        ]
    )
