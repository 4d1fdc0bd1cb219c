"""Means with 95 % t-intervals, as the tables print them."""

import numpy as np
from scipy import stats


def half_width(values) -> float:
    """Half of the 95 % t-interval of the mean; nan for fewer than two values."""
    if len(values) < 2:
        return float("nan")
    return float(
        stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    )


def interval(values) -> str:
    """`.812 ± .021`, or `.812` for one value."""
    return f"{np.mean(values):.3f}" + (f" ± {half_width(values):.3f}" if len(values) > 1 else "")


def paired(values, others) -> str:
    """Mean difference, interval and p-value of the paired t-test: `+.050 ± .021 (p = .003)`."""
    differences = np.subtract(values, others)
    if len(differences) < 2 or not np.ptp(differences):
        return f"{differences.mean():+.3f}"
    p = stats.ttest_rel(values, others).pvalue
    return (
        f"{differences.mean():+.3f} ± {half_width(differences):.3f} (p "
        f"{'< .001' if p < 0.001 else f'= {p:.3f}'})"
    )


def paired_p(values, others) -> float:
    """The p-value of the paired t-test; nan for fewer than two pairs, or where all differ alike."""
    differences = np.subtract(values, others)
    if len(differences) < 2 or not np.ptp(differences):
        return float("nan")
    return float(stats.ttest_rel(values, others).pvalue)


def holm(p_values) -> np.ndarray:
    """p-values after Holm (1979), float64 in the given order; nan stays and does not count."""
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(len(p_values), np.nan)
    order = [i for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
