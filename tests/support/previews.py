"""Runs the preview, and the generation whose figures it shows."""

import json
from pathlib import Path

import torch
from generations import arguments, run_script

from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.generation.plan import make_plan
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

PREVIEW = "scripts/preview.py"
CPU = torch.device("cpu")


def preview(logs, **settings):
    """Runs the script; returns how it ended, its figures and the bytes of its page."""
    ended = run_script(arguments(settings), logs, PREVIEW)
    assert ended.returncode == 0, ended.stderr
    output = settings["output_dir"]
    return (
        ended,
        json.loads((output / "preview.json").read_text()),
        (output / "preview.png").read_bytes(),
    )


def generation(birds, folder, **choices):
    """Settings, inputs, maps and plan of a generation by mixing alone."""
    values = {name: str(v) if isinstance(v, Path) else v for name, v in choices.items()}
    settings = apply_preset(
        AugmentSettings(
            dataset_name=str(birds), output_dir=str(folder), strength=0.0, resolution=32, **values
        )
    )
    inputs = resolve_inputs(settings, folder / "state")
    maps = compute_maps(settings, inputs.split, inputs.classifier, 0, 1, CPU, inputs.segmenter)
    return settings, inputs, maps, list(make_plan(settings, inputs.split, maps))
