"""Writes the dataset card of a run: YAML metadata and a Markdown body.

Texts from the data are escaped, so that no class name can change the card's structure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.licences import Licence
from sgdmix_hub.hub.manifests import LONGEST_LIST
from sgdmix_hub.hub.pins import Pin, parse_pins
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import preset_deviations
from sgdmix_hub.settings.reasons import kind_of

from .card_merge import MARK, UNPUBLISHED_NAME, UNPUBLISHED_VERSION, plain, section, size_category
from .card_text import (
    card_text,
    encoding_text,
    few_shot_text,
    license_text,
    pilot_text,
    plain_code,
    plain_name,
    python_text,
    strength_text,
)
from .layout import MORE_IMAGES, RepoLayout

TEMPLATE = Path(__file__).parents[1] / "templates" / "dataset_card.md"
LABELS = {
    "threshold_method": "threshold",
    "mask_refinement": "mask refinement",
    "largest_component": "largest component only",
    "fill_holes": "holes filled",
    "mask_dilation": "mask dilation",
    "selection_method": "target selection",
    "target_classes": "candidates from",
    "max_target_reuse": "most rows per target",
    "crop_target": "target cropped to the source's aspect ratio",
    "mixing_method": "mixing",
    "inpainting_method": "inpainting",
    "feather": "feather",
    "kept_erosion": "ring of the foreground that is refined too",
    "prompt_class": "class of prompt and label",
    "few_step_method": "few-step method",
    "quantization": "denoiser's weights held as",
    "vae_tiling": "autoencoder run in tiles",
    "timestep_spacing": "time steps",
    "prompt_template": "prompt",
    "metaclass": "metaclass",
    "background_prompts": "texts that follow the prompt, one drawn per row",
    "background_prompt_template": "prompt while the foreground is kept",
    "negative_prompt": "negative prompt",
}
OF_PROMPTS = (
    "metaclass",
    "prompt_template",
    "background_prompts",
    "background_prompt_template",
    "negative_prompt",
)
LARGEST_TABLE = 250  # classes
SOURCE_PATH = "path/of/the/source"  # in snippets, for a source that is no Hub repository
MOST_REASONS = 10  # reasons for skipped rows; the manifest lists every one
LONGEST_NAMES = 100_000  # characters of all class names, which the YAML holds twice


@dataclass(frozen=True)
class CardEvaluation:
    """Results of an evaluation, in words. `dropped` of the `rows_before` rows are left out,
    `dropped_by_hand` of them because somebody marked them.

    `by_class`: class, images, label fidelity, the judge's accuracy on real images, rows dropped.
    """

    judge: str
    warnings: list[str]
    masks: str
    figures: list[tuple[str, str]]
    by_class: list[tuple[str, int, str, str, int]]
    keep: float | None
    keep_by: str | None
    keep_difficulty: str | None
    rows_before: int
    dropped: int
    label_fidelity: float
    dropped_by_hand: int = 0


@dataclass(frozen=True)
class CardFacts:
    """Everything on the card that is not a setting.

    `rows_by_label`, `real_rows`: the synthetic images and the source images of every class; a
    version of format 1 does not state the second. `remade`: images that a judge sent back at least
    once; None without a judge. `adapter_files`: file -> sha256 of an adapter of another program.
    `planned_strengths`: `strength` and `rows` of each that a pilot chose. `gated`: names of inputs
    whose files the Hub gives only to those who accepted their terms.
    """

    title: str
    features: Features
    rows_by_label: list[int]
    real_rows: list[int] | None
    parquet_bytes: int
    skipped: Sequence[dict]
    saliency: dict
    pins: dict[str, str]
    versions: dict[str, str]
    fingerprint: str
    mean_distance: float
    mean_area: float
    licenses: dict[str, str | None]
    quality: list[tuple[str, str]]
    sigma_start: dict[float, float] = field(default_factory=dict)
    effective_strength: dict[float, float] = field(default_factory=dict)
    remade: int | None = None
    adapter_files: dict[str, str] = field(default_factory=dict)
    planned_strengths: list[dict] = field(default_factory=list)
    gated: list[str] = field(default_factory=list)
    evaluation: CardEvaluation | None = None
    has_gallery: bool = False


def dataset_card(settings: AugmentSettings, facts: CardFacts) -> str:
    """The card as Markdown. Raises `UserError` if `settings.card` leaves a block or comment open.

    `settings` must have the preset applied.
    """
    prose = read_prose(settings.card) if settings.card else ""
    class_names = facts.features["label"].names
    real = facts.real_rows or [None] * len(class_names)
    table = [
        (plain_name(name), count, of_source)
        for name, count, of_source in zip(
            class_names[:LARGEST_TABLE], facts.rows_by_label, real, strict=False
        )
    ]
    reasons = Counter(plain(kind_of(record["reason"])) for record in facts.skipped).most_common()
    source = Pin.parse(facts.pins["dataset_name"])
    # the configuration's part of the template stands between these two marks
    begin, end = section(settings.config_name, "|").split("|")
    return card_text(
        _card_data(settings, facts),
        TEMPLATE,
        title=plain(facts.title),
        begin=begin.strip(),
        end=end.strip(),
        h="##" if settings.config_name == "default" else "###",
        config=plain(settings.config_name),
        assets=RepoLayout(settings.config_name).assets,
        repository=UNPUBLISHED_NAME,
        version=UNPUBLISHED_VERSION,
        prose=prose,
        settings=settings,
        strengths=strength_text(settings, facts.sigma_start, facts.effective_strength),
        pilot=pilot_text(settings, facts.planned_strengths),
        variants=variants_text(settings, facts.evaluation),
        encoding=encoding_text(settings),
        license=license_text(settings),
        labels=LABELS,
        chosen={name: _cell(value) for name, value in _chosen(settings).items()},
        deviations=preset_deviations(settings),
        pins={name: plain(pin) for name, pin in facts.pins.items()},
        adapter_files={plain(name): sha256 for name, sha256 in facts.adapter_files.items()},
        local_inputs=[
            f"`--{name}`" for name, pin in parse_pins(facts.pins).items() if pin.is_local
        ],
        versions=facts.versions,
        fingerprint=facts.fingerprint,
        has_gallery=facts.has_gallery,
        num_rows=sum(facts.rows_by_label),
        class_rows=table,
        states_real=facts.real_rows is not None,
        num_classes=len(class_names),
        saliency=facts.saliency | {"sought": list(map(plain, facts.saliency.get("sought", [])))},
        skipped=len(facts.skipped),
        reasons=reasons[:MOST_REASONS],
        more_reasons=len(reasons[MOST_REASONS:]),
        other_rows=sum(count for _, count in reasons[MOST_REASONS:]),
        reasons_in="skipped.parquet" if len(facts.skipped) > LONGEST_LIST else "manifest.json",
        mean_distance=facts.mean_distance,
        mean_area=facts.mean_area,
        remade=facts.remade,
        more_images=[name for name in MORE_IMAGES if name in facts.features],
        quality=[(plain(name), plain(value)) for name, value in facts.quality],
        evaluation=_plain_evaluation(facts.evaluation),
        licences={
            name: f"({plain(text)})" if text else "(not stated)"
            for name, text in facts.licenses.items()
        },
        terms=Licence(facts.licenses.get("pretrained_model_name_or_path")).terms,
        base_gated="pretrained_model_name_or_path" in facts.gated,
        on_hub=not source.is_local,
        source=plain(source.name),
        source_url=quote(source.name),
        source_word=SOURCE_PATH if source.is_local else source.name,
        source_arguments=_source_arguments(settings, source),
        dataset_split=plain_code(settings.dataset_split),
        background_split=plain_code(settings.background_split or "train"),
        image_column=python_text(settings.image_column),
        label_column=python_text(settings.label_column),
        few_shot=few_shot_text(settings),
        like_source="source_width" in facts.features and settings.resize != "center-crop",
    )


def _plain_evaluation(evaluation: CardEvaluation | None) -> CardEvaluation | None:
    """The evaluation with its texts escaped and cut to the classes that the card lists."""
    if evaluation is None:
        return None
    return replace(
        evaluation,
        judge=plain(evaluation.judge),
        masks=plain(evaluation.masks),
        warnings=[plain(warning) for warning in evaluation.warnings],
        figures=[(plain(name), plain(value)) for name, value in evaluation.figures],
        by_class=[
            (plain_name(name), *cells) for name, *cells in evaluation.by_class[:LARGEST_TABLE]
        ],
    )


def read_prose(path: str) -> str:
    """The user's prose for a card.

    Raises `UserError` if a code block or comment is not closed, or if it has a mark of the card.
    """
    prose = Path(path).read_text(encoding="utf-8").strip()
    fence: str | None = None
    for line in prose.splitlines():
        match = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if match is None:
            continue
        if fence is None:
            fence = match[1]
        elif match[1].startswith(fence) and not match[2].strip():
            fence = None
    if fence is not None:
        raise UserError(f"card {path}: the code block that begins with {fence} is not closed")
    if MARK in prose or prose.count("<!--") != prose.count("-->"):
        raise UserError(
            f"card {path}: a comment is not closed, or is reserved for the card ({MARK} ...)"
        )
    return prose


def _source_arguments(settings: AugmentSettings, source: Pin) -> str:
    """The arguments of `load_dataset` for the source split, as Python."""
    words = [python_text(SOURCE_PATH if source.is_local else source.name)]
    if settings.dataset_config_name is not None:
        words.append(python_text(settings.dataset_config_name))
    if not source.is_local:
        words.append(f"revision={python_text(source.revision)}")
    return ", ".join([*words, f"split={python_text(settings.dataset_split)}"])


def _card_data(settings: AugmentSettings, facts: CardFacts) -> DatasetCardData:
    num_rows = sum(facts.rows_by_label)
    inputs = ("dataset_name", "background_dataset_name")
    pins = [Pin.parse(facts.pins[name]) for name in inputs if name in facts.pins]
    sources = [pin.name for pin in pins if not pin.is_local]
    card_data = DatasetCardData(
        license=settings.license,
        license_name=settings.license_name,
        license_link=settings.license_link,
        task_categories=["image-classification"],
        size_categories=[size_category(num_rows)],
        source_datasets=sources or None,
        tags=["sgd-mix", "synthetic", "data-augmentation", "arxiv:2505.11813"],
        pretty_name=facts.title,
        sgdmix={settings.config_name: _machine_readable(settings, facts)},
    )
    split = SplitInfo(
        name="train",
        num_bytes=facts.parquet_bytes,
        num_examples=num_rows,
        dataset_name=settings.config_name,
    )
    few = sum(map(len, facts.features["label"].names)) <= LONGEST_NAMES
    info = DatasetInfo(
        features=facts.features if few else None,  # `datasets` finds them in the Parquet files
        config_name=settings.config_name,
        splits=SplitDict({"train": split}),
        download_size=facts.parquet_bytes,
        dataset_size=facts.parquet_bytes,
    )
    DatasetInfosDict({settings.config_name: info}).to_dataset_card_data(card_data)
    name = settings.config_name
    files = [{"split": "train", "path": RepoLayout(name).shards}]
    card_data["configs"] = [{"config_name": name, "data_files": files, "default": True}]
    return card_data


def _chosen(settings: AugmentSettings) -> dict:
    """The settings in `LABELS` that are set and used."""
    values = {name: getattr(settings, name) for name in LABELS}
    if settings.mixing_method != "inpaint":
        values.pop("inpainting_method")
    if not settings.refines:
        values |= dict.fromkeys(OF_PROMPTS)
    return {name: value for name, value in values.items() if value is not None}


def _cell(value: object) -> object:
    """A setting's value in a table; the texts of prompts may be a stranger's."""
    if isinstance(value, list):
        return "; ".join(plain(text) for text in value)
    return plain(value) if isinstance(value, str) else value


def _machine_readable(settings: AugmentSettings, facts: CardFacts) -> dict:
    """The settings and inputs that determined the images, for the card's YAML."""
    strength = settings.stated_strength
    foreground = settings.foreground_strength
    method = {
        "strength": strength,
        "foreground_strength": strength if foreground is None else foreground,
        "paste_foreground": settings.paste_foreground,
        "num_candidates": settings.num_candidates,
        "saliency_method": facts.saliency["method"],
        "trust_test": facts.saliency["trust"],
        "num_variants": settings.num_variants,
        "preset": settings.preset,
    }
    if settings.images_per_class is not None:
        method["images_per_class"] = settings.images_per_class
    if settings.strength_choice is not None:
        method["strength_choice"] = settings.strength_choice
        method["min_pilot_fidelity"] = settings.asked_fidelity
        method["max_foreground_drift"] = settings.allowed_drift
        method["pilot_confidence"] = settings.asked_confidence
    if settings.judge is not None:
        method["min_label_probability"] = settings.asked_probability
        method["max_attempts"] = settings.allowed_attempts
    return (
        method
        | _chosen(settings)
        | {
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "scheduler": settings.scheduler,
            "resolution": settings.resolution,
            "seed": settings.seed,
            "rows": sum(facts.rows_by_label),
            "license": settings.license,
            "pins": facts.pins,
            "fingerprint": facts.fingerprint,
            "versions": facts.versions,
        }
        | ({} if facts.evaluation is None else _judged(facts.evaluation))
    )


def _judged(evaluation: CardEvaluation) -> dict:
    """The evaluation's part of the card's YAML."""
    values = {"judge": evaluation.judge, "label_fidelity": round(evaluation.label_fidelity, 4)}
    if evaluation.keep is not None:
        values |= {"keep": evaluation.keep, "dropped": evaluation.dropped}
    return values


def variants_text(settings: AugmentSettings, evaluation: CardEvaluation | None) -> str:
    """How many images were made from each source, in words."""
    most = "at most " if evaluation and evaluation.dropped else ""
    each = f"{most}{settings.num_variants} for each source image"
    if settings.images_per_class is None:
        return each
    level = (
        f"at least {settings.images_per_class} images, real and synthetic together, of every class "
        "whose images can be mixed"
    )
    return f"so that there are {level}" if settings.num_variants == 0 else f"{each}, and {level}"
