"""Entry point of a checkout: see `sgdmix_hub.demo.train_tiny_segmenter`."""

from sgdmix_hub.demo.train_tiny_segmenter import main

if __name__ == "__main__":
    main()
