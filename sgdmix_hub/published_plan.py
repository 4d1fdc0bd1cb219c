"""A rerun of a published version takes its plan: saliency maps of another machine may differ in last bits, and targets with them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq

from .config import MAY_MOVE_LAST_BITS, PINNED_INPUTS, AugmentSettings, apply_preset, published_settings
from .data import Split
from .errors import UserError
from .files import file_sha256, read_json
from .parsing import PUBLISHED_BESIDE, parse_settings
from .pins import same_content
from .processes import say
from .shards import PLAN_SCHEMA

ROWS_AT_ONCE = 2**14


def published_plan(settings: AugmentSettings, pins: dict[str, str], split: Split) -> Path | None:
    """The plan beside the published configuration that this run was started from; None when there is none, or when the run differs from
    what was published, in which case it says so. `settings` with the preset applied. Raises `UserError` on a plan that is not whole."""
    if settings.config is None:
        return None
    plan, manifest = (Path(settings.config).parent / name for name in PUBLISHED_BESIDE)
    if not (plan.is_file() and manifest.is_file()):
        return None
    changed = different_settings(settings, pins)
    if changed:
        say(f"{', '.join(changed)} not as in {settings.config}: this is another generation, with a plan of its own")
        return None
    stated = [facts["sha256"] for name, facts in read_json(manifest)["files"].items() if name.endswith(f"/{plan.name}")]
    if stated != [file_sha256(plan)]:
        raise UserError(f"{plan} is not the plan that its manifest states: fetch it again")
    check_plan(plan, settings, split)
    say(f"the plan is that of {settings.config}")
    return plan


def different_settings(settings: AugmentSettings, pins: dict[str, str]) -> list[str]:
    """Names of the settings that change images and are not as published. A setting that is younger than the publication is compared with
    its default, and an input by its content."""
    before = apply_preset(parse_settings(AugmentSettings, ["--config", settings.config, f"--output_dir={settings.output_dir}"]))
    published = {name: getattr(before, name) for name in PINNED_INPUTS if getattr(before, name) is not None}
    old, new = published_settings(before, published), published_settings(settings, pins)
    inputs = [name for name in PINNED_INPUTS if not same_content(published.get(name, ""), pins.get(name, ""))]
    skipped = {*PINNED_INPUTS, *MAY_MOVE_LAST_BITS}
    return inputs + [name for name in sorted({*old, *new} - skipped) if old.get(name) != new.get(name)]


def check_plan(path: Path, settings: AugmentSettings, split: Split) -> None:
    """Raises `UserError` unless a plan has the rows that the settings give for this split, a seed for each, and their strengths."""
    file = pq.ParquetFile(path)
    expected = product(split.subset.tolist(), range(settings.num_variants))
    fits = file.schema_arrow.equals(PLAN_SCHEMA) and file.metadata.num_rows == len(split.subset) * settings.num_variants
    fits = fits and len(file.read(["seed"])["seed"].unique()) == file.metadata.num_rows  # of which seeds is the publishing version's to say
    if not (fits and all(_is_row(row, *next(expected), settings, len(split.labels)) for row in _rows(file))):
        raise UserError(f"{path} is the plan of another subset, seed or strength than {settings.config} states")


def _rows(file: pq.ParquetFile) -> Iterator[dict]:
    for batch in file.iter_batches(ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _is_row(row: dict, source: int, variant: int, settings: AugmentSettings, num_rows: int) -> bool:
    return (
        (row["source_index"], row["variant"]) == (source, variant)
        and row["seed"] >= 0
        and row["strength"] in settings.strength
        and (row["skip"] is not None or 0 <= row["target_index"] < num_rows)
    )
