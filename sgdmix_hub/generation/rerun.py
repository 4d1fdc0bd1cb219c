"""Takes the plan of a published version for a rerun.

Saliency maps of another machine may differ in their last bits and lead to other targets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.manifests import read_manifest
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.targets import NO_TARGET
from sgdmix_hub.models.prompts import num_prompts
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.fetched import PUBLISHED_BESIDE, STRENGTHS
from sgdmix_hub.settings.generation import (
    MAY_MOVE_LAST_BITS,
    PINNED_INPUTS,
    AugmentSettings,
    published_settings,
)
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset

from .plan import NO_CANDIDATE, PLAN_SCHEMA
from .variants import variant_counts

ROWS_AT_ONCE = 2**14
LONGEST_REASON = 500  # characters


def published_plan(
    settings: AugmentSettings, pins: dict[str, str], split: Split, bank_rows: int | None = None
) -> Path | None:
    """The plan beside the published configuration that this run was started from.

    None if there is none, or if the run's settings differ, which is reported. `settings` must have
    the preset applied. `bank_rows`: how many rows the bank of backgrounds has, if there is one.
    Raises `UserError` if the plan is damaged, or the table of a pilot beside it.
    """
    if settings.config is None:
        return None
    plan, manifest = (Path(settings.config).parent / name for name in PUBLISHED_BESIDE)
    if not (plan.is_file() and manifest.is_file()):
        return None
    changed = different_settings(settings, settings.config, pins)
    if changed:
        say(f"{', '.join(changed)} not as in {settings.config}: this run makes a new plan")
        return None
    files = read_manifest(manifest)["files"]
    check_stated(plan, files, "plan")
    if settings.strength_choice is not None:
        check_stated(plan.with_name(STRENGTHS), files, "table of strengths")
    check_plan(plan, settings, split, bank_rows)
    say(f"the plan is that of {settings.config}")
    return plan


def check_stated(path: Path, files: dict[str, dict], what: str) -> None:
    """Raises `UserError` unless a published file is the one that its manifest's `files` state."""
    stated = [facts["sha256"] for name, facts in files.items() if name.endswith(f"/{path.name}")]
    if not path.is_file() or stated != [file_sha256(path)]:
        raise UserError(f"{path} is not the {what} of its manifest: download it again")


def different_settings(settings: AugmentSettings, config: str, pins: dict[str, str]) -> list[str]:
    """Names of the settings that change the images and differ from those in `config`.

    A setting that is newer than `config` is compared with its default, an input by its content.
    """
    arguments = ["--config", config, f"--output_dir={settings.output_dir}"]
    before = apply_preset(parse_settings(AugmentSettings, arguments))
    published = {
        name: getattr(before, name) for name in PINNED_INPUTS if getattr(before, name) is not None
    }
    old, new = published_settings(before, published), published_settings(settings, pins)
    inputs = [
        name
        for name in PINNED_INPUTS
        if not Pin.parse(published.get(name, "")).holds_same_as(Pin.parse(pins.get(name, "")))
    ]
    skipped = {*PINNED_INPUTS, *MAY_MOVE_LAST_BITS}
    return inputs + [
        name for name in sorted({*old, *new} - skipped) if old.get(name) != new.get(name)
    ]


def check_plan(
    path: Path, settings: AugmentSettings, split: Split, bank_rows: int | None = None
) -> None:
    """Raises `UserError` unless a plan fits the settings and the split.

    It must have exactly the expected sources and variants, different seeds, the strengths of the
    settings, numbers of their prompts, and targets that are in the subset and of allowed classes
    or, with a bank of backgrounds, rows of the bank.
    """
    try:
        file = pq.ParquetFile(path)
        fits = file.schema_arrow.equals(PLAN_SCHEMA) and _has_rows(file, settings, split)
        # seeds need only differ: another version may derive them in another way
        fits = fits and len(file.read(["seed"])["seed"].unique()) == file.metadata.num_rows
        fits = fits and all(
            _are_rows(rows, settings, split, bank_rows) for rows in file.iter_batches(ROWS_AT_ONCE)
        )
    except (OSError, ValueError, pa.ArrowException) as error:  # not a valid parquet file
        raise UserError(f"{path} cannot be read: {one_line(first_line(error))}") from error
    if not fits:
        raise UserError(
            f"{path} is the plan of another subset, seed or strength than {settings.config} states"
        )


