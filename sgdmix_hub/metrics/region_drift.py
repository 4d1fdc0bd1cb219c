"""An `evaluate` metric: distance of synthetic images from their sources, on each side of the mask.

The functions take features (n, d), by any image encoder, of images with one side of the mask left,
and return one cosine distance in [0, 2] per row, float64 (n,). A side without pixels has NaN
features and a NaN distance; the metric reports the means over the other rows.
"""

import datasets
import evaluate
import numpy as np

from sgdmix_hub.metrics.cosine import cosine_distance, directions

DESCRIPTION = (
    "Foreground drift and background novelty of synthetic images: feature distances from their "
    "sources on each side of the mask."
)


class RegionDrift(evaluate.Metric):
    """`compute(**columns, real_backgrounds=, real_labels=)`.

    Columns, one entry per synthetic image:
    - `foreground`, `background`: its features with one side of its source's mask left, (d,) each;
    - `source_foreground`, `source_background`: the same of its source;
    - `label`: integer.

    Not columns: `real_backgrounds` (m, d) and `real_labels` (m,), of the real images.

    Returns means in [0, 2]:
    - `foreground_drift`, lower is better: distance of the foreground, which the label names, from
      the source's;
    - `background_novelty`: distance of the background from the source's;
    - `background_novelty_in_class`: distance of the background from the nearest background of a
      real image of the class.

    Novelty is only of value with a small drift: noise is far from everything.
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

    def _compute(self, **columns):
        return region_drift(**{name: np.asarray(column) for name, column in columns.items()})


def region_drift(
    foreground: np.ndarray,
    background: np.ndarray,
    source_foreground: np.ndarray,
    source_background: np.ndarray,
    label: np.ndarray,
    real_backgrounds: np.ndarray,
    real_labels: np.ndarray,
) -> dict[str, float]:
    """The metric's figures, of features (n, d) and (m, d) and integers (n,) and (m,)."""
    in_class = novelty_in_class(background, label, real_backgrounds, real_labels)
    return {
        "foreground_drift": mean_of_defined(cosine_distance(foreground, source_foreground)),
        "background_novelty": mean_of_defined(cosine_distance(background, source_background)),
        "background_novelty_in_class": mean_of_defined(in_class),
    }


def novelty_in_class(
    backgrounds: np.ndarray,
    labels: np.ndarray,
    real_backgrounds: np.ndarray,
    real_labels: np.ndarray,
) -> np.ndarray:
    """float64 (n,): cosine distance of each background from the nearest real one of its label.

    Features (n, d) and (m, d), integers (n,) and (m,). NaN if the class has no real background.
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
    """Mean cosine distance of two rows of features (n, d) with the same label, and with others.

    Rows with NaN are left out. NaN if there are no such pairs.
    """
    defined = ~np.isnan(features).any(axis=1)
    unit, labels = directions(features[defined]), labels[defined]
    sums = np.stack([unit[labels == label].sum(axis=0) for label in np.unique(labels)])
    counts = np.unique(labels, return_counts=True)[1]
    own = (unit * unit).sum()  # pairs of a row with itself
    same, same_pairs = (sums * sums).sum() - own, (counts * (counts - 1)).sum()
    total = sums.sum(axis=0)
    other = (total * total).sum() - (sums * sums).sum()
    other_pairs = len(labels) ** 2 - (counts**2).sum()
    return (
        float(1 - same / same_pairs) if same_pairs else float("nan"),
        float(1 - other / other_pairs) if other_pairs else float("nan"),
    )


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
