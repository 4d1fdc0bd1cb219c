"""Cosine distances of features, on arrays alone: importing this loads no library of metrics."""

import numpy as np


def cosine_distance(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 (n,) in [0, 2]: 1 - cosine of the rows of (n, d) and (n, d); 1 for a zero row."""
    return np.clip(1 - np.einsum("nd,nd->n", directions(features), directions(others)), 0, 2)


def directions(features: np.ndarray) -> np.ndarray:
    """Rows of features (n, d) scaled to length 1, float64; zero rows stay zero."""
    features = np.asarray(features, np.float64)
    return features / np.maximum(
        np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float64).tiny
    )
