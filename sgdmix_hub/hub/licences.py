"""The licences on the cards of a run's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, HfApi, ModelCard

from sgdmix_hub.errors import one_line

from .pins import Pin

SECONDS_TO_WAIT = 20.0


def stated_license(pin: Pin, repo_type: str = "model") -> str | None:
    """The licence on an input's card, in one line.

    None if there is none, or the Hub does not answer, which is no reason to end a run.
    """
    try:
        stated = _card_data(pin, repo_type).license
    except Exception:  # no card, a card without YAML, or any of the client's errors
        return None
    text = ", ".join(map(str, stated)) if isinstance(stated, list) else stated
    return one_line(text) if isinstance(text, str) and text.strip() else None


def _card_data(pin: Pin, repo_type: str) -> Any:
    """The YAML of an input's card, as huggingface_hub reads it."""
    if pin.path is not None:
        card = DatasetCard if repo_type == "dataset" else ModelCard
        return card.load(Path(pin.path) / "README.md", ignore_metadata_errors=True).data
    info: Any = HfApi().repo_info(
        pin.name, revision=pin.revision, repo_type=repo_type, timeout=SECONDS_TO_WAIT
    )
    return info.card_data