def _has_rows(file: pq.ParquetFile, settings: AugmentSettings, split: Split) -> bool:
    """Whether a plan has the variants of every row of the subset, in order."""
    counts = _planned_variants(file, settings, split)
    ends, place = np.cumsum(counts), 0
    if file.metadata.num_rows != counts.sum():
        return False
    for rows in file.iter_batches(ROWS_AT_ONCE, columns=["source_index", "variant"]):
        if any(column.null_count for column in rows.columns):
            return False
        positions = np.arange(place, place + len(rows))
        of_row = np.searchsorted(ends, positions, side="right")
        place += len(rows)
        sources, variants = (column.to_numpy() for column in rows.columns)
        expected = positions - ends[of_row] + counts[of_row]
        if not ((sources == split.subset[of_row]).all() and (variants == expected).all()):
            return False
    return True


def _planned_variants(file: pq.ParquetFile, settings: AugmentSettings, split: Split) -> np.ndarray:
    """The variants that each row of the subset should have, int64 (n,).

    Which rows cannot be mixed is taken from the plan, the rest from the settings.
    """
    rows = file.read(["source_index", "target_index", "skip"])
    sources, targets = (rows[name].to_numpy() for name in ("source_index", "target_index"))
    others = pc.call_function("not_equal", [rows["skip"], NO_CANDIDATE])
    left_out = pc.fill_null(others, False).to_numpy()
    is_unmixed = np.isin(split.subset, sources[sources == targets])
    is_left_out = np.isin(split.subset, sources[left_out])
    labels = split.labels[split.subset]
    return variant_counts(settings, labels, ~is_unmixed & ~is_left_out, is_unmixed)


def _are_rows(
    rows: pa.RecordBatch,
    settings: AugmentSettings,
    split: Split,
    bank_rows: int | None,
) -> bool:
    """Whether rows of a plan have values that are possible."""
    if any(rows.column(name).null_count for name in PLAN_SCHEMA.names if name != "skip"):
        return False
    sources, _, targets, seeds, strengths, distances, prompts = (
        rows.column(name).to_numpy() for name in PLAN_SCHEMA.names[:-1]
    )
    skipped = rows.column("skip").is_valid().to_numpy(zero_copy_only=False)
    reasons = rows.column("skip").drop_null().to_pylist()
    if settings.low_confidence == "keep-unmixed":
        unmixed = ~skipped & (sources == targets) & (strengths == 0)
    else:
        unmixed = np.zeros_like(skipped)
    mixed = ~skipped & ~unmixed
    made, chosen = sources[mixed], targets[mixed]
    return (
        bool((seeds >= 0).all() and np.isin(strengths[~unmixed], settings.strength).all())
        and bool(((prompts >= 0) & (prompts < num_prompts(settings))).all())
        and _are_targets(made, chosen, settings, split, bank_rows)
        and bool((targets[skipped] == NO_TARGET).all())
        and bool((np.isfinite(distances) & (distances >= 0))[~skipped].all())
        and all(len(reason) <= LONGEST_REASON and reason.isprintable() for reason in reasons)
    )


def _are_targets(
    made: np.ndarray,
    chosen: np.ndarray,
    settings: AugmentSettings,
    split: Split,
    bank_rows: int | None,
) -> bool:
    """Whether these rows can be the targets of the rows `made`."""
    if bank_rows is not None:
        first = len(split.labels)
        return bool(((chosen >= first) & (chosen < first + bank_rows)).all())
    return bool((np.isin(chosen, split.subset) & (chosen != made)).all()) and _classes_fit(
        split.labels[made], split.labels[chosen], settings.target_classes
    )


def _classes_fit(labels: np.ndarray, target_labels: np.ndarray, target_classes: str | None) -> bool:
    """Whether targets are of the classes that `target_classes` allows."""
    same = labels == target_labels
    return target_classes == "any" or bool(
        same.all() if target_classes == "same" else not same.any()
    )
