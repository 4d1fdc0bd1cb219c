"""Did an adapter learn the classes? Images are generated with and without it, and a classifier trained on real images says what they show.

From noise: does the class's prompt give the class? From mixed images: does refinement at strength S keep the source's class, or bring
it back? Both beside the base without the adapter. Classes that were not told apart (the paper's break condition) show here.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from diffusers import StableDiffusionPipeline
from scipy.stats import binomtest

from .adapters import FACTS_FILE, load_into, read_adapter
from .classifiers import Classifier
from .config import AugmentSettings, apply_preset
from .confusion import CONFUSION_PICTURE, draw_confusion
from .data import Split
from .errors import UnusableImage, UnusableRow, UserError
from .files import read_json, write_json
from .inputs import Inputs
from .pins import Pin, resolve
from .processes import on_rank_zero, say
from .prompts import bare_prompt
from .refine import NO_SAFETY_CHECKER, load_base, with_scheduler
from .rows import RowMaker
from .saliency_store import compute_maps
from .sampling import draw_images, drawing_options
from .seeds import RandomStream, generator, seed_of
from .shards import PlanRow, make_plan
from .training_settings import AdapterSettings


class Judge(Classifier):
    """A classifier that says what images show."""

    def __init__(self, pin: Pin, class_names: list[str], device: torch.device):
        """Raises `UserError` when the classifier cannot be read, or has other classes."""
        super().__init__(pin, device, role="judge")
        if self.class_names != class_names:
            raise UserError(f"the judge {pin.name} has other classes than the dataset: give a classifier that was trained on them")

    @property
    def accuracy(self) -> float | None:
        """On real images, as its training measured it; None where it did not."""
        return self.facts.get("metrics", {}).get("accuracy")

    def look(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities, float32 (n, classes), and the features that the last linear layer gets, float32 (n, d), of inputs
        (n, 3, size, size), in batches. Raises `UserError` for a classifier without such a layer."""
        heads = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)]
        if not heads or heads[-1].out_features != self.model.config.num_labels:
            raise UserError(f"the judge {self.pin.name} does not end in a linear layer, so its features are not known: give another one")
        seen: list[torch.Tensor] = []
        handle = heads[-1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten(1)))
        try:
            probabilities = self.logits(inputs).softmax(-1)
        finally:
            handle.remove()
        return probabilities.numpy(), torch.cat(seen).float().cpu().numpy()


@dataclass(frozen=True)
class Sources:
    """Mixed images to refine, uint8 (n, size, size, 3), the labels of their sources and a seed for each."""

    images: np.ndarray
    labels: list[int]
    seeds: list[int]


def mixed_sources(settings: AdapterSettings, split: Split, folder: Path, per_class: int) -> Sources:
    """This process's share of up to `per_class` mixtures of each class, made as `recommended` makes them and not refined.

    A collective. The saliency maps are kept in `folder`. Rows that cannot be mixed are left out.
    """
    shared = ("dataset_name", "dataset_split", "image_column", "label_column", "subset_seed", "seed", "resolution", "resize")
    values = {name: getattr(settings, name) for name in shared} | {"output_dir": str(folder), "strength": 0.0}
    generation = apply_preset(AugmentSettings(preset="recommended", **values))
    state = PartialState()
    maps = compute_maps(generation, split, None, state.process_index, state.num_processes, state.device)
    maker = RowMaker(generation, Inputs(split, None, None, None, None), maps)
    plan = [row for row in make_plan(generation, split, maps) if row.skip is None]
    by_class: dict[int, list[PlanRow]] = {}
    for position in generator(RandomStream.JUDGED, settings.seed).permutation(len(plan)):
        by_class.setdefault(int(split.labels[plan[position].source_index]), []).append(plan[position])
    rows = [row for label in sorted(by_class) for row in by_class[label][:per_class]]
    images, kept = [], []
    for row in rows[state.process_index :: state.num_processes]:
        with contextlib.suppress(UnusableRow, UnusableImage):
            images.append(maker.mixture(row).mixed)
            kept.append(row)
    stacked = np.array(images, np.uint8).reshape(-1, settings.resolution, settings.resolution, 3)
    return Sources(stacked, [int(split.labels[row.source_index]) for row in kept], [row.seed for row in kept])


