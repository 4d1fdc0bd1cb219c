"""One stage of a generation of any size without its images: the plan, records, files, manifest,
card and publishing are this package's own, the rows are copies of one small image.

    python -m parts.scale.simulated STAGE SOURCES PLACE

PLACE: a folder of the store `counted`. What a row costs is left out, so that what a shard, a file
or a commit costs can be seen at sizes that nobody generates on two cores.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import parts.scale.counted  # noqa: F401 (registers the store)
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, load_from_disk
from datasets import Image as ImageFeature
from PIL import Image

from sgdmix_hub.data.splits import Split, split_of
from sgdmix_hub.generation.inputs import Inputs, environment
from sgdmix_hub.generation.plan import plan_parts, write_plan
from sgdmix_hub.generation.plan_file import PlanFile, note_run
from sgdmix_hub.generation.published_files import PublishedFiles
from sgdmix_hub.generation.repository import build_repository
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import SaliencyMaps
from sgdmix_hub.generation.stages import check_finished, planned_shards
from sgdmix_hub.hub.pins import CONTENT, Pin
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.layout import RepoLayout, shard_features
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.storage.scratch import end_scratch, local_folder, start_scratch
from sgdmix_hub.storage.stores import Store, store_of

CLASSES, VARIANTS, SIDE, ROWS_PER_SHARD, KINDS = 1000, 5, 32, 1024, 64
PART = 100 * CLASSES  # rows that are in memory once, however often they are written


class KindsOfMaps:
    """A few maps that all rows share, as if they were a million."""

    unusable: dict[int, str] = {}

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._maps = rng.random((KINDS, 64, 64)).astype(np.float16)

    def __getitem__(self, rows, /) -> np.ndarray:
        return self._maps[np.asarray(rows) % KINDS]


def settings_of(output: OutputFolder) -> AugmentSettings:
    return apply_preset(
        AugmentSettings(
            dataset_name="simulated",
            output_dir=str(output),
            preset="paper",
            saliency_method="spectral-residual",
            selection_method="random",
            strength=0.0,
            resolution=SIDE,
            num_variants=VARIANTS,
            rows_per_shard=ROWS_PER_SHARD,
            license="mit",
        )
    )


def prepare(folder: Path, sources: int) -> None:
    """Writes the rows of a split, whose images are one image. Not part of what is measured."""
    labels = pa.array(np.arange(min(sources, PART)) % CLASSES)
    cells = pa.array([{"bytes": png(), "path": None}]).take(pa.array(np.zeros(len(labels), int)))
    names = [f"class {number}" for number in range(CLASSES)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    part = pa.table({"image": cells, "label": labels}).cast(features.arrow_schema)
    parts = [part.slice(0, sources - start) for start in range(0, sources, PART)]
    Dataset(pa.concat_tables(parts)).save_to_disk(str(folder))


def prepared_split(folder: Path) -> Split:
    """The split, memory-mapped."""
    pin = Pin("simulated", CONTENT + "0" * 64, str(folder))
    rows = load_from_disk(str(folder))
    assert isinstance(rows, Dataset)
    return split_of(rows, pin, "image", "label")


def png() -> bytes:
    """A bright square before a dark ground: few bytes, so that a million rows fit on a disk."""
    pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
    pixels[8:24, 8:24] = 230
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def plan(settings: AugmentSettings, inputs: Inputs, output: OutputFolder, store: Store) -> None:
    note_run(output.state, {"settings": {}, "pins": inputs.pins})
    store.keep(output.state / "run.json")
    maps = SaliencyMaps(KindsOfMaps(), "simulated", "spectral-residual")
    PlanFile(output, store).put(
        lambda path: write_plan(path, plan_parts(settings, inputs.split, maps))
    )


def shards(settings: AugmentSettings, inputs: Inputs, output: OutputFolder, store: Store) -> None:
    """Every shard, by one worker."""
    planned = planned_shards(settings, output, store)
    schema = shard_features(inputs.split.class_names, settings.more_columns).arrow_schema
    cell, labels = {"bytes": png(), "path": None}, inputs.split.labels
    alike = dict.fromkeys(schema.names) | dict.fromkeys(("image", *settings.more_images), cell)
    alike |= {"source_width": SIDE, "source_height": SIDE, "foreground_area": 0.25}
    alike |= dict.fromkeys(
        ("strength", "effective_strength", "sigma_start", "foreground_strength"), 0.0
    )
    facts = {"skipped": [], "seconds": 0.0, "environment": environment(settings)}
    for number in range(len(planned)):
        rows = [
            alike
            | {name: value for name, value in vars(row).items() if name in alike}
            | {
                "label": int(labels[row.source_index]),
                "target_label": int(labels[row.target_index]),
                "prompt": None,
            }
            for row in planned.rows(number)
        ]
        planned.write(number, rows, schema, facts)


def finish(settings: AugmentSettings, inputs: Inputs, output: OutputFolder, store: Store) -> None:
    planned = planned_shards(settings, output, store)
    maps = SaliencyMaps(KindsOfMaps(), "simulated", "spectral-residual")
    check_finished(planned, "finish")
    maker = RowMaker(settings, inputs, maps)
    files = PublishedFiles(planned, RepoLayout(settings.config_name), output, store)
    build_repository(settings, inputs, maps, maker, files, output, store)


STAGES = {"plan": plan, "shards": shards, "finish": finish}


def main() -> None:
    stage, sources, place = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if stage == "prepare":
        prepare(Path(place) / "split", sources)
        return
    split = prepared_split(Path(place) / "split")
    url = f"counted://{place}/run"
    store, output = store_of(url), OutputFolder(local_folder(url))
    start_scratch(output.path)
    try:
        inputs = Inputs(split, None, None, None, None)
        STAGES[stage](settings_of(output), inputs, output, store)
    finally:
        end_scratch(output.path)


if __name__ == "__main__":
    main()
