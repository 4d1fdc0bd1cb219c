"""Settings of generations whose masks a model, a box or a function gives."""

from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

SEGMENTED = {
    "preset": "paper",
    "saliency_method": "segmentation",
    "segmenter_prompt": "bird",
    "strength": 0.0,
    "resolution": 64,
    "num_candidates": 5,
}


def settings_of(dataset, output, **values):
    chosen = SEGMENTED | values
    return apply_preset(
        AugmentSettings(dataset_name=str(dataset), output_dir=str(output), **chosen)
    )