def class_scores(predicted: list[int], labels: list[int]) -> dict:
    """Accuracy with its 95 % Wilson interval; `by_class`: [label, right, images]; `confused`, the wrong ones: [label, predicted, times]."""
    wrong = Counter(pair for pair in zip(labels, predicted, strict=True) if pair[0] != pair[1])
    right = len(labels) - wrong.total()
    images, rights = Counter(labels), Counter(label for p, label in zip(predicted, labels, strict=True) if p == label)
    interval = binomtest(right, len(labels)).proportion_ci(method="wilson")
    return {
        "accuracy": round(right / len(labels), 4),
        "interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
        "images": len(labels),
        "by_class": [[label, rights[label], images[label]] for label in sorted(images)],
        "confused": [[*pair, count] for pair, count in sorted(wrong.items())],
    }


def judge_adapter(settings: AdapterSettings, split: Split, base: Pin, judge_pin: Pin, folder: Path) -> None:
    """Writes into adapter.json, as `fidelity`, what the judge says; nothing to do when it has said it. A collective. Raises `UserError`."""
    asked = {"judge": str(judge_pin), "per_class": settings.num_judged_images, "strength": settings.judged_strength}
    facts = on_rank_zero(lambda: read_json(folder / FACTS_FILE))
    before = facts.get("fidelity", {})
    if all(before.get(name) == value for name, value in asked.items()):
        return
    state = PartialState()
    judge = Judge(judge_pin, split.class_names, state.device)
    sources = mixed_sources(settings, split, folder / "state" / "judged", settings.num_judged_images)
    pipeline = load_base(StableDiffusionPipeline, base, torch.float32, **NO_SAFETY_CHECKER)
    pipeline = with_scheduler(pipeline, "dpmsolver++").to(state.device)
    bare = [bare_prompt(settings.metaclass, settings.prompt_template)] * len(sources.labels)
    judged = {"mixed": judge.predict(sources.images)}
    judged |= _judged(settings, pipeline, bare, sources, judge, "base", state.is_main_process)
    adapter = read_adapter(resolve(str(folder)))
    load_into(pipeline, adapter)
    prompts = [adapter.prompt(label) for label in sources.labels]
    judged |= _judged(settings, pipeline, prompts, sources, judge, "adapter", state.is_main_process)
    everyone = gather_object([{"labels": sources.labels} | {arm: predicted.tolist() for arm, predicted in judged.items()}])
    labels = [label for part in everyone for label in part["labels"]]
    if not labels:
        raise UserError("no image of the subset could be mixed: there is nothing to judge the adapter on")
    arms = {arm: class_scores([label for part in everyone for label in part[arm]], labels) for arm in judged}
    if state.is_main_process:
        draw_confusion(arms, split.class_names, folder / CONFUSION_PICTURE)
        write_json(folder / FACTS_FILE, facts | {"fidelity": asked | {"judge_accuracy": judge.accuracy, "arms": arms}})
        found = ", ".join(f"{arm} {scores['accuracy']:.3f}" for arm, scores in arms.items())
        say(f"adapter: share of images that show their class to the judge: {found}")
    state.wait_for_everyone()


def _judged(settings: AdapterSettings, pipeline, prompts: list[str], sources: Sources, judge: Judge, name: str, show: bool) -> dict:
    """What the judge sees in this pipeline's images, from noise and from mixed images."""
    options = drawing_options(settings)
    seeds = [seed_of(RandomStream.JUDGED_NOISE, seed) for seed in sources.seeds]
    drawn = draw_images(pipeline, prompts, seeds, desc=f"{name} from noise" if show else None, **options)
    refined = draw_images(
        pipeline,
        prompts,
        sources.seeds,
        images=sources.images,
        strength=settings.judged_strength,
        desc=f"{name} from mixed images" if show else None,
        **options,
    )
    return {f"noise, {name}": judge.predict(drawn), f"mixed, {name}": judge.predict(refined)}
