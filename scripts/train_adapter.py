"""Trains the adapter of a domain.

accelerate launch scripts/train_adapter.py --config adapter.yaml
"""

from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.train_adapter import main

if __name__ == "__main__":
    launch(main, AdapterSettings)
