"""Maps SGD-Mix over a split: accelerate launch scripts/augment_dataset.py --config generate.yaml"""

from sgdmix_hub.augment import main
from sgdmix_hub.config import AugmentSettings
from sgdmix_hub.processes import launch

if __name__ == "__main__":
    launch(main, AugmentSettings)
