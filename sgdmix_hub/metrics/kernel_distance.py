"""How far the features of synthetic images are from those of real ones, as distributions, as an
`evaluate` metric.

The unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3: the kernel distance
of Binkowski et al. (ICLR 2018), called KID where the features are Inception's. Values of different
encoders cannot be compared.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Unbiased squared MMD with the polynomial kernel of degree 3 (KID) between two sets of features, with a standard error."
NUM_SUBSETS = 10
MOST_ROWS = 3000  # of each kind: the kernel of all their pairs is in memory


class KernelDistance(evaluate.Metric):
    """`compute(features=, real_features=)`: `features` (d,) a synthetic image, and beside the
    columns `real_features` (m, d).

    Figures:
    - `kernel_distance`: the estimate from all images, at most 3000 of each kind; 0 in expectation
      for independent images of one distribution, so it may be negative, and is where synthetic
      images hold parts of these very real ones;
    - `standard_error`: by the jackknife over 10 subsets, each left out once; rather too large than
      too small where the distance is 0.

    NaN for fewer than 4 images of a kind.
    """

    def _info(self):
        features = datasets.Features({"features": datasets.Sequence(datasets.Value("float64"))})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, features, real_features):
        return kernel_distance(np.asarray(features), np.asarray(real_features))


def kernel_distance(features: np.ndarray, real_features: np.ndarray) -> dict:
    """What the metric reports, of features (n, d) and (m, d), which may be memory-mapped; always
    the same images of more than 3000.
    """
    num_subsets = min(NUM_SUBSETS, len(features) // 2, len(real_features) // 2)
    if num_subsets < 2:
        return {"kernel_distance": float("nan"), "standard_error": float("nan")}
    rng = np.random.default_rng(0)
    chosen, real = (of[rng.permutation(len(of))[:MOST_ROWS]] for of in (features, real_features))
    left_out = np.array(
        [squared_mmd(*_without(chosen, real, subset, num_subsets)) for subset in range(num_subsets)]
    )
    spread = (num_subsets - 1) * np.mean((left_out - left_out.mean()) ** 2)
    return {"kernel_distance": squared_mmd(chosen, real), "standard_error": float(np.sqrt(spread))}


def _without(
    features: np.ndarray, real: np.ndarray, subset: int, num_subsets: int
) -> list[np.ndarray]:
    return [of[np.arange(len(of)) % num_subsets != subset] for of in (features, real)]


def squared_mmd(features: np.ndarray, others: np.ndarray) -> float:
    """The unbiased estimate of the squared MMD of features (n, d) and others (m, d), n, m >= 2
    (Gretton et al., JMLR 2012, Eq. 3).
    """
    own, theirs, across = (
        kernel(features, features),
        kernel(others, others),
        kernel(features, others),
    )
    means = [
        (gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)) for gram in (own, theirs)
    ]
    return float(sum(means) - 2 * across.mean())


def kernel(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 (n, m): (x.y / d + 1)^3 of features (n, d) and others (m, d)."""
    features, others = np.asarray(features, np.float64), np.asarray(others, np.float64)
    return (features @ others.T / features.shape[1] + 1) ** 3
