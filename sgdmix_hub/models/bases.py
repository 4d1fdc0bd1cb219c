"""Base diffusion models: loading, schedulers, images out of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging
from safetensors import safe_open

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.hub.pins import Pin, local_folder

from .supported_bases import check_supported

SCHEDULERS: dict[str, tuple[Any, dict]] = {
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


class Pipeline(Protocol):
    """What this package uses of a Stable Diffusion pipeline.

    diffusers' classes are no types to check against: at its top level each is a union with a
    stand-in for missing libraries.
    """

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any
    safety_checker: Any
    components: dict[str, Any]
    to: Callable[..., Any]
    maybe_convert_prompt: Callable[..., Any]
    encode_prompt: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    run_safety_checker: Callable[..., tuple[torch.Tensor, list[bool]]]
    set_progress_bar_config: Callable[..., None]
    load_lora_weights: Callable[..., None]
    load_textual_inversion: Callable[..., None]
    fuse_lora: Callable[..., None]
    unload_lora_weights: Callable[..., None]

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [0, 1] as uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@contextmanager
def no_loading_bar():
    """Turns off diffusers' bar over a pipeline's parts: programs show one bar per stage."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def load_base(pipeline_class: Any, base: Pin, dtype: torch.dtype, **options) -> Pipeline:
    """Loads the pinned base model as a pipeline, from safetensors only. Raises `UserError`."""
    check_supported(base)
    try:
        with warnings.catch_warnings(), no_loading_bar():
            # older diffusers do not know the new name, `dtype`
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            pipeline = pipeline_class.from_pretrained(
                base.path or base.name,
                revision=None if base.is_local else base.revision,
                torch_dtype=dtype,
                use_safetensors=True,
                **options,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # fetched files can make the libraries raise anything
        raise UserError(f"cannot load the base model {base.name}: {first_line(error)}") from error
    _check_prompt_length(base, pipeline)
    _check_whole(base, pipeline)
    return pipeline


def _check_prompt_length(base: Pin, pipeline: Pipeline) -> None:
    """Raises `UserError` if the tokenizer pads prompts to more tokens than the text encoder reads.

    A tokenizer that states no length pads to 10^30.
    """
    padded = pipeline.tokenizer.model_max_length
    read = pipeline.text_encoder.config.max_position_embeddings
    if padded > read:
        raise UserError(
            f"the base model {base.name} pads prompts to {shown(padded)} tokens, but its text "
            f"encoder reads {read}: set model_max_length in its tokenizer/tokenizer_config.json"
        )


def _check_whole(base: Pin, pipeline: Pipeline) -> None:
    """Raises `UserError` if a network has more weights than its file holds.

    The libraries would draw the missing ones at random and only warn. Weights are counted because
    their names differ between library versions.
    """
    folder = Path(local_folder(base, [f"{part}/{name}" for part, name in WEIGHTS.items()]))
    for part, name in WEIGHTS.items():
        network, file = getattr(pipeline, part, None), folder / part / name
        if network is None or not file.is_file():
            continue  # large weights are sharded, and the index of the shards lists them all
        with safe_open(file, framework="pt") as weights:
            stored, needed = len(weights.keys()), sum(1 for _ in network.parameters())
        if stored < needed:
            raise UserError(
                f"the base model {base.name} is not whole: {part} needs {needed} weights, "
                f"its file holds {stored}; download it again"
            )


def with_scheduler(pipeline: AnyPipeline, name: str) -> AnyPipeline:
    """Replaces the pipeline's sampler by the named one, at the same noise schedule."""
    scheduler_class, options = SCHEDULERS[name]
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
    return pipeline
