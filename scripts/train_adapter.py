"""Trains the adapter of a domain: accelerate launch scripts/train_adapter.py --config adapter.yaml"""

from sgdmix_hub.processes import launch
from sgdmix_hub.train_adapter import main
from sgdmix_hub.training_settings import AdapterSettings

if __name__ == "__main__":
    launch(main, AdapterSettings)
