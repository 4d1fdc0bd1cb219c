"""The Fréchet distance between two sets of features, as if both were drawn from Gaussians."""

from __future__ import annotations

import numpy as np

RESAMPLES = 200


def between_gaussians(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), float64: means (D,), covariances (D, D).

    The trace of the root is the sum of the roots of the eigenvalues of C^(1/2) C' C^(1/2), which is
    symmetric: no complex numbers.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product_eigenvalues = np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)
    return float(
        np.square(mean - other_mean).sum()
        + np.trace(covariance + other_covariance)
        - 2 * np.sqrt(product_eigenvalues).sum()
    )


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Between two sets of features, float64 (N, D) and (M, D)."""
    return between_gaussians(features.mean(0), np.cov(features.T), others.mean(0), np.cov(others.T))


def frechet_half_width(features: np.ndarray, others: np.ndarray) -> float:
    """1.96 standard deviations of the distance over bootstrap resamples of both sets."""
    rng = np.random.default_rng(0)
    distances = [
        frechet_distance(
            *(
                rng.choice(features_of_one, len(features_of_one))
                for features_of_one in (features, others)
            )
        )
        for _ in range(RESAMPLES)
    ]
    return float(1.96 * np.std(distances, ddof=1))
