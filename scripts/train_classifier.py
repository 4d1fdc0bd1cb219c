"""Trains a classifier, with or without synthetic images: accelerate launch scripts/train_classifier.py --config classifier.yaml"""

from sgdmix_hub.processes import launch
from sgdmix_hub.train_classifier import main
from sgdmix_hub.training_settings import ClassifierSettings

if __name__ == "__main__":
    launch(main, ClassifierSettings)
