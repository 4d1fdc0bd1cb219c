"""Imported by the fork server: the programs, and the libraries that they import lazily.

It also loads one model, because transformers compiles its tables of renamed weights on first use.
"""

import gc
import tempfile

import accelerate.commands.accelerate_cli
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
from sgdmix_hub.models import refine

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
# Forks share these objects' memory as long as their garbage collector leaves them alone.
gc.collect()
gc.freeze()
