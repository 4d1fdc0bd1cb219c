"""The pilot of `strength auto`: a few rows of every class, made at every strength and looked at.

    state/pilot-HASH/rows.parquet    the rows, as the plan has them
    state/pilot-HASH/00000.json      what was measured of a class, by its number
    state/strengths.json             the table of all classes, and the strength of each; published

A class is measured by one process, whatever their number: its figures depend on its rows alone. A
stopped pilot goes on with the classes that are missing. HASH is that of the run's fingerprint.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tqdm.auto import tqdm

from sgdmix_hub.errors import Unusable
from sgdmix_hub.files import DamagedFile, made_again, read_sealed, write_atomically, write_sealed
from sgdmix_hub.method.mixer import Mixture
from sgdmix_hub.method.strength import ClassPilot, PilotBounds, chosen_strengths, shuffled_strengths
from sgdmix_hub.metrics.cosine import cosine_distance, directions
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.runtime.ranks import Rank, say
from sgdmix_hub.runtime.stopping import stop_if_requested, wait_for_file
from sgdmix_hub.seeds import RandomStream, generator
from sgdmix_hub.settings.generation import AugmentSettings, fingerprint
from sgdmix_hub.storage.stores import Store

from .plan import PlanRow, rows_of, table_of, write_plan
from .row_maker import RowMaker

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Judge

Draft = Callable[[], Iterable[pa.Table]]


def pilot_strengths(
    maker: RowMaker, draft: Draft, output: OutputFolder, store: Store, rank: Rank
) -> dict[int, float]:
    """The strength of every class that the plan makes rows of, on rank 0. A collective.

    `draft`: the parts of the plan, whatever their strengths. Writes the table. Raises `UserError`
    if the classifier cannot be used.
    """
    settings = maker.settings
    folder = output.state / f"pilot-{fingerprint(settings, maker.inputs.pins)[:16]}"
    path = folder / "rows.parquet"
    if rank.is_main_process and not path.exists():
        rows = pilot_rows(settings, _rows(draft()), maker.label)
        write_atomically(path, lambda temporary: write_plan(temporary, [table_of(rows)]))
    wait_for_file(path)
    by_class: dict[int, list[PlanRow]] = {}
    for row in rows_of(pq.read_table(path)):
        by_class.setdefault(maker.label(row), []).append(row)
    labels = sorted(by_class)
    mine = [label for label in labels[rank.index :: rank.count] if not is_whole(folder, label)]
    if mine:
        maker.load_refiner(rank.device)
        classifier = pilot_classifier(maker, rank.device)
        for label in tqdm(mine, desc="pilot", unit="class", disable=not rank.is_main_process):
            write_sealed(class_path(folder, label), measured(maker, classifier, by_class[label]))
    if not rank.is_main_process:
        return {}
    for label in labels:
        wait_for_file(class_path(folder, label))
    table = pilot_table(settings, [read_sealed(class_path(folder, label)) for label in labels])
    write_sealed(output.strengths, table)
    store.keep(output.strengths)
    return {int(label): strength for label, strength in table["strengths"].items()}


def pilot_rows(
    settings: AugmentSettings, plan: Iterable[PlanRow], label_of: Callable[[PlanRow], int]
) -> list[PlanRow]:
    """The first variants of a few sources of every class, which the seed draws, in plan order."""
    drawn: dict[int, list[tuple[float, int, PlanRow]]] = {}
    for row in plan:
        if row.variant > 0 or row.skip is not None or row.is_unmixed:
            continue
        of_class = drawn.setdefault(label_of(row), [])
        place = generator(RandomStream.PILOT, settings.seed, row.source_index).random()
        heapq.heappush(of_class, (-place, row.source_index, row))
        if len(of_class) > settings.rows_of_class:
            heapq.heappop(of_class)
    rows = [row for of_class in drawn.values() for *_, row in of_class]
    return sorted(rows, key=lambda row: row.source_index)


def class_path(folder: Path, label: int) -> Path:
    """The file of what was measured of a class."""
    return folder / f"{label:05d}.json"


def is_whole(folder: Path, label: int) -> bool:
    """Whether a class is measured. Removes a damaged file."""
    path = class_path(folder, label)
    try:
        read_sealed(path)
    except FileNotFoundError:
        return False
    except DamagedFile as damage:
        say(made_again(damage))
        path.unlink()
        return False
    return True


def pilot_classifier(maker: RowMaker, device: torch.device) -> Judge:
    """The classifier that looks at the pilot. Raises `UserError`, also if it gives no features."""
    # here, so that mixing alone loads no library of models
    from sgdmix_hub.models.classifier import Judge

    pin = maker.inputs.pilot_classifier
    assert pin is not None, "`validate` refuses a pilot without a classifier"
    classifier = Judge(pin, maker.inputs.split.class_names, device, role="pilot_classifier")
    classifier.look(torch.zeros(1, 3, classifier.size, classifier.size))
    return classifier


def measured(maker: RowMaker, classifier: Judge, rows: list[PlanRow]) -> dict:
    """What the pilot says of a class: of its rows without refinement and at every strength.

    A row that cannot be made at one of the strengths is left out.
    """
    label, strengths = maker.label(rows[0]), maker.settings.strength
    mixtures = {row.source_index: maker.mixture_or_reason(row) for row in rows}
    made = {
        source: mixture for source, mixture in mixtures.items() if not isinstance(mixture, Unusable)
    }
    images: dict[float, dict[int, np.ndarray]] = {}
    for strength in strengths:
        wanted = [replace(row, strength=strength) for row in rows if row.source_index in made]
        images[strength] = dict(refined(maker, wanted, made))
    usable = [
        row.source_index
        for row in rows
        if all(row.source_index in of_strength for of_strength in images.values())
    ]
    masks = [made[source].source.mask for source in usable]
    unrefined, foregrounds = seen(classifier, [made[source].mixed for source in usable], masks)
    looked_at = [
        seen(classifier, [images[strength][source] for source in usable], masks)
        for strength in strengths
    ]
    return {
        "label": label,
        "source_index": usable,
        "unrefined": unrefined[:, label].tolist(),
        "strength": strengths,
        "probability": [given[:, label].tolist() for given, _ in looked_at],
        "drift": [cosine_distance(features, foregrounds).tolist() for _, features in looked_at],
        "spread": spread_of(foregrounds),
    }


def refined(
    maker: RowMaker, rows: list[PlanRow], mixtures: dict[int, Mixture]
) -> Iterator[tuple[int, np.ndarray]]:
    """Source and finished image of those rows, all of one strength, that can be made."""
    for start in range(0, len(rows), maker.settings.batch_size):
        stop_if_requested()
        batch = rows[start : start + maker.settings.batch_size]
        finished = maker.finished(batch, [mixtures[row.source_index] for row in batch])
        for row, one in zip(batch, finished, strict=True):
            if not isinstance(one, Unusable):
                yield row.source_index, one.image


def seen(
    classifier: Judge, images: list[np.ndarray], masks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of images, (n, classes), and features of their foregrounds, (n, d).

    The rest of an image is zero for the classifier, which is the mean colour.
    """
    if not images:
        return np.zeros((0, len(classifier.class_names))), np.zeros((0, 1))
    inputs = torch.stack([classifier.transform(Image.fromarray(pixels)) for pixels in images])
    probabilities, _ = classifier.look(inputs)
    shown = np.stack([classifier.preprocessing.seen(mask) for mask in masks])
    _, foregrounds = classifier.look(inputs * torch.from_numpy(shown)[:, None])
    return probabilities, foregrounds


