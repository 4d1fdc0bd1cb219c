"""Publishes a finished generation as a version of a dataset: python scripts/publish_dataset.py --folder outputs/cub --hub_dataset_id org/cub-sgdmix --tag v1.0.0"""  # noqa: E501

from __future__ import annotations

from .processes import launch, launched_rank, say
from .program_settings import PublishSettings
from .publish_version import announcement, publish_version


def main(settings: PublishSettings) -> None:
    """Publishes, or finds published. Raises `UserError` and `TooManySkipped`."""
    if launched_rank() != 0:  # under a launcher of several processes
        return
    pin = publish_version(settings.folder, settings, settings.max_skipped)
    say(announcement(pin, settings.tag))


if __name__ == "__main__":
    launch(main, PublishSettings)
