"""Images drawn by a pipeline, from noise or from other images: to look at, to judge, or as a prior
for a training.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from tqdm.auto import tqdm

from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.training import AdapterSettings

from .bases import to_uint8


@torch.no_grad()
def draw_images(
    pipeline: StableDiffusionPipeline,
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
) -> np.ndarray:
    """One image a prompt, uint8 (n, resolution, resolution, 3): from noise, or from `images`, uint8
    of that shape, at a `strength`.

    Each draws from its own CPU generator, and a batch that is not full is padded: an image depends
    on its prompt, seed and source, not on what else is drawn. With `desc` there is a progress bar
    of that name.
    """
    pipeline.set_progress_bar_config(disable=True)
    options = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "output_type": "np",
    }
    if images is None:
        draw, options = pipeline, options | {"height": resolution, "width": resolution}
    else:
        draw = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
        draw.set_progress_bar_config(disable=True)
        options |= {"strength": strength}
    drawn = [np.empty((0, resolution, resolution, 3), np.uint8)]
    with tqdm(total=len(prompts), desc=desc, unit="image", disable=desc is None) as bar:
        for start in range(0, len(prompts), batch_size):
            stop_if_requested()
            rows = list(range(start, min(start + batch_size, len(prompts))))
            padded = rows + rows[-1:] * (batch_size - len(rows))
            if images is not None:
                options["image"] = (
                    torch.from_numpy(images[padded]).permute(0, 3, 1, 2).float() / 255
                )
            generators = [torch.Generator().manual_seed(seeds[row]) for row in padded]
            made = draw([prompts[row] for row in padded], generator=generators, **options).images[
                : len(rows)
            ]
            drawn.append(to_uint8(torch.from_numpy(made)).numpy())
            bar.update(len(rows))
    return np.concatenate(drawn)


def drawing_options(settings: AdapterSettings) -> dict:
    """How an adapter's training draws images."""
    names = ("resolution", "num_inference_steps", "guidance_scale")
    return {name: getattr(settings, name) for name in names} | {
        "batch_size": settings.train_batch_size
    }


@contextlib.contextmanager
def drawing(model: torch.nn.Module, device: torch.device, dtype: torch.dtype):
    """A model that is being trained, ready to draw for a while: in evaluation mode, its frozen
    part's precision for all of it.
    """
    model.eval()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield
    model.train()
