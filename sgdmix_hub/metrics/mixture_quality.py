"""An `evaluate` metric: what mixtures keep and change, measured against true foregrounds.

The functions take bool masks (n, h, w) and return one value in [0, 1] per row, float64 (n,), from
which intervals can be computed. A value is NaN if the row has no pixels to take a share of; the
metric reports the means over the other rows.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = (
    "Whether mixtures hide the target's foreground, keep the source's, change the background, and "
    "use many targets."
)


class MixtureQuality(evaluate.Metric):
    """`compute(**columns)` with one entry per mixture.

    Columns; masks are 0/1 and of one size:
    - `kept`: pixels that come from the source;
    - `shown`: pixels that show the target unchanged. No pixel is both kept and shown; one that is
      neither was inpainted;
    - `source_mask`, `target_mask`: the true foregrounds;
    - `source_label`, `target_label`, `target_index`: integers.

    Returns:
    - `leak`, in [0, 1], lower is better: share of the target's foreground that is visible, an
      object that the label may not name;
    - `foreground_kept`, in [0, 1]: share of the source's foreground that is kept, which the label
      names;
    - `background_from_target`, in [0, 1]: share of the source's background that was replaced by
      target pixels or inpainted ones;
    - `same_class_share`, in [0, 1]: rows whose target has the source's class. Their leak costs no
      label, but their background says little new about the class;
    - `effective_targets`, from 1 to the number of rows: exp of the entropy of `target_index`; it is
      k if k targets are used equally often.

    Read the figures together: each one alone has a trivial optimum. A mixture equal to the source
    has no leak and its full foreground, but changes nothing. One equal to the target changes
    everything and keeps nothing. Targets of the source's class leak harmlessly. A single good
    target for all rows gives every source the same background (`effective_targets` 1).

    A mean over no rows is NaN. Raises `ValueError` for masks of different sizes, and for a pixel
    that is both `kept` and `shown`.
    """

    def _info(self):
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        masks = dict.fromkeys(("kept", "shown", "source_mask", "target_mask"), mask)
        integers = dict.fromkeys(
            ("source_label", "target_label", "target_index"), datasets.Value("int64")
        )
        features = datasets.Features(masks | integers)
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(self, **columns):
        return mixture_quality(**{name: np.asarray(column) for name, column in columns.items()})


def mixture_quality(
    kept: np.ndarray,
    shown: np.ndarray,
    source_mask: np.ndarray,
    target_mask: np.ndarray,
    source_label: np.ndarray,
    target_label: np.ndarray,
    target_index: np.ndarray,
) -> dict[str, float]:
    """The metric's figures, of 0/1 masks (n, h, w) and integers (n,). Raises `ValueError`."""
    kept, shown = kept.astype(bool), shown.astype(bool)
    source, target = source_mask.astype(bool), target_mask.astype(bool)
    both = (kept & shown).any(axis=(1, 2))
    if both.any():
        raise ValueError(
            f"row {int(np.flatnonzero(both)[0])}: a pixel cannot be both kept from the source and "
            "shown from the target"
        )
    return {
        "leak": mean_of_defined(leak(shown, target)),
        "foreground_kept": mean_of_defined(foreground_kept(kept, source)),
        "background_from_target": mean_of_defined(background_from_target(kept, source)),
        "same_class_share": float(np.mean(source_label == target_label)),
        "effective_targets": effective_targets(target_index),
    }


def leak(shown: np.ndarray, target_mask: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the target's foreground that is shown; NaN without foreground."""
    return share(shown, target_mask)


def foreground_kept(kept: np.ndarray, source_mask: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the source's foreground that is kept; NaN without foreground."""
    return share(kept, source_mask)


def background_from_target(kept: np.ndarray, source_mask: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the source's background that is not kept; NaN without background."""
    return share(~kept, ~source_mask)


def effective_targets(target_index: np.ndarray) -> float:
    """exp(entropy) of the targets' frequencies, integers (n,): from 1 to the number of targets."""
    _, counts = np.unique(target_index, return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64 (n,): |part & whole| / |whole| of bool masks (n, h, w); NaN if `whole` is empty."""
    size = whole.sum(axis=(1, 2))
    return np.where(size == 0, np.nan, (part & whole).sum(axis=(1, 2)) / np.maximum(size, 1))


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
