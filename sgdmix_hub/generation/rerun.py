"""A rerun of a published version takes its plan: saliency maps of another machine may differ in
last bits, and targets with them.
"""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.formats import read_manifest
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.method.targets import NO_TARGET
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.fetched import PUBLISHED_BESIDE
from sgdmix_hub.settings.generation import (
    MAY_MOVE_LAST_BITS,
    PINNED_INPUTS,
    AugmentSettings,
    published_settings,
)
from sgdmix_hub.settings.method import apply_preset
from sgdmix_hub.settings.parsing import parse_settings

from .plan import PLAN_SCHEMA

ROWS_AT_ONCE = 2**14
LONGEST_REASON = 500  # characters


def published_plan(settings: AugmentSettings, pins: dict[str, str], split: Split) -> Path | None:
    """The plan beside the published configuration that this run was started from; None when there
    is none, or when the run differs from what was published, in which case it says so. `settings`
    with the preset applied. Raises `UserError` on a plan that is not whole.
    """
    if settings.config is None:
        return None
    plan, manifest = (Path(settings.config).parent / name for name in PUBLISHED_BESIDE)
    if not (plan.is_file() and manifest.is_file()):
        return None
    changed = different_settings(settings, pins)
    if changed:
        say(
            f"{', '.join(changed)} not as in {settings.config}: this is another generation, with a plan of its own"
        )
        return None
    stated = [
        facts["sha256"]
        for name, facts in read_manifest(manifest)["files"].items()
        if name.endswith(f"/{plan.name}")
    ]
    if stated != [file_sha256(plan)]:
        raise UserError(f"{plan} is not the plan that its manifest states: fetch it again")
    check_plan(plan, settings, split)
    say(f"the plan is that of {settings.config}")
    return plan


def different_settings(settings: AugmentSettings, pins: dict[str, str]) -> list[str]:
    """Names of the settings that change images and are not as published. A setting that is younger
    than the publication is compared with its default, and an input by its content.
    """
    before = apply_preset(
        parse_settings(
            AugmentSettings, ["--config", settings.config, f"--output_dir={settings.output_dir}"]
        )
    )
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


def check_plan(path: Path, settings: AugmentSettings, split: Split) -> None:
    """Raises `UserError` unless a plan has the rows that the settings give for this split, a seed
    for each, their strengths, and targets of the subset and of the classes that they allow.
    """
    expected = product(split.subset.tolist(), range(settings.num_variants))
    try:
        file = pq.ParquetFile(path)
        fits = (
            file.schema_arrow.equals(PLAN_SCHEMA)
            and file.metadata.num_rows == len(split.subset) * settings.num_variants
        )
        # which seeds they are is the publishing version's to say
        fits = fits and len(file.read(["seed"])["seed"].unique()) == file.metadata.num_rows
        fits = fits and all(
            _are_rows(rows, list(islice(expected, len(rows))), settings, split)
            for rows in file.iter_batches(ROWS_AT_ONCE)
        )
    except (
        OSError,
        ValueError,
        pa.ArrowException,
    ) as error:  # what Arrow raises on a file that is none of its own
        raise UserError(f"{path} cannot be read: {one_line(first_line(error))}") from error
    if not fits or next(expected, None) is not None:
        raise UserError(
            f"{path} is the plan of another subset, seed or strength than {settings.config} states"
        )


def _are_rows(
    rows: pa.RecordBatch, expected: list[tuple[int, int]], settings: AugmentSettings, split: Split
) -> bool:
    """Whether rows of a plan are those of the expected sources and variants, with targets that this
    split and these settings have.
    """
    if any(rows.column(name).null_count for name in PLAN_SCHEMA.names if name != "skip"):
        return False
    sources, variants, targets, seeds, strengths, distances = (
        rows.column(name).to_numpy() for name in PLAN_SCHEMA.names[:-1]
    )
    skipped = pc.is_valid(rows.column("skip")).to_numpy(zero_copy_only=False)
    if settings.low_confidence == "keep-unmixed":
        unmixed = ~skipped & (sources == targets) & (strengths == 0)
    else:
        unmixed = np.zeros_like(skipped)
    mixed = ~skipped & ~unmixed
    made, chosen = sources[mixed], targets[mixed]
    return (
        len(rows) == len(expected)
        and list(zip(sources.tolist(), variants.tolist(), strict=True)) == expected
        and bool((seeds >= 0).all() and np.isin(strengths[~unmixed], settings.strength).all())
        and bool((np.isin(chosen, split.subset) & (chosen != made)).all())
        and bool((targets[skipped] == NO_TARGET).all())
        and _classes_fit(split.labels[made], split.labels[chosen], settings.target_classes)
        and bool((np.isfinite(distances) & (distances >= 0))[~skipped].all())
        and (pc.max(pc.utf8_length(rows.column("skip"))).as_py() or 0) <= LONGEST_REASON
        and all(reason.isprintable() for reason in rows.column("skip").drop_null().to_pylist())
    )


def _classes_fit(labels: np.ndarray, target_labels: np.ndarray, target_classes: str) -> bool:
    """Whether targets are of the classes that `target_classes` allows."""
    same = labels == target_labels
    return target_classes == "any" or bool(
        same.all() if target_classes == "same" else not same.any()
    )
