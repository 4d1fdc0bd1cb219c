"""Applies SGD-Mix to a split.

accelerate launch scripts/augment_dataset.py --config generate.yaml
"""

from sgdmix_hub.augment import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.generation import AugmentSettings

if __name__ == "__main__":
    launch(main, AugmentSettings)
