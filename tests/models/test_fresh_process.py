"""A colleague without this package: the cards' snippets in one process of its own, which draws the
images that this package draws from the same files.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from every_family import BATCH, SEEDS, SIZE, STEPS, refined, refiner
from launching import launch_environment
from pictures import boxed_foregrounds, difference, noisy_images

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import load_into, read_adapter
from sgdmix_hub.models.bases.families import BY_NAME, FAMILIES
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.models.prompts import RowPrompt

SCRIPT = Path(__file__).parents[1] / "support" / "stock_process.py"
STRENGTH, GUIDANCE = 0.6, 4.0
NAMES = [family.name for family in FAMILIES]
DRAWING = {"num_inference_steps": 2, "height": SIZE, "width": SIZE}


def loaded_with(base, adapter):
    loaded = load_base(resolve(str(base)), torch.float32, "text_to_image")
    load_into(loaded, read_adapter(resolve(str(adapter))))
    return loaded


def told_of(family, base, adapter, images):
    """How the process shall draw with the networks of this base."""
    pipeline = loaded_with(base, adapter).pipeline
    euler = family.scheduler(pipeline.scheduler.config, "euler")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return {
        "seeds": SEEDS,
        "images": images,
        "drawing": DRAWING,
        "image_to_image": family.image_to_image,
        "parts": family.options(False) | family.of_pipeline(pipeline),
        "scheduler": (type(euler).__name__, dict(euler.config)),
        "refining": {"strength": STRENGTH, "num_inference_steps": STEPS}
        | family.call_options(pipeline, GUIDANCE, pixels),
    }


@pytest.fixture(scope="module")
def images():
    return noisy_images(BATCH, SIZE)


@pytest.fixture(scope="module")
def colleague(base_of, adapter_of, images, tmp_path_factory):
    """family's name -> what the process has drawn."""
    folders = {}
    for name in NAMES:
        folder = folders[name] = tmp_path_factory.mktemp("colleague") / name
        folder.mkdir()
        base, adapter = base_of(name), adapter_of(name)
        code = (adapter / "README.md").read_text().split("```python\n")[1].split("```")[0]
        assert "sgdmix_hub" not in code
        (folder / "snippet.py").write_text(code)
        shutil.copytree(base, folder / "base")
        shutil.copytree(adapter, folder / re.search(r'adapter = "([^"]*)"', code)[1])
        torch.save(told_of(BY_NAME[name], base, adapter, images), folder / "told.pt")
    ended = subprocess.run(
        [sys.executable, "-P", SCRIPT, *folders.values()],
        env=launch_environment({"PYTHONPATH": ""}),
        cwd=SCRIPT.parent,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return {name: np.load(folder / "drawn.npz") for name, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stock_diffusers_in_a_fresh_process_draws_the_same_images(
    name, colleague, base_of, adapter_of, images
):
    """From noise to the bit; through img2img but for rounding, see `test_every_family`."""
    family, base, adapter = BY_NAME[name], base_of(name), adapter_of(name)
    loaded = loaded_with(base, adapter)
    prompt = read_adapter(resolve(str(adapter))).prompt(0)
    loaded.pipeline.set_progress_bar_config(disable=True)
    expected = loaded.pipeline(
        prompt=family.call_text(loaded.pipeline, prompt),
        generator=torch.Generator().manual_seed(SEEDS[0]),
        output_type="np",
        **DRAWING,
    ).images
    assert np.array_equal(colleague[name]["noise"], expected)
    ours = refiner(base, adapter, guidance_scale=GUIDANCE)
    rows = refined(
        ours, images, boxed_foregrounds(BATCH, SIZE), [RowPrompt(prompt)] * BATCH, strength=STRENGTH
    )
    largest, share = difference(rows, colleague[name]["images"])
    assert largest <= 1 and share < 0.001
    bare = refined(
        refiner(base, guidance_scale=GUIDANCE),
        images,
        boxed_foregrounds(BATCH, SIZE),
        strength=STRENGTH,
    )
    assert difference(rows, bare)[1] > 0.1, "the adapter has no effect"
