"""Trains a classifier, with or without synthetic images.

accelerate launch scripts/train_classifier.py --config classifier.yaml
"""

from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.train_classifier import main

if __name__ == "__main__":
    launch(main, ClassifierSettings)
