"""Publishes a finished generation as a version on the Hub.

python scripts/publish_dataset.py --folder outputs/cub --hub_dataset_id me/cub --tag v1.0.0
"""

from sgdmix_hub.publish_dataset import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.programs import PublishSettings

if __name__ == "__main__":
    launch(main, PublishSettings)
