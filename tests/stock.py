"""Images refined by an adapter: by stock diffusers in a fresh process that knows nothing of this package, and by ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from launching import launch_environment

from sgdmix_hub.adapters import read_adapter
from sgdmix_hub.config import AugmentSettings, apply_preset
from sgdmix_hub.pins import resolve
from sgdmix_hub.refine import Refiner

STOCK = """
import sys
import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from safetensors.torch import load_file

base, adapter, images, output = sys.argv[1:]
pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
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
assert "sgdmix_hub" not in sys.modules
"""


def stock_images(base: Path, adapter: Path, images: np.ndarray, folder: Path) -> np.ndarray:
    """Two images of class 2, refined as `refined_by` does."""
    np.save(folder / "images.npy", images)
    arguments = [str(base), str(adapter), str(folder / "images.npy"), str(folder / "refined.npy")]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *arguments], cwd=folder, env=launch_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "refined.npy")


def make_refiner(base, adapter, **values):
    defaults = {"strength": 0.5, "num_inference_steps": 6, "guidance_scale": 3.0, "batch_size": 2, "resolution": 32, "scheduler": "ddim"}
    chosen = AugmentSettings(dataset_name="unused", output_dir="unused", adapter="unused", classifier="unused", **(defaults | values))
    return Refiner(resolve(str(base)), read_adapter(resolve(str(adapter))), apply_preset(chosen), torch.device("cpu"))


def refined_by(refiner, images):
    return refiner.refine(images, np.zeros(images.shape[:3], bool), [2, 2], [5, 6])[0]
