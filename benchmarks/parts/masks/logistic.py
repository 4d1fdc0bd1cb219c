"""A logistic model of shares in [0, 1] with weighted rows, which scikit-learn takes labels for."""

from __future__ import annotations

import numpy as np

STEPS, SMALLEST_STEP = 20, 1e-4


def logistic_weights(
    seen: np.ndarray, share: np.ndarray, weight: np.ndarray, ridge: float = 1.0
) -> tuple[np.ndarray, float]:
    """Weights (d,) and bias of the log-odds of `share` (n,), by Newton's method.

    `seen`: float (n, d); `weight`: of each row (n,); `ridge`: of the squared weights, of columns
    scaled to a deviation of one.
    """
    mean, deviation = seen.mean(axis=0), seen.std(axis=0) + 1e-9
    scaled = np.hstack([(seen - mean) / deviation, np.ones((len(seen), 1))])
    penalty = np.diag([ridge] * seen.shape[1] + [0.0])
    fitted = np.zeros(scaled.shape[1])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip(scaled @ fitted, -30, 30)))
        curvature = np.maximum(chance * (1 - chance), 1e-6) * weight
        slope = scaled.T @ (weight * (share - chance)) - penalty @ fitted
        step = np.linalg.solve((scaled * curvature[:, None]).T @ scaled + penalty, slope)
        fitted += step
        if abs(step).max() < SMALLEST_STEP:
            break
    weights = fitted[:-1] / deviation
    return weights, float(fitted[-1] - weights @ mean)
