"""Base diffusion models: which ones can be used, loading, schedulers, images out of tensors."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.utils import logging

from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import Pin, local_folder
from sgdmix_hub.runtime.liveness import launched_rank

SCHEDULERS = {
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
NO_SAFETY_CHECKER = {"safety_checker": None, "requires_safety_checker": False}
Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)
SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
ADVICE = "bases of Stable Diffusion 1 and 2 are supported"
SMALL_FILES = ["model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
LONGEST_SCHEDULE = 100_000  # noise levels, of which Stable Diffusion has 1,000


def check_supported(base: Pin) -> None:
    """Raises `UserError` for a base that is no Stable Diffusion 1 or 2 which makes images from text alone."""
    folder = Path(local_folder(base, SMALL_FILES))
    index = _read(base, folder / "model_index.json")
    kind = index.get("_class_name")
    if kind not in SUPPORTED:
        raise UserError(f"the base model {base.name} is a {shown(kind)}: {ADVICE}")
    unet, vae = (_read(base, folder / part / "config.json") for part in ("unet", "vae"))
    levels = _read(base, folder / "scheduler" / "scheduler_config.json").get("num_train_timesteps", 1000)
    if type(levels) is not int or not 1 <= levels <= LONGEST_SCHEDULE:
        raise UserError(f"the base model {base.name} has {shown(levels)} noise levels, more than {LONGEST_SCHEDULE} or none: {ADVICE}")
    if unet.get("addition_embed_type") is not None:
        beside = shown(unet["addition_embed_type"])
        raise UserError(f"the base model {base.name} takes {beside} beside the prompt, as SDXL does: {ADVICE}")
    taken, given = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if taken != given:
        other = f"takes {shown(taken)} channels where its autoencoder gives {shown(given)}, as models for inpainting, depth or editing do"
        raise UserError(f"the base model {base.name} {other}: {ADVICE}")


def _read(base: Pin, path: Path) -> dict:
    """One of the small files as a dictionary. Raises `UserError`."""
    name = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise UserError(f"the base model {base.name} has no {name}, so it is no diffusers pipeline with a UNet: {ADVICE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name} of the base model {base.name} cannot be read: {shown(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{name} of the base model {base.name} holds no settings of a model")
    return values


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [0, 1] as uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@contextmanager
def no_loading_bar():
    """Without diffusers' bar of a pipeline's parts, for a while: the programs show one of their own a stage."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_base(pipeline_class: type[Pipeline], base: Pin, dtype: torch.dtype, **options) -> Pipeline:
    """The pinned base model as a pipeline, safetensors only. Of a launch, rank 0 alone passes on more than diffusers' errors, from here
    on. Raises `UserError`."""
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
    return pipeline


def _check_prompt_length(base: Pin, pipeline: DiffusionPipeline) -> None:
    """Raises `UserError` where the tokenizer would pad a prompt to more tokens than the text encoder reads: to 10^30 where it states no
    length."""
    padded, read = pipeline.tokenizer.model_max_length, pipeline.text_encoder.config.max_position_embeddings
    if padded > read:
        raise UserError(
            f"the base model {base.name} pads prompts to {shown(padded)} tokens, of which its text encoder reads {read}: set "
            "model_max_length in its tokenizer/tokenizer_config.json"
        )


def with_scheduler(pipeline: Pipeline, name: str) -> Pipeline:
    """The pipeline with the sampler of that name in place of its own, at the same noise schedule."""
    scheduler_class, options = SCHEDULERS[name]
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
    return pipeline
