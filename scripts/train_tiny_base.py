"""Trains the demo's base model from a checkout: see `sgdmix_hub.demo.train_tiny_base`."""

from sgdmix_hub.demo.train_tiny_base import main

if __name__ == "__main__":
    main()
