"""Images refined with an adapter, by stock diffusers in a separate process and by this package."""

from pathlib import Path

import numpy as np
import torch
from forking import WITHOUT_THIS_PACKAGE, run_forked
from launching import launch_environment

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import load_into, read_adapter
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.bases.schedulers import with_scheduler

STOCK = """
import sys
import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from safetensors.torch import load_file

base, adapter, images, output = sys.argv[1:]
unchecked = {"safety_checker": None, "requires_safety_checker": False}
pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(base, **unchecked)
pipeline.load_lora_weights(adapter)
tokens = load_file(f"{adapter}/learned_embeds.safetensors")
pipeline.load_textual_inversion([{token: row} for token, row in tokens.items()])
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
refined = pipeline(
    prompt="a photo of a <class_2> bird",
    image=torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).float() / 255,
    num_images_per_prompt=2,
    strength=0.5,
    num_inference_steps=6,
    guidance_scale=3.0,
    generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
    output_type="np",
).images
np.save(output, refined)
"""


def stock_images(base: Path, adapter: Path, images: np.ndarray, folder: Path) -> np.ndarray:
    """Refines two images of class 2 as `refined_by` does, in a process without this package."""
    np.save(folder / "images.npy", images)
    arguments = [str(base), str(adapter), str(folder / "images.npy"), str(folder / "refined.npy")]
    done = run_forked(
        ["-c", WITHOUT_THIS_PACKAGE + STOCK, *arguments], launch_environment(), folder
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "refined.npy")


def load_pipeline(base, adapter):
    """A base model with an adapter, loaded by this package's functions."""
    loaded = load_base(resolve(str(base)), torch.float32, "image_to_image")
    with_scheduler(loaded.pipeline, "ddim")
    load_into(loaded, read_adapter(resolve(str(adapter))))
    loaded.pipeline.set_progress_bar_config(disable=True)
    return loaded.pipeline


def refined_by(pipeline, images):
    """Refines two images of class 2, float32 (2, size, size, 3)."""
    return pipeline(
        prompt="a photo of a <class_2> bird",
        image=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
        num_images_per_prompt=2,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="np",
    ).images
