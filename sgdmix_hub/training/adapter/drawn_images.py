"""Images drawn in an adapter's training: for prior preservation, and validation sheets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from accelerate import Accelerator
from PIL import Image

from sgdmix_hub.figures import counts
from sgdmix_hub.figures.panels import SheetRow, draw_contact_sheet
from sgdmix_hub.files import write_atomically
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.bases.loading import LoadedBase, load_base
from sgdmix_hub.models.prompts import bare_prompt, prompt_of, token_for, words_of
from sgdmix_hub.models.sampling import (
    DRAWN_AT_ONCE,
    draw_images,
    drawing,
    drawing_options,
)
from sgdmix_hub.runtime.stopping import stop_if_requested, wait_for_file
from sgdmix_hub.seeds import RandomStream, seed_of
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.log import track_image
from sgdmix_hub.training.precision import dtype_of, precision_of

from .model import AdaptedModel


def class_images(
    settings: AdapterSettings, base: Pin, accelerator: Accelerator, parent: Path
) -> list[Path]:
    """The base's images of the bare metaclass, for prior preservation. Collective.

    Each rank draws its share, and only images that are missing. They are kept in a folder of
    `parent` named by what they depend on: a training with other settings draws its own.
    """
    prompt = bare_prompt(settings.metaclass, settings.prompt_template)
    drawn_from = drawing_options(settings) | {
        "base": str(base),
        "prompt": prompt,
        "seed": settings.seed,
        "mixed_precision": precision_of(settings),
    }
    key = hashlib.sha256(json.dumps(drawn_from, sort_keys=True).encode()).hexdigest()[:16]
    paths = [parent / key / f"{number:05d}.png" for number in range(settings.num_class_images)]
    share = range(accelerator.process_index, len(paths), accelerator.num_processes)
    missing = [number for number in share if not paths[number].exists()]
    if missing:
        _draw_class_images(settings, base, accelerator, prompt, missing, paths)
    for path in paths:
        wait_for_file(path)
    return paths


def _draw_class_images(
    settings: AdapterSettings,
    base: Pin,
    accelerator: Accelerator,
    prompt: str,
    missing: list[int],
    paths: list[Path],
) -> None:
    """Draws the images with these numbers, and writes each batch when it is finished."""
    dtype = dtype_of(settings)
    loaded = load_base(base, dtype, "text_to_image")
    loaded.use_scheduler()
    loaded.pipeline.to(accelerator.device)
    for start in range(0, len(missing), DRAWN_AT_ONCE):
        numbers = missing[start : start + DRAWN_AT_ONCE]
        images = draw_images(
            loaded,
            [prompt] * len(numbers),
            [seed_of(RandomStream.PRIOR_IMAGE, settings.seed, number) for number in numbers],
            on_step=stop_if_requested,
            **drawing_options(settings),
        )
        for number, pixels in zip(numbers, images, strict=True):
            _write_png(paths[number], Image.fromarray(pixels))


def draw_validation(
    settings: AdapterSettings,
    class_names: list[str],
    base: LoadedBase,
    model: AdaptedModel,
    accelerator: Accelerator,
    path: Path,
    step: int,
) -> None:
    """Draws a sheet of the first classes, from fixed noise, to `path` and the trackers."""
    labels = range(min(len(class_names), counts.SHOWN_CLASSES))
    words = [
        token_for(label) if settings.num_vectors else words_of(class_names[label])
        for label in labels
    ]
    prompts = [prompt_of(word, settings.metaclass, settings.prompt_template) for word in words]
    count = counts.SHOWN_IMAGES
    with drawing(model, accelerator.device, dtype_of(settings)):
        images = draw_images(
            base,
            [prompt for prompt in prompts for _ in range(count)],
            list(range(count)) * len(prompts),
            on_step=stop_if_requested,
            **drawing_options(settings),
        )
    rows = [SheetRow(list(images[label * count :][:count]), class_names[label]) for label in labels]
    sheet = draw_contact_sheet(rows, [f"seed {number}" for number in range(count)])
    _write_png(path, sheet)
    for tracker in accelerator.trackers:
        track_image(tracker, "validation", sheet, step)


def _write_png(path: Path, image: Image.Image) -> None:
    write_atomically(path, lambda working: image.save(working, format="PNG"))
