"""Imported by the fork server: the programs, and the libraries that they import lazily.

It also does once what libraries do on first use: transformers compiles its tables of renamed
weights, jinja a card's template, matplotlib looks for fonts.
"""

import gc
import tempfile
from pathlib import Path

import accelerate.commands.accelerate_cli
import few_images
import peft
import pytorch_grad_cam
import scipy.io
import torch._dynamo
import torch.distributed.run
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    guiders,
    optimization,
    training_utils,
)
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    ViTImageProcessor,
)

from sgdmix_hub import (
    augment,
    evaluate_dataset,
    preview,
    publish_dataset,
    run,
    train_adapter,
    train_classifier,
)
from sgdmix_hub.figures.plots import draw_curve
from sgdmix_hub.models import refine
from sgdmix_hub.publishing import model_card
from sgdmix_hub.publishing.card_text import compiled
from sgdmix_hub.runtime.environment import versions

__all__ = [
    "AutoImageProcessor",
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "DDIMScheduler",
    "DDPMScheduler",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPipeline",
    "Trainer",
    "UNet2DConditionModel",
    "ViTImageProcessor",
    "accelerate",
    "augment",
    "evaluate_dataset",
    "few_images",
    "guiders",
    "optimization",
    "peft",
    "preview",
    "publish_dataset",
    "pytorch_grad_cam",
    "refine",
    "run",
    "scipy",
    "torch",
    "train_adapter",
    "train_classifier",
    "training_utils",
]

with tempfile.TemporaryDirectory() as folder:
    ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    ).save_pretrained(folder)
    AutoModelForImageClassification.from_pretrained(folder)
    draw_curve([[0, 1], [1, 0]], Path(folder) / "curve.png")
versions()
for template in model_card.TEMPLATES.glob("*_card.md"):
    compiled(template)
# Forks share these objects' memory as long as their garbage collector leaves them alone.
gc.collect()
gc.freeze()
