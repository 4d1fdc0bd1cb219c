"""Renders a card from its YAML and template, and words for it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jinja2
from huggingface_hub import CardData

from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.strengths import num_steps

from .card_merge import plain
from .card_yaml import write_card_yaml

LONGEST_NAME = 200  # characters of a class's name in a card's tables; the YAML has all of it


def card_text(card_data: CardData, template: Path, /, **fields) -> str:
    """The rendered card.

    Equals huggingface_hub's `RepoCard.from_template`, which takes half a minute for 10,000 classes
    because it writes the YAML twice and parses it once in Python.
    """
    written = write_card_yaml(card_data.to_dict()).strip()
    return compiled(template).render(card_data=written, **fields)


@cache
def compiled(path: Path) -> jinja2.Template:
    """The template of a card, compiled once: that takes longer than to fill it in."""
    return jinja2.Template(path.read_text(encoding="utf-8"))


def plain_name(name: str) -> str:
    """A class name as one line of escaped Markdown, cut to the length that a table can show."""
    return plain(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…")


def plain_code(text: str) -> str:
    """Untrusted text for use between backticks."""
    return " ".join(text.split()).replace("`", "'")


def python_text(text: str) -> str:
    """Untrusted text as a Python string literal on one line."""
    return json.dumps(text)


def license_text(settings: AugmentSettings) -> str | None:
    """The licence with its name and link, as one line of escaped Markdown."""
    if settings.license is None:
        return None
    named = ", ".join(filter(None, (settings.license_name, settings.license_link)))
    return plain(f"{settings.license} ({named})" if named else settings.license)


def encoding_text(settings: AugmentSettings) -> str:
    """How the published images are encoded, in words."""
    if settings.image_format == "png":
        return "PNG"
    return f"{settings.image_format.upper()}, quality {settings.image_quality or 95}"


def few_shot_text(settings: AugmentSettings) -> str:
    """The limits of a few-shot or long-tail subset, in words; empty for the whole split."""
    limits = {name: getattr(settings, name) for name in ("examples_per_class", "imbalance_factor")}
    return ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)


def strength_text(
    settings: AugmentSettings,
    sigma_start: dict[float, float],
    effective_strength: dict[float, float],
) -> str:
    """The strengths S in words, with the effective strengths after rounding to whole steps, and
    the noise levels that they start from, as far as rows were made.
    """
    values = [f"{strength:g}" for strength in settings.strength]
    if settings.strength_unit is not None:
        values[0] = f"as a noise level: {values[0]}"
    if not settings.refines:
        return "0 (mixing only, no diffusion)"
    total = settings.num_inference_steps
    effective = [
        f"{effective_strength.get(strength, num_steps(settings, strength) / total):g}"
        for strength in settings.strength
    ]
    turns = "" if len(values) == 1 else ", in turn for the variants of a source"
    if settings.strength_choice is not None:
        turns = ", of which a pilot chose"
    sampler = (
        f"{settings.num_inference_steps} steps, {settings.scheduler}, "
        f"guidance {settings.guidance_scale:g}"
    )
    levels = [f"{level:g}" for strength, level in sorted(sigma_start.items()) if strength > 0]
    noise = f"; from noise level {', '.join(levels)}" if levels else ""
    return f"{', '.join(values)}{turns} (effective {', '.join(effective)}: {sampler}{noise})"


def pilot_text(settings: AugmentSettings, planned: list[dict]) -> str | None:
    """How a pilot chose the strengths, in words, and how many rows each has; None without one.

    `planned`: `strength` and `rows` of each.
    """
    if settings.strength_choice is None:
        return None
    shuffled = (
        ""
        if settings.strength_choice == "auto"
        else " These values were assigned to rows at random."
    )
    confidence = f"{100 * settings.asked_confidence:.4g}"  # 99.5, not 100
    rows = ", ".join(f"{of_one['rows']:,} at {of_one['strength']:g}" for of_one in planned)
    return (
        f"{settings.rows_of_class} rows of each class were made at every strength. A class gets "
        "the largest strength up to which the classifier gives its label at least "
        f"{settings.asked_fidelity:g} of the probability that it has without refinement, and its "
        f"foregrounds move by at most {settings.allowed_drift:g} of the median distance between "
        f"two images of the class, both with {confidence}% confidence.{shuffled} "
        f"Planned rows: {rows}"
    )
