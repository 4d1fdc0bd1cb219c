"""Base diffusion models: loading, schedulers, images out of tensors."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging
from safetensors import safe_open

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.hub.pins import Pin, local_folder
from sgdmix_hub.runtime.liveness import launched_rank

from .supported_bases import check_supported

SCHEDULERS = {
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "safety_checker": "model.safetensors",
}
NO_SAFETY_CHECKER = {"safety_checker": None, "requires_safety_checker": False}
Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [0, 1] as uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@contextmanager
def no_loading_bar():
    """Without diffusers' bar of a pipeline's parts, for a while: the programs show one of their own
    a stage.
    """
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_base(pipeline_class: type[Pipeline], base: Pin, dtype: torch.dtype, **options) -> Pipeline:
    """The pinned base model as a pipeline, safetensors only. Of a launch, rank 0 alone passes on
    more than diffusers' errors, from here on. Raises `UserError`.
    """
    check_supported(base)
    if launched_rank() != 0:
        logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), no_loading_bar():
            warnings.filterwarnings(
                "ignore", message=".*torch_dtype.*", category=FutureWarning
            )  # its new name is unknown to older diffusers
            pipeline = pipeline_class.from_pretrained(
                base.path or base.name,
                revision=None if base.is_local else base.revision,
                torch_dtype=dtype,
                use_safetensors=True,
                **options,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever diffusers, transformers and tokenizers raise on what anybody may have written
        raise UserError(f"cannot load the base model {base.name}: {first_line(error)}") from error
    _check_prompt_length(base, pipeline)
    _check_whole(base, pipeline)
    return pipeline


def _check_prompt_length(base: Pin, pipeline: DiffusionPipeline) -> None:
    """Raises `UserError` where the tokenizer would pad a prompt to more tokens than the text
    encoder reads: to 10^30 where it states no length.
    """
    padded, read = (
        pipeline.tokenizer.model_max_length,
        pipeline.text_encoder.config.max_position_embeddings,
    )
    if padded > read:
        raise UserError(
            f"the base model {base.name} pads prompts to {shown(padded)} tokens, of which its text encoder reads {read}: set "
            "model_max_length in its tokenizer/tokenizer_config.json"
        )


def _check_whole(base: Pin, pipeline: DiffusionPipeline) -> None:
    """Raises `UserError` where a network of the base has more weights than its file: the libraries
    draw the others at random and say so in a note. They are counted, since names differ between
    versions of the libraries.
    """
    folder = Path(local_folder(base, [f"{part}/{name}" for part, name in WEIGHTS.items()]))
    for part, name in WEIGHTS.items():
        network, file = getattr(pipeline, part, None), folder / part / name
        if (
            network is None or not file.is_file()
        ):  # large ones are stored in parts, which their index lists
            continue
        with safe_open(file, framework="pt") as weights:
            stored, needed = len(weights.keys()), sum(1 for _ in network.parameters())
        if stored < needed:
            raise UserError(
                f"the base model {base.name} is not whole: {part} has {needed} weights, its file {stored}"
            )


def with_scheduler(pipeline: Pipeline, name: str) -> Pipeline:
    """The pipeline with the sampler of that name in place of its own, at the same noise schedule."""
    scheduler_class, options = SCHEDULERS[name]
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
    return pipeline
