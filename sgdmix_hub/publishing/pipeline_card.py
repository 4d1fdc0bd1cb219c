"""Writes the model card of a pushed pipeline."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from sgdmix_hub.files import write_text
from sgdmix_hub.hub.client import check_name
from sgdmix_hub.hub.pins import parse_pins
from sgdmix_hub.models.saved import Saved

from .card_merge import plain
from .card_text import card_text
from .layout import CARD

TEMPLATE = Path(__file__).parents[1] / "templates" / "pipeline_card.md"


def write_pipeline_card(folder: Path, repo_id: str, saved: Saved) -> None:
    """Writes the README.md of a saved pipeline's folder. Raises `UserError` for a bad name."""
    check_name(repo_id)
    pins = parse_pins(saved.pins)
    base = pins.get("pretrained_model_name_or_path")
    data = ModelCardData(
        library_name="sgdmix_hub",
        base_model=None if base is None or base.is_local else base.name,
        tags=["sgd-mix", "data-augmentation", "arxiv:2505.11813"],
    )
    strengths = saved.settings["strength"]
    card = card_text(
        data,
        TEMPLATE,
        repo_id=repo_id,
        strength=", ".join(f"{strength:g}" for strength in strengths),
        preset=saved.settings["preset"],
        pins={name: plain(pin) for name, pin in saved.pins.items()},
        num_classes=len(saved.class_names or []),
        local=[f"`{name}`" for name, pin in pins.items() if pin.is_local],
    )
    write_text(folder / CARD, card)
