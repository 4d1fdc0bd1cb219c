"""Draws images with a base model, from noise or from other images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sgdmix_hub.settings.adapter_training import AdapterSettings

from .bases.loading import LoadedBase, to_uint8

# Images of a batch: part of what prior images and judgements depend on, so the same everywhere.
DRAWN_AT_ONCE = 4


@torch.no_grad()
def draw_images(
    base: LoadedBase,
    prompts: list[str],
    seeds: list[int],
    *,
    resolution: int,
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int,
    images: np.ndarray | None = None,
    strength: float | None = None,
    desc: str | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Draws one image per prompt: uint8 (n, resolution, resolution, 3).

    It starts from noise, or from `images`, uint8 of the same shape, at `strength`. An image is a
    function of its prompt, seed and source: each has its own CPU generator, and short batches are
    padded. `desc` names a progress bar; without it there is none. `on_step` is called after every
    denoising step.
    """

    def after_step(pipeline, step, timestep, tensors: dict) -> dict:
        on_step()
        return tensors

    options: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "output_type": "np",
        "callback_on_step_end": after_step,
    }
    pipeline = base.pipeline
    if images is None:
        options |= {"height": resolution, "width": resolution}
    else:
        pipeline = base.image_to_image()
        options |= {"strength": strength}
    pipeline.set_progress_bar_config(disable=True)
    drawn = [np.empty((0, resolution, resolution, 3), np.uint8)]
    with tqdm(total=len(prompts), desc=desc, unit="image", disable=desc is None) as bar:
        for start in range(0, len(prompts), batch_size):
            rows = list(range(start, min(start + batch_size, len(prompts))))
            padded = rows + rows[-1:] * (batch_size - len(rows))
            sources = None
            if images is not None:
                sources = torch.from_numpy(images[padded]).permute(0, 3, 1, 2).float() / 255
                options["image"] = sources
            options |= base.family.call_options(pipeline, guidance_scale, sources)
            generators = [torch.Generator().manual_seed(seeds[row]) for row in padded]
            texts = [base.family.call_text(pipeline, prompts[row]) for row in padded]
            batch = pipeline(prompt=texts, generator=generators, **options)
            drawn.append(to_uint8(torch.from_numpy(batch.images[: len(rows)])).numpy())
            bar.update(len(rows))
    return np.concatenate(drawn)


def drawing_options(settings: AdapterSettings) -> dict[str, Any]:
    """The arguments of `draw_images` in an adapter's training."""
    return {
        "resolution": settings.resolution,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "batch_size": DRAWN_AT_ONCE,
    }


@contextlib.contextmanager
def drawing(model: torch.nn.Module, device: torch.device, dtype: torch.dtype):
    """Puts a model in training into evaluation mode, in one precision, and back afterwards."""
    model.eval()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield
    model.train()
