"""The licences that the inputs of a run state."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import DatasetCard, HfApi, ModelCard

from sgdmix_hub.errors import one_line

from .pins import Pin

SECONDS_TO_WAIT = 20.0


def stated_license(pin: Pin, repo_type: str = "model") -> str | None:
    """The licence that an input's own card states; None where there is none, or the Hub does not
    answer: no reason to end a run.
    """
    try:
        if pin.is_local:
            card = DatasetCard if repo_type == "dataset" else ModelCard
            stated = card.load(
                Path(pin.path) / "README.md", ignore_metadata_errors=True
            ).data.license
        else:
            stated = (
                HfApi()
                .repo_info(
                    pin.name, revision=pin.revision, repo_type=repo_type, timeout=SECONDS_TO_WAIT
                )
                .card_data.license
            )
    except Exception:  # no card, a card without YAML, or any of the client's errors
        return None
    text = ", ".join(map(str, stated)) if isinstance(stated, list) else stated
    return one_line(text) if isinstance(text, str) and text.strip() else None
