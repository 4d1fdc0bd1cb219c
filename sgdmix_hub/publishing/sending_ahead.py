"""Sends files of a version to the Hub before it is complete, from many workers at once."""

from __future__ import annotations

from sgdmix_hub.hub.client import TIMEOUT_SECONDS, hub_client
from sgdmix_hub.hub.push import prepare_repository
from sgdmix_hub.hub.staging import stage_claimed
from sgdmix_hub.settings.hub import HubSettings
from sgdmix_hub.storage.stores import StoredFile

from .versions import DATASET, Destination, references


def stage_files(settings: HubSettings, files: dict[str, StoredFile]) -> None:
    """Sends files of a version that is not complete yet to the Hub, where `publish_version` finds
    them, as one of several workers: in the order of `files`, those that nobody has sent. Raises
    `UserError`.
    """
    destination = Destination.of(settings)
    with hub_client(destination.repo_id, None, TIMEOUT_SECONDS) as api:
        prepare_repository(api, destination.repo_id, DATASET, destination.private)
        tags, _ = references(api, destination.repo_id)
        if destination.tag not in tags:
            message = f"files of {destination.tag}"
            stage_claimed(api, destination.repo_id, DATASET, files, destination.staging, message)
