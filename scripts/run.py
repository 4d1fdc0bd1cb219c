"""Runs all stages: classifier, adapter, augmented dataset, classifier trained with it.

accelerate launch scripts/run.py --dataset_name me/birds --metaclass bird --output_dir out
"""

from sgdmix_hub.run import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.programs import RunSettings

if __name__ == "__main__":
    launch(main, RunSettings)
