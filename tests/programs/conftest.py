"""Fixtures that several files of this folder share."""

import pytest
from called import SMALL
from datasets import load_dataset

from sgdmix_hub.pipeline import SGDMixPipeline


@pytest.fixture(scope="module")
def birds_read(birds):
    return load_dataset(str(birds), split="train")


@pytest.fixture(scope="module")
def pairs(birds_read):
    """Three sources and as many targets, of other classes, and the sources' classes."""
    sources, targets = [0, 1, 2], [9, 13, 20]
    return (
        [birds_read[row]["image"] for row in sources],
        [birds_read[row]["image"] for row in targets],
        [birds_read[row]["label"] for row in sources],
    )


@pytest.fixture(scope="module")
def pipeline(tiny_base, adapter):
    """With several prompts and a part of the image at another strength."""
    pipeline = SGDMixPipeline.from_pretrained(
        str(tiny_base),
        str(adapter),
        strength=0.5,
        foreground_strength=0.2,
        paste_foreground=False,
        min_mask_confidence=0,
        background_prompts=["in the snow", "at dusk", "by the sea"],
        background_prompt_template="a landscape {background}",
        **SMALL,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def unmixing(tiny_base, adapter):
    """Refines images without mixing them."""
    pipeline = SGDMixPipeline.from_pretrained(
        str(tiny_base),
        str(adapter),
        preset="paper",
        mixing_method="none",
        strength=0.5,
        **SMALL,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