def spread_of(features: np.ndarray) -> float | None:
    """The median cosine distance between two rows of features (n, d); None for fewer than two."""
    if len(features) < 2:
        return None
    unit = directions(features)
    distances = 1 - (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return float(np.clip(np.median(distances), 0, 2))


def pilot_table(settings: AugmentSettings, classes: list[dict]) -> dict:
    """The published table: the bounds, what was measured, and the strength of every class."""
    pilots = {
        of_class["label"]: ClassPilot(
            np.array(of_class["probability"]).T,
            np.array(of_class["drift"]).T,
            np.array(of_class["unrefined"]),
            of_class["spread"],
        )
        for of_class in classes
    }
    bounds = PilotBounds(settings.asked_fidelity, settings.allowed_drift, settings.asked_confidence)
    chosen = chosen_strengths(pilots, settings.strength, bounds)
    return {
        "min_pilot_fidelity": bounds.min_fidelity,
        "max_foreground_drift": bounds.max_drift,
        "pilot_confidence": bounds.confidence,
        "strengths": {str(label): strength for label, strength in chosen.items()},
        "classes": classes,
    }


def table_strengths(path: Path) -> dict[int, float] | None:
    """Class -> strength of the table that a pilot has written; None without one."""
    try:
        strengths = read_sealed(path)["strengths"]
    except FileNotFoundError:
        return None
    except DamagedFile as damage:
        say(made_again(damage))
        return None
    return {int(label): strength for label, strength in strengths.items()}


def with_strengths(maker: RowMaker, draft: Draft, chosen: dict[int, float]) -> Iterator[pa.Table]:
    """The parts of the plan with their classes' strengths, or with these shuffled."""
    settings = maker.settings

    def refines(row: PlanRow) -> bool:
        return row.skip is None and not row.is_unmixed

    def strengths(rows: Iterable[PlanRow]) -> Iterator[float]:
        return (chosen[maker.label(row)] for row in rows if refines(row))

    order: Iterator[float] | None = None
    if settings.strength_choice == "shuffled":
        planned = np.fromiter(strengths(_rows(draft())), np.float64)
        order = iter(shuffled_strengths(planned, settings.seed).tolist())
    for part in draft():
        rows = list(rows_of(part))
        own = order or strengths(rows)
        yield table_of(replace(row, strength=next(own)) if refines(row) else row for row in rows)


def _rows(parts: Iterable[pa.Table]) -> Iterator[PlanRow]:
    return (row for part in parts for row in rows_of(part))
