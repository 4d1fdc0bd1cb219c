"""Whether the bounds of `strength auto` hold on rows that its pilot has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from parts.evidence.runs import slug
from parts.regimes.experiments import AUTO, EXPERIMENTS
from parts.regimes.runs import Run

from sgdmix_hub.files import read_sealed
from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.generation.pilot import measured, pilot_table
from sgdmix_hub.generation.plan import PlanRow, make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
FRESH_VARIANTS = (1, 2)  # the pilot's rows are variants 0
PILOT, JUDGE = "the pilot's classifier", "a judge"
JUDGE_EPOCHS = 8  # on 2,100 images, about 530 updates


def judged_bounds(run: Run) -> dict:
    """By who looks: of every class its strength, fidelity and drift on fresh rows.

    Fidelity: the label's mean probability, as a share of that without refinement. Drift: as a share
    of the median distance between two unrefined foregrounds of the class. Makes the arm's images if
    they are not there.
    """
    run.generate(AUTO, run.experiment.arms[AUTO])
    output = OutputFolder(run.folder / slug(AUTO))
    settings = apply_preset(run.generation(AUTO, run.experiment.arms[AUTO]))
    # chosen anew: the arm's images may be of a version that chose in another way
    table = pilot_table(settings, read_sealed(output.strengths)["classes"])
    inputs = resolve_inputs(settings, output.state)
    maps = compute_maps(settings, inputs.split, inputs.classifier, 0, 1, CPU)
    maker = RowMaker(settings, inputs, maps)
    maker.load_refiner(CPU)
    by_class: dict[int, list[PlanRow]] = {}
    for row in make_plan(settings, inputs.split, maps):
        if row.variant in FRESH_VARIANTS and row.skip is None and not row.is_unmixed:
            by_class.setdefault(maker.label(row), []).append(row)
    assert inputs.pilot_classifier is not None
    lookers = {PILOT: inputs.pilot_classifier, JUDGE: resolve(str(trained_judge(run)))}
    told = {}
    for name, pin in lookers.items():
        looker = Judge(pin, inputs.split.class_names, CPU)
        told[name] = list(on_fresh_rows(maker, looker, by_class, table["strengths"]))
    bounds = {name: table[name] for name in ("min_pilot_fidelity", "max_foreground_drift")}
    return bounds | {"classes": told}


def trained_judge(run: Run) -> Path:
    """A classifier trained on the test images."""
    frozen = {"dataset_split": "test", "num_train_epochs": JUDGE_EPOCHS}
    nothing_left_out = dict.fromkeys(run.experiment.subset)
    return run.train(run.folder / "judge", **frozen, **nothing_left_out)


def on_fresh_rows(
    maker: RowMaker, looker: Judge, by_class: dict[int, list[PlanRow]], strengths: dict[str, float]
) -> Iterator[dict]:
    """Fidelity and drift of every class at the strength that the pilot chose for it."""
    settings = maker.settings
    for label, rows in sorted(by_class.items()):
        strength = strengths[str(label)]
        maker.settings = replace(settings, strength=[strength])
        found = measured(maker, looker, rows)
        yield {
            "label": label,
            "strength": strength,
            "rows": len(found["source_index"]),
            "fidelity": float(np.mean(found["probability"][0]) / np.mean(found["unrefined"])),
            "drift": float(np.mean(found["drift"][0]) / found["spread"]),
        }
    maker.settings = settings


def bounds_table(figures: dict) -> str:
    """Kept bounds, counted over classes with a strength above 0; by task and by who looks."""
    lines = [
        "| Task | seeds | looked at by | classes with S > 0 | fidelity | drift | both kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, seeds in figures.items():
        for looker in (PILOT, JUDGE):
            kept_fidelity, kept_drift = kept_bounds(seeds, looker)
            counts = (kept_fidelity, kept_drift, kept_fidelity & kept_drift)
            cells = [f"{int(count.sum())} of {len(count)}" for count in counts]
            cells = [EXPERIMENTS[key].title, str(len(seeds)), looker, str(len(kept_drift)), *cells]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def kept_bounds(seeds: dict[str, dict], looker: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether fidelity and drift stay within their bounds, bool (n,): classes with S above 0."""
    kept = [
        (
            of_class["fidelity"] >= told["min_pilot_fidelity"],
            of_class["drift"] <= told["max_foreground_drift"],
        )
        for told in seeds.values()
        for of_class in told["classes"][looker]
        if of_class["strength"] > 0
    ]
    fidelity, drift = np.array(kept, bool).reshape(-1, 2).T
    return fidelity, drift
