"""Loads what an evaluated version was made from, and measures the judge on real images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm.auto import tqdm

from sgdmix_hub.data.splits import Split, load_evaluation_split, split_of
from sgdmix_hub.data.subsets import NO_LABEL
from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.generation.plan import PLAN_SCHEMA
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.hub.pins import MODEL_FILES, Pin, local_folder, parse_pins, resolve
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.models.classifier import BATCH, Judge
from sgdmix_hub.models.loading import SegmenterPins
from sgdmix_hub.publishing.layout import RepoLayout
from sgdmix_hub.publishing.read import PublishedRows
from sgdmix_hub.publishing.rows_by_file import RowsByFile
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MASK_SETTINGS
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import PRESETS, apply_preset
from sgdmix_hub.settings.saliency import FALL_BACK, SALIENCY_SOURCES

from .embeddings import AskedViews, Picture, asked_views
from .facts import JudgeAccuracy
from .scores import NO_PROMPT, Origins

logger = logging.getLogger(__name__)
# The masks of the preset `recommended`, whichever saliency method it names.
WITHOUT_CLASSIFIER = {
    name: value for name, value in PRESETS["recommended"].items() if name in MASK_SETTINGS
} | {"saliency_method": FALL_BACK}


def doubts(
    judge: Judge,
    trust: Trust,
    subset: dict,
    chose: str | None = None,
    chose_strengths: str | None = None,
) -> list[str]:
    """Reasons not to rely on this judge, as sentences for the card.

    `subset`: what `subset_record` returns for the sources. `chose`: pin of the judge that sent
    images of this dataset back to be made again, if there was one. `chose_strengths`: pin of the
    classifier of a pilot.
    """
    reasons = []
    if trust.reads_background:
        reasons.append(
            f"The judge reads the background ({trust}): it takes good changes of background "
            "for lost labels."
        )
    trained_on = judge.facts.get("subset", {})
    same = all(
        subset[name] == trained_on.get(name)
        for name in ("dataset_config_name", "dataset_split", "rows_sha256")
    )
    if same and Pin.parse(subset["dataset"]).holds_same_as(Pin.parse(trained_on["dataset"])):
        reasons.append(
            "The judge was trained on the source images and knows their foregrounds: an "
            "independent judge would agree less."
        )
    if judge.facts.get("synthetic"):
        reasons.append("The judge was trained on synthetic images: it is not independent.")
    if chose is not None and Pin.parse(chose).holds_same_as(judge.pin):
        reasons.append(
            "The judge chose these images: those that it doubted were made again, so its figures "
            "are too good."
        )
    if chose_strengths is not None and Pin.parse(chose_strengths).holds_same_as(judge.pin):
        reasons.append(
            "The judge chose the strengths, by what it saw in a pilot: its figures are too good."
        )
    return reasons


def generation_settings(
    settings: EvaluationSettings, folder: Path, output: Path
) -> AugmentSettings:
    """The settings of the generation, with its preset applied."""
    path = folder / RepoLayout(settings.synthetic_config_name).config
    return apply_preset(
        parse_settings(AugmentSettings, ["--config", str(path), f"--output_dir={output}"])
    )


def source_pin(settings: EvaluationSettings, manifest: dict) -> Pin:
    """The source dataset at its pin. Raises `UserError` if `dataset_name` is needed and not set."""
    stated = parse_pins(manifest["pins"])["dataset_name"]
    if settings.dataset_name is None and stated.is_local:
        raise UserError(
            f"the dataset was made from a local folder ({stated.name}): "
            "give its path with --dataset_name"
        )
    return resolve(settings.dataset_name or str(stated), repo_type="dataset")


def mask_settings(
    settings: EvaluationSettings, recipe: AugmentSettings, manifest: dict
) -> tuple[AugmentSettings, Pin | SegmenterPins | None, str]:
    """How the sources are masked: the settings, the network they need, and a description.

    The generation's own masks are used unless their network is unavailable; then the masks are
    model-free. Raises `UserError` if the given classifier is another one.
    """
    method = manifest["saliency"]["method"]
    grabcut = ", GrabCut" if recipe.mask_refinement == "grabcut" else ""
    words = f"the generation's ({method}, {recipe.threshold_method}{grabcut})"
    if SALIENCY_SOURCES[method].needs == "segmenter":
        return _segmenter_settings(recipe, manifest)
    if SALIENCY_SOURCES[method].needs != "classifier":
        return replace(recipe, saliency_method=method), None, words
    stated = parse_pins(manifest["pins"])["classifier"]
    if settings.classifier is not None:
        pin = resolve(settings.classifier)
        if not pin.holds_same_as(stated):
            raise UserError(
                f"{settings.classifier} is not the classifier behind the saliency maps ({stated}): "
                "leave it out or give that one"
            )
        return recipe, pin, words
    if not stated.is_local:
        try:
            local_folder(stated, MODEL_FILES)
            return recipe, stated, words
        except UserError as error:
            logger.warning(error)
    words = (
        "model-free (minimum barrier, GrabCut): the classifier behind the generation's "
        f"{method} is not available (--classifier)"
    )
    logger.warning(f"masks are {words}")
    return replace(recipe, **WITHOUT_CLASSIFIER), None, words


def _segmenter_settings(
    recipe: AugmentSettings, manifest: dict
) -> tuple[AugmentSettings, SegmenterPins | None, str]:
    """As `mask_settings`, for masks of a segmentation model, which may be fetched again."""
    pins = parse_pins(manifest["pins"])
    segmenter, detector = pins["segmenter"], pins.get("detector")
    words = tuple(manifest["saliency"].get("sought", []))
    if segmenter.is_local or (detector is not None and detector.is_local):
        said = (
            "model-free (minimum barrier, GrabCut): the segmenter behind the generation's masks "
            "was a local folder"
        )
        logger.warning(f"masks are {said}")
        return replace(recipe, **WITHOUT_CLASSIFIER), None, said
    asked = SegmenterPins(segmenter, detector, words)
    return recipe, asked, f"the generation's ({segmenter.name})"


def prompts_of(recipe: AugmentSettings) -> list[str]:
    """The prompts that rows may have, without their classes, in the order of their numbers."""
    templates = recipe.prompt_template or ["(the adapter's prompt)"]
    backgrounds = recipe.background_prompts or [""]
    return [f"{text} {suffix}".strip() for text in templates for suffix in backgrounds]


def prompt_numbers(plan: Path, rows: PublishedRows, count: int) -> np.ndarray:
    """The number of every row's prompt, int64 (n,): the plan's, `NO_PROMPT` at strength 0.

    Raises `UserError` if the plan does not have the rows, or is none.
    """
    columns = ["source_index", "variant", "prompt"]
    try:
        with pq.ParquetFile(plan) as file:
            if not file.schema_arrow.equals(PLAN_SCHEMA):
                raise UserError(f"the plan of {rows.pin.name} has other columns than a plan")
            planned = file.read(columns).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:  # not a valid parquet file
        reason = one_line(first_line(error))
        raise UserError(f"the plan of {rows.pin.name} cannot be read: {reason}") from error
    keys = zip(planned["source_index"], planned["variant"], strict=True)
    numbers = dict(zip(keys, planned["prompt"], strict=True))
    variants = rows.rows.data.column("variant").to_pylist()
    found = [numbers.get(key) for key in zip(rows.sources.tolist(), variants, strict=True)]
    if any(number is None or not 0 <= number < count for number in found):
        raise UserError(f"the plan of {rows.pin.name} does not have the rows of the dataset")
    return np.where(rows.strengths > 0, np.array(found, np.int64), NO_PROMPT)


def origins_of(rows: PublishedRows, split: Split, prompts: np.ndarray | None = None) -> Origins:
    """Sources and targets of the rows, as positions in the split's subset.

    Targets of a background dataset are no rows of the split: the source stands in their place.
    `prompts`: the numbers of their prompts, if there are several.
    """
    targets = rows.rows.data.column("target_index").to_numpy()
    if "background_dataset_name" in rows.manifest["pins"]:
        targets = rows.sources
    return Origins(
        sources=np.searchsorted(split.subset, rows.sources),
        targets=np.searchsorted(split.subset, targets),
        labels=rows.labels,
        strengths=rows.strengths,
        real_labels=split.labels[split.subset],
        prompts=prompts,
    )


def synthetic_split(rows: PublishedRows | RowsByFile) -> Split:
    """The synthetic images as a split; of `RowsByFile`, the positions without images or labels."""
    if isinstance(rows, PublishedRows):
        return split_of(rows.rows, rows.pin, "image", "label")
    nothing = Dataset.from_dict({name: [] for name in rows.features}, features=rows.features)
    labels, positions = np.full(len(rows), NO_LABEL, np.int64), np.arange(len(rows))
    return Split(rows.pin, nothing, "image", labels, rows.features["label"].names, positions)


def all_views(
    rows: PublishedRows | RowsByFile,
    split: Split,
    judge: Judge,
    maker: RowMaker,
    folder: Path,
    advance: Callable[[], object],
) -> tuple[AskedViews, AskedViews]:
    """The views of the source images and of the synthetic images, both with the sources' masks.

    `advance` is called for every image.
    """
    synthetic = synthetic_split(rows)
    names = (*MASK_SETTINGS, "resolution")
    key = {"maps": maker.maps.key} | {name: getattr(maker.settings, name) for name in names}

    def source(row: int) -> Picture:
        stop_if_requested()
        image = maker.masked_image(row)
        return image.pixels, None if row in maker.maps.unusable else image.mask

    def real_image(row: int) -> Picture:
        advance()
        return source(row)

    def synthetic_image(position: int) -> Picture:
        advance()
        return np.asarray(rows.image(position)), source(rows.source(position))[1]

    theirs = key | {"synthetic": str(rows.pin)}
    return (
        asked_views(folder, key, split, judge, real_image),
        asked_views(folder, theirs, synthetic, judge, synthetic_image),
    )


def judge_on_real(
    settings: EvaluationSettings, recipe: AugmentSettings, split: Split, judge: Judge
) -> tuple[JudgeAccuracy | None, dict[int, tuple[int, int]]]:
    """The judge's accuracy on real images of the evaluation split, and by label (right, images).

    Images are taken as they are stored. Without an evaluation split nothing is measured.
    """
    if settings.eval_split is None:
        return None, {}
    real = load_evaluation_split(recipe, settings.eval_split, like=split)
    rows = real.decodable()
    if not len(rows):
        raise UserError(
            f"split {settings.eval_split!r} of {split.pin.name} has no image that can be decoded: "
            "choose another --eval_split"
        )
    judged: dict[int, tuple[int, int]] = {}
    with tqdm(total=len(rows), desc="judge on real images", unit="image") as bar:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for label, predicted in zip(
                real.labels[batch].tolist(),
                judge.predict([real.image(row) for row in batch]),
                strict=True,
            ):
                right, images = judged.get(label, (0, 0))
                judged[label] = (right + int(predicted == label), images + 1)
            bar.update(len(batch))
            stop_if_requested()
    right, images = map(sum, zip(*judged.values(), strict=True))
    return JudgeAccuracy(settings.eval_split, right / images, images), judged
