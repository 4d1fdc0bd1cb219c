"""Publishes a finished generation as a version of a dataset.

sgdmix publish --folder outputs/cub --hub_dataset_id org/cub-sgdmix --tag v1.0.0
"""

from __future__ import annotations

from sgdmix_hub.publishing.versions import announcement, publish_version
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.liveness import launched_rank
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.programs import PublishSettings
from sgdmix_hub.storage.stores import opened


def main(settings: PublishSettings) -> None:
    """Publishes; a no-op if it is published already. Raises `UserError` and `TooManySkipped`."""
    if launched_rank() != 0:  # under a launcher of several processes
        return
    assert settings.tag is not None  # checked by `validate`
    with opened(settings.folder) as (folder, store):
        pin = publish_version(folder, settings, settings.max_skipped, store=store)
    say(announcement(pin, settings.tag))


if __name__ == "__main__":
    launch(main, PublishSettings)
