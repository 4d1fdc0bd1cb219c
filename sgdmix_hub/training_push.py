"""The push of what was trained, where the settings ask for one."""

from __future__ import annotations

from pathlib import Path

from .processes import say
from .publish import check_can_push, push_folder
from .training_settings import TrainingSettings


def check_push(settings: TrainingSettings) -> None:
    """Raises `UserError` when the Hub would refuse the push: before the training, not after it."""
    if settings.push_to_hub:
        check_can_push(settings.hub_model_id, private=settings.hub_private_repo)


def push_trained(settings: TrainingSettings, folder: Path, message: str) -> None:
    """Pushes a finished training's files in one commit with this title. Raises `UserError`."""
    if settings.push_to_hub:
        pin = push_folder(folder, settings.hub_model_id, private=settings.hub_private_repo, message=message)
        say(f"pushed as {pin}")
