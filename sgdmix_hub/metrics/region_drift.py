"""How far synthetic images are from their sources on either side of the mask, as an `evaluate`
metric.

The functions take features (n, d) of images of which only one side is left, by any image encoder,
and return one cosine distance in [0, 2] per row, float64 (n,): NaN where a side has no pixel, whose
features are given as NaN. The metric reports means over the other rows.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Drift of the foreground, and novelty of the background, of synthetic images: feature distances on either side of the mask."


class RegionDrift(evaluate.Metric):
    """`compute(**columns, real_backgrounds=, real_labels=)`, one entry a synthetic image -> three
    means, in [0, 2].

    Columns:
    - `foreground`, `background`: features of the synthetic image with the one side of its source's
      mask left, (d,) each;
    - `source_foreground`, `source_background`: those of the source, through the same mask;
    - `label`: integer.

    Beside the columns: `real_backgrounds` (m, d) and `real_labels` (m,), the same features of the
    real images.

    Figures:
    - `foreground_drift`, less is better: distance of the foreground from the source's, what the
      label names;
    - `background_novelty`: distance of the background from the source's;
    - `background_novelty_in_class`: distance of the background from the nearest one of a real image
      of the class.

    Novelty is worth something beside a small drift alone: noise is far from everything.
    """

    def _info(self):
        vector = datasets.Sequence(datasets.Value("float64"))
        columns = dict.fromkeys(
            ("foreground", "background", "source_foreground", "source_background"), vector
        )
        features = datasets.Features(columns | {"label": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(
        self,
        foreground,
        background,
        source_foreground,
        source_background,
        label,
        real_backgrounds,
        real_labels,
    ):
        background = np.asarray(background, np.float64)
        in_class = novelty_in_class(
            background, np.asarray(label), np.asarray(real_backgrounds), np.asarray(real_labels)
        )
        distances = {
            "foreground_drift": cosine_distance(
                np.asarray(foreground), np.asarray(source_foreground)
            ),
            "background_novelty": cosine_distance(background, np.asarray(source_background)),
            "background_novelty_in_class": in_class,
        }
        return {name: mean_of_defined(values) for name, values in distances.items()}


def cosine_distance(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 (n,) in [0, 2]: 1 - cosine of the rows of features (n, d) and others (n, d); 1 where
    one of a pair is zero.
    """
    return np.clip(1 - np.einsum("nd,nd->n", directions(features), directions(others)), 0, 2)


def novelty_in_class(
    backgrounds: np.ndarray,
    labels: np.ndarray,
    real_backgrounds: np.ndarray,
    real_labels: np.ndarray,
) -> np.ndarray:
    """float64 (n,): cosine distance of each background (n, d) from the nearest of the real ones (m,
    d) of its label; NaN where the class has none. `labels`, `real_labels`: integers (n,) and (m,).
    """
    novelty = np.full(len(backgrounds), np.nan)
    for label in np.unique(labels):
        here = labels == label
        real = directions(real_backgrounds[real_labels == label])
        real = real[~np.isnan(real).any(axis=1)]
        if len(real):
            novelty[here] = np.clip(1 - (directions(backgrounds[here]) @ real.T).max(axis=1), 0, 2)
    return novelty


def mean_distance_within_and_between(
    features: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Mean cosine distance of two different rows of features (n, d) with the same label, and with
    different ones: what a distance is to be compared with. NaN where there are no such pairs; rows
    with NaN are left out.
    """
    defined = ~np.isnan(features).any(axis=1)
    unit, labels = directions(features[defined]), labels[defined]
    sums = np.stack([unit[labels == label].sum(axis=0) for label in np.unique(labels)])
    counts = np.unique(labels, return_counts=True)[1]
    own = (unit * unit).sum()  # of the pairs of a row with itself
    same, same_pairs = (sums * sums).sum() - own, (counts * (counts - 1)).sum()
    total = sums.sum(axis=0)
    other, other_pairs = (
        (total * total).sum() - (sums * sums).sum(),
        len(labels) ** 2 - (counts**2).sum(),
    )
    return tuple(
        float(1 - dot / pairs) if pairs else float("nan")
        for dot, pairs in ((same, same_pairs), (other, other_pairs))
    )


def directions(features: np.ndarray) -> np.ndarray:
    """Rows of features (n, d) scaled to length 1, float64; zeros stay zeros."""
    features = np.asarray(features, np.float64)
    return features / np.maximum(
        np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float64).tiny
    )


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
