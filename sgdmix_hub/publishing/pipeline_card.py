"""Writes the model card of a pushed pipeline, whose adapter is published again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import write_text
from sgdmix_hub.hub.client import check_name
from sgdmix_hub.hub.licences import OTHER, Licence, conflict, licence_of
from sgdmix_hub.hub.pins import Pin, parse_pins
from sgdmix_hub.models.saved import Saved

from .card_merge import plain
from .card_text import card_text
from .layout import CARD

TEMPLATE = Path(__file__).parents[1] / "templates" / "pipeline_card.md"


@dataclass(frozen=True)
class AdapterLicence:
    """Where a pipeline's adapter is from, and under which licence it is published again.

    `stated`: on its own card. `fault`: what speaks against `license`; `reason`: the user's answer.
    """

    pin: Pin
    stated: Licence
    license: str
    fault: str | None
    reason: str | None


def checked_license(
    adapter: Pin, base: Pin, recorded: str | None, license: str | None, reason: str | None
) -> AdapterLicence:
    """The licence of an adapter that is published again, by the cards of the adapter and its base.

    `recorded`: the base's licence as the adapter says it. Raises `UserError` if `license` is
    missing or, without a reason, not the one that these cards ask for.
    """
    if license is None:
        raise UserError("the adapter is published with the pipeline: give license, the adapter's")
    stated, of_base = licence_of(adapter), licence_of(base)
    fault = conflict(of_base.text or recorded, license)
    if not (stated.is_answered and of_base.is_answered):
        fault = "the Hub does not answer what licences adapter and base have, so try again"
    elif stated.name is not None and license.lower() not in (stated.name, OTHER):
        fault = f"the adapter's card states {stated.text}, so give license={stated.name!r}"
    if fault is not None and reason is None:
        raise UserError(
            f"license {shown(license)}: {shown(fault, 300)}; or say why it is right with "
            "allow_license"
        )
    return AdapterLicence(adapter, stated, license, fault, reason)


def write_pipeline_card(
    folder: Path, repo_id: str, saved: Saved, adapter: AdapterLicence | None
) -> None:
    """Writes the README.md of a saved pipeline's folder. Raises `UserError` for a bad name."""
    check_name(repo_id)
    pins = parse_pins(saved.pins)
    base = pins.get("pretrained_model_name_or_path")
    license = None if adapter is None else adapter.license
    data = ModelCardData(
        license=license,
        library_name="sgdmix_hub",
        base_model=None if base is None or base.is_local else base.name,
        tags=["sgd-mix", "data-augmentation", "arxiv:2505.11813"],
    )
    rows = {name: plain(pin) for name, pin in saved.pins.items()}
    fault = reason = None
    if adapter is not None:
        stated = adapter.stated.text
        told = f"licence {plain(stated)}" if stated else "licence not stated"
        rows = {"adapter": f"{plain(str(adapter.pin))}, {told}"} | rows
        if adapter.fault is not None and adapter.reason is not None:
            fault, reason = plain(adapter.fault), plain(adapter.reason)
    strengths = saved.settings["strength"]
    card = card_text(
        data,
        TEMPLATE,
        repo_id=repo_id,
        strength=", ".join(f"{strength:g}" for strength in strengths),
        preset=saved.settings["preset"],
        pins=rows,
        license=None if license is None else plain(license),
        fault=fault,
        reason=reason,
        num_classes=len(saved.class_names or []),
        local=[f"`{name}`" for name, pin in pins.items() if pin.is_local],
    )
    write_text(folder / CARD, card)
