"""Judges an adapter: a classifier trained on real images predicts the classes of its images.

Images are generated from noise (does the prompt of a class give that class?) and from mixed images
(does refinement at strength S keep the source's class?), with the adapter and with the bare base.
This shows classes that the adapter cannot tell apart, the paper's break condition.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from scipy.stats import binomtest

from sgdmix_hub.data.splits import Split
from sgdmix_hub.errors import UnusableImage, UnusableRow, UserError
from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.generation.inputs import Inputs
from sgdmix_hub.generation.plan import PlanRow, make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.models.adapters import FACTS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.loading import LoadedBase, load_base
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.models.prompts import bare_prompt
from sgdmix_hub.models.sampling import draw_images, drawing_options
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.runtime.ranks import on_rank_zero, say
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.seeds import RandomStream, generator, seed_of
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.training.precision import dtype_of, precision_of

from .confusion import CONFUSION_PICTURE, draw_confusion


@dataclass(frozen=True)
class Sources:
    """Mixed images to refine, uint8 (n, size, size, 3), their sources' labels, and seeds."""

    images: np.ndarray
    labels: list[int]
    seeds: list[int]


def mixed_sources(settings: AdapterSettings, split: Split, folder: Path, per_class: int) -> Sources:
    """This process's share of up to `per_class` unrefined mixtures of each class.

    They are made with the preset `recommended`. Rows that cannot be mixed are left out. A
    collective; the saliency maps are kept in `folder`.
    """
    generation = apply_preset(
        AugmentSettings(
            preset="recommended",
            output_dir=str(folder),
            strength=[0.0],
            dataset_name=settings.dataset_name,
            dataset_split=settings.dataset_split,
            image_column=settings.image_column,
            label_column=settings.label_column,
            subset_seed=settings.subset_seed,
            seed=settings.seed,
            resolution=settings.resolution,
            resize="stretch" if settings.resize == "aspect-buckets" else settings.resize,
        )
    )
    state = PartialState()
    assert state.device is not None
    maps = compute_maps(
        generation, split, None, state.process_index, state.num_processes, state.device
    )
    maker = RowMaker(generation, Inputs(split, None, None, None, None), maps)
    plan = [row for row in make_plan(generation, split, maps) if row.skip is None]
    by_class: dict[int, list[PlanRow]] = {}
    for position in generator(RandomStream.JUDGED, settings.seed).permutation(len(plan)):
        by_class.setdefault(int(split.labels[plan[position].source_index]), []).append(
            plan[position]
        )
    rows = [row for label in sorted(by_class) for row in by_class[label][:per_class]]
    images, kept = [], []
    for row in rows[state.process_index :: state.num_processes]:
        with contextlib.suppress(UnusableRow, UnusableImage):
            images.append(maker.mixture(row).mixed)
            kept.append(row)
    stacked = np.array(images, np.uint8).reshape(-1, settings.resolution, settings.resolution, 3)
    return Sources(
        stacked, [int(split.labels[row.source_index]) for row in kept], [row.seed for row in kept]
    )


def class_scores(predicted: list[int], labels: list[int]) -> dict:
    """Accuracy with its 95 % Wilson interval.

    `by_class`: [label, right, images]; `confused`: [label, predicted, times] of wrong predictions.
    """
    pairs = list(zip(labels, predicted, strict=True))
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1])
    right = len(labels) - wrong.total()
    images = Counter(labels)
    rights = Counter(label for label, prediction in pairs if label == prediction)
    interval = binomtest(right, len(labels)).proportion_ci(method="wilson")
    return {
        "accuracy": round(right / len(labels), 4),
        "interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
        "images": len(labels),
        "by_class": [[label, rights[label], images[label]] for label in sorted(images)],
        "confused": [[*pair, count] for pair, count in sorted(wrong.items())],
    }


def judge_adapter(
    settings: AdapterSettings, split: Split, base: Pin, judge_pin: Pin, folder: Path
) -> None:
    """Writes the judge's scores into adapter.json, as `fidelity`, unless they are there already.

    A collective. Raises `UserError`.
    """
    asked = {
        "judge": str(judge_pin),
        "per_class": settings.num_judged_images,
        "strength": settings.judged_strength,
    }
    facts = on_rank_zero(lambda: read_json(folder / FACTS_FILE))
    before = facts.get("fidelity", {})
    if all(before.get(name) == value for name, value in asked.items()):
        return
    state = PartialState()
    assert state.device is not None
    judge = Judge(judge_pin, split.class_names, state.device)
    sources = mixed_sources(
        settings, split, OutputFolder(folder).judged, settings.num_judged_images
    )
    precision = precision_of(settings)
    dtype = dtype_of(settings)
    loaded = load_base(base, dtype, "text_to_image")
    loaded.use_scheduler()
    loaded.pipeline.to(state.device)
    bare = [bare_prompt(settings.metaclass, settings.prompt_template)] * len(sources.labels)
    judged = {"mixed": judge.predict(list(sources.images))}
    judged |= _judged(settings, loaded, bare, sources, judge, "base", state.is_main_process)
    adapter = read_adapter(resolve(str(folder)))
    load_into(loaded, adapter)
    prompts = [adapter.prompt(label) for label in sources.labels]
    judged |= _judged(settings, loaded, prompts, sources, judge, "adapter", state.is_main_process)
    everyone = gather_object(
        [
            {"labels": sources.labels}
            | {arm: predicted.tolist() for arm, predicted in judged.items()}
        ]
    )
    labels = [label for part in everyone for label in part["labels"]]
    if not labels:
        raise UserError("no image of the subset could be mixed: the adapter cannot be judged")
    arms = {
        arm: class_scores([label for part in everyone for label in part[arm]], labels)
        for arm in judged
    }
    if state.is_main_process:
        draw_confusion(arms, split.class_names, folder / CONFUSION_PICTURE)
        measured = {"judge_accuracy": judge.accuracy, "arms": arms, "precision": precision}
        write_json(folder / FACTS_FILE, facts | {"fidelity": asked | measured})
        say(fidelity_line(arms, settings.judged_strength))
    state.wait_for_everyone()


def fidelity_line(arms: dict, strength: float) -> str:
    """How often the judge recognises the class, with and without the adapter, in one sentence."""
    share = {arm: f"{scores['accuracy']:.3f}" for arm, scores in arms.items()}
    return (
        f"adapter: the judge recognises the class in {share['noise, adapter']} of the images drawn "
        f"from noise (base alone: {share['noise, base']}), and in {share['mixed, adapter']} of the "
        f"mixed images refined at S = {strength:g} (base alone: {share['mixed, base']}; "
        f"before refinement: {share['mixed']})"
    )


def _judged(
    settings: AdapterSettings,
    base: LoadedBase,
    prompts: list[str],
    sources: Sources,
    judge: Judge,
    name: str,
    show: bool,
) -> dict[str, np.ndarray]:
    """The judge's predictions for a pipeline's images, from noise and from mixed images."""
    options = drawing_options(settings)
    seeds = [seed_of(RandomStream.JUDGED_NOISE, seed) for seed in sources.seeds]
    drawn = draw_images(
        base,
        prompts,
        seeds,
        desc=f"{name} from noise" if show else None,
        on_step=stop_if_requested,
        **options,
    )
    refined = draw_images(
        base,
        prompts,
        sources.seeds,
        images=sources.images,
        strength=settings.judged_strength,
        desc=f"{name} from mixed images" if show else None,
        on_step=stop_if_requested,
        **options,
    )
    return {
        f"noise, {name}": judge.predict(list(drawn)),
        f"mixed, {name}": judge.predict(list(refined)),
    }
