"""An `evaluate` metric: distance between the distributions of synthetic and real features.

It is the unbiased squared maximum mean discrepancy (MMD) with the kernel (x.y / d + 1)^3, the
kernel distance of Binkowski et al. (ICLR 2018); with Inception's features it is called KID. Values
of different encoders cannot be compared.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Unbiased squared MMD with the polynomial kernel of degree 3 (KID) between two sets of "
    "features, with a standard error."
)
NUM_SUBSETS = 10
MOST_ROWS = 3000  # of each kind, because the kernel of all pairs is in memory


class KernelDistance(evaluate.Metric):
    """`compute(features=, real_features=)`: (d,) per synthetic image, and (m, d) in all.

    Returns, or NaN for fewer than 4 images of a kind:
    - `kernel_distance`: the estimate from at most 3000 images of each kind. Its expectation is 0
      for independent images of one distribution, so it can be negative. It is negative if the
      synthetic images contain parts of the same real images;
    - `standard_error`: by the jackknife over 10 subsets, each left out once; too large rather than
      too small for a distance of 0.
    """

    def _info(self):
        features = datasets.Features({"features": datasets.Sequence(datasets.Value("float64"))})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, **columns):
        return kernel_distance(**{name: np.asarray(column) for name, column in columns.items()})


def kernel_distance(features: np.ndarray, real_features: np.ndarray) -> dict[str, float]:
    """The metric's figures, of features (n, d) and (m, d), which may be memory-mapped.

    If there are more than 3000 images, a fixed random choice of them is used.
    """
    num_subsets = min(NUM_SUBSETS, len(features) // 2, len(real_features) // 2)
    if num_subsets < 2:
        return {"kernel_distance": float("nan"), "standard_error": float("nan")}
    rng = np.random.default_rng(0)
    chosen = features[rng.permutation(len(features))[:MOST_ROWS]]
    real = real_features[rng.permutation(len(real_features))[:MOST_ROWS]]
    left_out = np.array(
        [squared_mmd(*_without(chosen, real, subset, num_subsets)) for subset in range(num_subsets)]
    )
    spread = (num_subsets - 1) * np.mean((left_out - left_out.mean()) ** 2)
    return {"kernel_distance": squared_mmd(chosen, real), "standard_error": float(np.sqrt(spread))}


def _without(
    features: np.ndarray, real: np.ndarray, subset: int, num_subsets: int
) -> list[np.ndarray]:
    return [rows[np.arange(len(rows)) % num_subsets != subset] for rows in (features, real)]


def squared_mmd(features: np.ndarray, others: np.ndarray) -> float:
    """Unbiased estimate of the squared MMD of (n, d) and (m, d), n, m >= 2.

    Gretton et al., JMLR 2012, Eq. 3.
    """
    means = [
        (gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1))
        for gram in (kernel(features, features), kernel(others, others))
    ]
    return float(sum(means) - 2 * kernel(features, others).mean())


def kernel(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 (n, m): (x.y / d + 1)^3 of features (n, d) and others (m, d)."""
    features, others = np.asarray(features, np.float64), np.asarray(others, np.float64)
    return (features @ others.T / features.shape[1] + 1) ** 3
