"""Facts of a run -> the dataset card: YAML the Hub accepts, and a body whose structure no class name can change."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCard, DatasetCardData

from .config import AugmentSettings, effective_strength, preset_deviations
from .pins import LOCAL

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md"
SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
LABELS = {
    "threshold_method": "threshold",
    "mask_refinement": "mask refinement",
    "largest_component": "largest component alone",
    "fill_holes": "holes filled",
    "mask_dilation": "mask dilation",
    "selection_method": "target selection",
    "target_classes": "candidates from",
    "max_target_reuse": "rows a target may serve",
    "crop_target": "target cropped to the source's aspect ratio",
    "mixing_method": "mixing",
    "inpainting_method": "inpainting",
    "feather": "feather",
}
LARGEST_TABLE = 250


@dataclass(frozen=True)
class CardFacts:
    """What a generation measured of itself: everything on the card that is not a setting."""

    title: str
    features: Features
    rows_by_label: list[int]
    parquet_bytes: int
    skipped: list[dict]
    saliency: dict
    pins: dict[str, str]
    versions: dict[str, str]
    fingerprint: str
    mean_distance: float
    mean_area: float


def dataset_card(settings: AugmentSettings, facts: CardFacts) -> str:
    """The card as Markdown. `settings` with the preset applied."""
    prose = Path(settings.card).read_text(encoding="utf-8") if settings.card else ""
    class_names = facts.features["label"].names
    table = [(plain(name), count) for name, count in zip(class_names, facts.rows_by_label, strict=True)]
    card = DatasetCard.from_template(
        _card_data(settings, facts),
        template_path=TEMPLATE,
        title=plain(facts.title),
        prose=prose.strip(),
        settings=settings,
        strengths=strength_text(settings),
        labels=LABELS,
        chosen=_chosen(settings),
        deviations=preset_deviations(settings),
        pins={name: plain(pin) for name, pin in facts.pins.items()},
        versions=facts.versions,
        fingerprint=facts.fingerprint,
        num_rows=sum(facts.rows_by_label),
        class_rows=table[:LARGEST_TABLE],
        num_classes=len(table),
        saliency=facts.saliency,
        skipped=len(facts.skipped),
        reasons=Counter(plain(record["reason"]) for record in facts.skipped).most_common(),
        mean_distance=facts.mean_distance,
        mean_area=facts.mean_area,
    )
    return str(card)


def _card_data(settings: AugmentSettings, facts: CardFacts) -> DatasetCardData:
    num_rows = sum(facts.rows_by_label)
    source, _, revision = facts.pins["dataset_name"].partition("@")
    on_hub = not revision.startswith(LOCAL)
    card_data = DatasetCardData(
        license=settings.license,
        task_categories=["image-classification"],
        size_categories=[next((name for limit, name in SIZES if num_rows < limit), "1B<n<10B")],
        source_datasets=[source] if on_hub else None,
        tags=["sgd-mix", "synthetic", "data-augmentation", "arxiv:2505.11813"],
        pretty_name=facts.title,
        sgdmix={settings.config_name: _machine_readable(settings, facts)},
    )
    split = SplitInfo(name="train", num_bytes=facts.parquet_bytes, num_examples=num_rows, dataset_name=settings.config_name)
    info = DatasetInfo(
        features=facts.features,
        config_name=settings.config_name,
        splits=SplitDict({"train": split}),
        download_size=facts.parquet_bytes,
        dataset_size=facts.parquet_bytes,
    )
    DatasetInfosDict({settings.config_name: info}).to_dataset_card_data(card_data)
    folder = "data" if settings.config_name == "default" else settings.config_name
    files = [{"split": "train", "path": f"{folder}/train-*"}]
    card_data["configs"] = [{"config_name": settings.config_name, "data_files": files, "default": True}]
    return card_data


def _chosen(settings: AugmentSettings) -> dict:
    """The method's choices that have a value, by setting."""
    values = {name: getattr(settings, name) for name in LABELS}
    if settings.mixing_method != "inpaint":
        values.pop("inpainting_method")
    return {name: value for name, value in values.items() if value is not None}


def _machine_readable(settings: AugmentSettings, facts: CardFacts) -> dict:
    """S, N, the saliency method and all that decided the images, for programs that read the card."""
    strength = settings.stated_strength
    method = {
        "strength": strength,
        "foreground_strength": strength if settings.foreground_strength is None else settings.foreground_strength,
        "paste_foreground": settings.paste_foreground,
        "num_candidates": settings.num_candidates,
        "saliency_method": facts.saliency["method"],
        "trust_test": facts.saliency["trust"],
        "num_variants": settings.num_variants,
        "preset": settings.preset,
    }
    return (
        method
        | _chosen(settings)
        | {
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "scheduler": settings.scheduler,
            "resolution": settings.resolution,
            "seed": settings.seed,
            "pins": facts.pins,
            "fingerprint": facts.fingerprint,
            "versions": facts.versions,
        }
    )


def strength_text(settings: AugmentSettings) -> str:
    """S as people read it: the strengths, and those that the steps really make of them."""
    values = [f"{strength:g}" for strength in settings.strength]
    if not settings.refines:
        return "0 (mixing alone, no diffusion)"
    effective = [f"{effective_strength(settings, strength):g}" for strength in settings.strength]
    turns = "" if len(values) == 1 else ", in turn for the variants of a source"
    sampler = f"{settings.num_inference_steps} steps, {settings.scheduler}, guidance {settings.guidance_scale:g}"
    return f"{', '.join(values)}{turns} (effective {', '.join(effective)}: {sampler})"


def plain(text: str) -> str:
    """Untrusted text as one line of Markdown without any markup of its own."""
    one_line = " ".join(str(text).split())
    escaped = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("{", "&#123;")
    return re.sub(r"([\\`*_\[\]|#!~$])", r"\\\1", escaped)
