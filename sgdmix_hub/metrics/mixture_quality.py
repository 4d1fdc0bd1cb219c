"""What mixtures kept and changed, measured against true foregrounds, as an `evaluate` metric.

The functions take bool masks (n, h, w) and return one value in [0, 1] per row, float64 (n,),
because an interval needs them: NaN where the row has nothing to take a share of. The metric reports
their means over the other rows.
"""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Whether mixtures lose the target's foreground, keep the source's, change the background, and draw on many targets."


class MixtureQuality(evaluate.Metric):
    """`compute(**columns)`, a list of one entry per mixture for each column -> five figures that
    are only worth something together.

    Columns, masks as 0/1 and all of one size:
    - `kept`: the mixture's pixels that come from the source; `shown`: those that show the target as
      it is. No pixel is both; what is neither was filled in (inpainted);
    - `source_mask`, `target_mask`: the true foregrounds;
    - `source_label`, `target_label`, `target_index`: integers.

    Figures:
    - `leak`, in [0, 1], less is better: share of the target's foreground that shows, an object
      which the row's label may not name;
    - `foreground_kept`, in [0, 1]: share of the source's foreground that is still there, what the
      label does name;
    - `background_from_target`, in [0, 1]: share of the source's background that was replaced, by
      the target's or filled-in pixels;
    - `same_class_share`, in [0, 1]: rows whose target is of the source's class, where a leak costs
      no label but the background says as little new about the class;
    - `effective_targets`, from 1 to the number of rows: exp of the entropy of `target_index`, k
      where k targets are used equally often.

    Together, because each one alone has a trivial best. A mixture that is the source has no leak
    and all of its foreground, and changed nothing (`background_from_target` 0); one that is the
    target changed everything, and kept nothing. Targets of one class leak harmlessly; one good
    target for all rows gives every source the same background (`effective_targets` 1).

    A mean over no rows is NaN. ValueError for masks of different sizes, and for a pixel both `kept`
    and `shown`.
    """

    def _info(self):
        mask, integer = (
            datasets.Sequence(datasets.Sequence(datasets.Value("uint8"))),
            datasets.Value("int64"),
        )
        masks = dict.fromkeys(("kept", "shown", "source_mask", "target_mask"), mask)
        integers = dict.fromkeys(("source_label", "target_label", "target_index"), integer)
        features = datasets.Features(masks | integers)
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="", features=features
        )

    def _compute(
        self, kept, shown, source_mask, target_mask, source_label, target_label, target_index
    ):
        kept, shown, source, target = (
            np.asarray(masks, dtype=bool) for masks in (kept, shown, source_mask, target_mask)
        )
        if (kept & shown).any():
            row = int(np.flatnonzero((kept & shown).any(axis=(1, 2)))[0])
            raise ValueError(
                f"row {row}: a pixel cannot be both kept from the source and shown from the target"
            )
        return {
            "leak": mean_of_defined(leak(shown, target)),
            "foreground_kept": mean_of_defined(foreground_kept(kept, source)),
            "background_from_target": mean_of_defined(background_from_target(kept, source)),
            "same_class_share": float(
                np.mean(np.asarray(source_label) == np.asarray(target_label))
            ),
            "effective_targets": effective_targets(np.asarray(target_index)),
        }


def leak(shown: np.ndarray, target_mask: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the target's foreground that the mixture shows; NaN for a target
    without foreground.
    """
    return share(shown, target_mask)


def foreground_kept(kept: np.ndarray, source_mask: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the source's foreground that the mixture keeps; NaN for a source
    without foreground.
    """
    return share(kept, source_mask)


def background_from_target(kept: np.ndarray, source_mask: np.ndarray) -> np.ndarray:
    """float64 (n,): share of the source's background that the mixture does not keep; NaN for a
    source that is all foreground.
    """
    return share(~kept, ~source_mask)


def effective_targets(target_index: np.ndarray) -> float:
    """exp(entropy) of how often each target occurs, integers (n,): from 1 to the number of
    different targets.
    """
    _, counts = np.unique(target_index, return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64 (n,): |part & whole| / |whole| of bool masks (n, h, w); NaN where the whole is empty."""
    size = whole.sum(axis=(1, 2))
    return np.where(size == 0, np.nan, (part & whole).sum(axis=(1, 2)) / np.maximum(size, 1))


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
