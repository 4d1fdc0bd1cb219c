"""Whether a folder holds this training's result or another's; the push of the result."""

from __future__ import annotations

from pathlib import Path

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.push import check_can_push, push_folder
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.training import TrainingSettings


def check_push(settings: TrainingSettings) -> None:
    """Raises `UserError` before the training if the Hub would refuse the push after it."""
    if settings.push_to_hub:
        assert settings.hub_model_id is not None  # settings.validate() requires it
        check_can_push(settings.hub_model_id, private=settings.hub_private_repo)


def push_trained(settings: TrainingSettings, folder: Path, message: str) -> None:
    """Pushes a finished training's files in one commit with this title. Raises `UserError`."""
    if settings.push_to_hub:
        assert settings.hub_model_id is not None  # settings.validate() requires it
        pin = push_folder(
            folder, settings.hub_model_id, private=settings.hub_private_repo, message=message
        )
        say(f"pushed as {pin}")


def is_finished(path: Path, facts: dict) -> bool:
    """Whether this training has finished and written its facts to `path`.

    Raises `UserError` if they are those of another training.
    """
    if not path.exists():
        return False
    try:
        different = different_facts(read_json(path), facts)
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged: remove it and run the same command again, which makes it anew"
        ) from None
    if different:
        raise UserError(
            f"{path.parent} holds the result of another training "
            f"(other {', '.join(different)}): choose another --output_dir, or remove this folder"
        )
    return True


def different_facts(before: dict, facts: dict) -> list[str]:
    """Names of the facts, and of the settings among them, that differ from those `before`."""
    different = [
        name for name, value in facts.items() if name != "settings" and before.get(name) != value
    ]
    return different + [
        name
        for name, value in facts["settings"].items()
        if before.get("settings", {}).get(name) != value
    ]
