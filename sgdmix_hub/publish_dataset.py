"""Publishes a finished generation as a version of a dataset.

sgdmix publish --folder outputs/cub --hub_dataset_id org/cub-sgdmix --tag v1.0.0
"""

from __future__ import annotations

from sgdmix_hub.publishing.versions import announcement, publish_version
from sgdmix_hub.runtime.launch import launch, launched_rank
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.settings.programs import PublishSettings


def main(settings: PublishSettings) -> None:
    """Publishes, or finds published. Raises `UserError` and `TooManySkipped`."""
    if launched_rank() != 0:  # under a launcher of several processes
        return
    pin = publish_version(settings.folder, settings, settings.max_skipped)
    say(announcement(pin, settings.tag))


if __name__ == "__main__":
    launch(main, PublishSettings)
