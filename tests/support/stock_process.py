"""What a colleague without this package does: runs cards' snippets with stock diffusers alone.

    python stock_process.py FOLDER ...

Each folder holds `snippet.py`, what it names, and `told.pt`: how to draw. What is drawn from noise
with the snippet's own prompt, and through img2img with the same networks, is left in `drawn.npz`.
"""

import json
import os
import re
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(folder):
    os.chdir(folder)
    told = torch.load("told.pt", weights_only=False)
    loading, drawing = Path("snippet.py").read_text().strip().rsplit("\n", 1)
    prompt = json.loads(re.match(r'image = pipeline\(("(?:[^"\\]|\\.)*")', drawing)[1])
    space = {}
    exec(loading, space)
    pipeline = space["pipeline"]
    pipeline.set_progress_bar_config(disable=True)
    from_noise = pipeline(
        prompt=prompt, generator=generators(told["seeds"][:1]), output_type="np", **told["drawing"]
    ).images
    kind = getattr(diffusers, told["image_to_image"])
    img2img = kind(**pipeline.components | told["parts"])
    img2img.set_progress_bar_config(disable=True)
    sampler, config = told["scheduler"]
    img2img.scheduler = getattr(diffusers, sampler).from_config(config)
    from_images = img2img(
        prompt=[prompt] * len(told["images"]),
        image=[Image.fromarray(image) for image in told["images"]],
        generator=generators(told["seeds"]),
        **told["refining"],
    ).images
    np.savez("drawn.npz", noise=from_noise, images=np.stack([np.asarray(i) for i in from_images]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    for name in sys.argv[1:]:
        run(Path(name).resolve())
    assert not any(name.split(".")[0] == "sgdmix_hub" for name in sys.modules)
