"""Synthetic images that are nearly a training image, as an `evaluate` metric.

Near is what real images hardly ever are to each other: nearer than all but 1 % of them are to their
nearest other real image. That scale is in the data, so any features do: an encoder's, or the pixels
of small copies.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Share of synthetic images that are nearer to a real image than real images are to each other, and the pairs."
NEAR_QUANTILE = 0.01  # of the distances of real images to their nearest other real image
ROWS_AT_ONCE = 1024


class NearDuplicates(evaluate.Metric):
    """`compute(features=, source_index=, target_index=, real_features=)`, one entry a synthetic
    image -> shares and pairs.

    Columns: `features` (d,); `source_index`, `target_index`, the rows of `real_features` that the
    image was mixed from. Beside the columns: `real_features` (m, d), m >= 2.

    Figures:
    - `near_duplicates`, in [0, 1]: share of the images that are near a real image which is neither
      their source nor their target;
    - `near_source`, in [0, 1]: share that is near the own source: images that changed next to
      nothing;
    - `near_target`, in [0, 1]: share that is near the own target, which may have another label:
      small foregrounds, in pixels;
    - `near_distance`: what counts as near (Euclidean);
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

    def _compute(self, features, source_index, target_index, real_features):
        return near_duplicates(
            np.asarray(features),
            np.asarray(source_index),
            np.asarray(target_index),
            np.asarray(real_features),
        )


def near_duplicates(
    features: np.ndarray,
    source_index: np.ndarray,
    target_index: np.ndarray,
    real_features: np.ndarray,
) -> dict:
    """What the metric reports, of features (n, d), the rows of their sources and targets, integers
    (n,), and real features (m, d).
    """
    near = near_distance(real_features)
    index, distance = nearest(
        features, real_features, np.stack([source_index, target_index], axis=1)
    )
    found = np.flatnonzero(distance < near)
    found = found[np.argsort(distance[found], kind="stable")]
    return {
        "near_duplicates": len(found) / len(features),
        "near_source": float(np.mean(distances(features, real_features, source_index) < near)),
        "near_target": float(np.mean(distances(features, real_features, target_index) < near)),
        "near_distance": near,
        "pairs": [[int(row), int(index[row]), float(distance[row])] for row in found],
    }


def near_distance(real_features: np.ndarray) -> float:
    """The distance that all but 1 % of real features (m, d) keep from their nearest other."""
    _, distance = nearest(real_features, real_features, np.arange(len(real_features))[:, None])
    return float(np.quantile(distance, NEAR_QUANTILE))


def nearest(
    features: np.ndarray, others: np.ndarray, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of others (m, d) to each of features (n, d), but for its rows `left_out`,
    integers (n, k): their rows, int64 (n,), and Euclidean distances, float64 (n,), infinite where
    all are left out. Blocks of either are read at a time: both may be memory-mapped.
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
            found = np.take_along_axis(to_other, best[:, None], axis=1)[:, 0]
            better = found < squared[rows]
            index[rows] = np.where(better, best + other_start, index[rows])
            squared[rows] = np.where(better, found, squared[rows])
    # the difference of two large numbers says little about the small distances that matter here
    return index, np.where(np.isinf(squared), np.inf, distances(features, others, index))


def distances(features: np.ndarray, others: np.ndarray, index: np.ndarray) -> np.ndarray:
    """float64 (n,): Euclidean distances of features (n, d) from the rows `index`, integers (n,), of
    others (m, d).
    """
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(features), ROWS_AT_ONCE)]
    return np.concatenate(
        [
            np.linalg.norm(features[rows].astype(np.float64) - others[index[rows]], axis=1)
            for rows in blocks
        ]
    )
