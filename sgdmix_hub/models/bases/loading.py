"""Base diffusion models: loading, and images out of tensors."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers.utils import logging
from safetensors import safe_open

from sgdmix_hub._compat import LOADING
from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import Pin, local_folder
from sgdmix_hub.models.quantization import quantization_config

from .family import Encoder, Family, Pipeline
from .supported import absent_parts, check_supported

LIST = ".index.json"  # of the shards of a file of weights
Task = Literal["text_to_image", "image_to_image"]


@dataclass(frozen=True)
class LoadedBase:
    """A base model as a pipeline of diffusers, with its family."""

    family: Family
    pipeline: Pipeline

    @property
    def denoiser(self) -> Any:
        """The network that carries the LoRA."""
        return getattr(self.pipeline, self.family.denoiser)

    @property
    def encoders(self) -> list[Encoder]:
        """The text encoders that learn tokens."""
        return self.family.encoders_of(self.pipeline)

    def tokenizer(self, encoder: Encoder) -> Any:
        return getattr(self.pipeline, encoder.tokenizer)

    def network(self, encoder: Encoder) -> Any:
        return getattr(self.pipeline, encoder.model)

    def use_scheduler(self, name: str | None = None, timestep_spacing: str | None = None) -> None:
        """Replaces the sampler; by default by the one of a training's own images.

        Raises `UserError`.
        """
        self.pipeline.scheduler = self.family.scheduler(
            self.pipeline.scheduler.config, name or self.family.drawn_with, timestep_spacing
        )

    def check_size(self, resolution: int) -> None:
        """Raises `UserError` if the base takes no images of this width and height."""
        multiple = self.family.multiple_of(self.pipeline)
        if resolution % multiple:
            raise UserError(
                f"resolution {resolution} is not a multiple of {multiple}, as bases of "
                f"{self.family.title} need: give {resolution // multiple * multiple or multiple}"
            )

    def image_to_image(self) -> Pipeline:
        """The same networks as an img2img pipeline, without a safety checker."""
        pipeline_class = getattr(diffusers, self.family.image_to_image)
        return pipeline_class(
            **self.pipeline.components
            | self.family.options(safety_checker=False)
            | self.family.of_pipeline(self.pipeline)
        )


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


def load_base(
    base: Pin,
    dtype: torch.dtype,
    task: Task,
    *,
    safety_checker: bool = False,
    quantization: str | None = None,
) -> LoadedBase:
    """Loads the pinned base model as a pipeline, from safetensors only. Raises `UserError`.

    `safety_checker`: with the base's own, if it has one. `quantization`: of the denoiser, which
    then computes in `dtype`.
    """
    family = check_supported(base)
    options = family.options(safety_checker) | absent_parts(base, family)
    if quantization is not None:
        config = quantization_config(quantization, family.denoiser, dtype)
        options |= {"quantization_config": config}
    pipeline_class = getattr(diffusers, getattr(family, task))
    try:
        with LOADING, warnings.catch_warnings(), no_loading_bar():
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
    loaded = LoadedBase(family, pipeline)
    for encoder in loaded.encoders:
        _check_prompt_length(base, loaded, encoder)
    _check_whole(base, loaded)
    return loaded


def _check_prompt_length(base: Pin, loaded: LoadedBase, encoder: Encoder) -> None:
    """Raises `UserError` if the tokenizer pads prompts to more tokens than the text encoder reads.

    A tokenizer that states no length pads to 10^30.
    """
    padded = encoder.reads(loaded.tokenizer(encoder))
    config = loaded.network(encoder).config.get_text_config()
    read = getattr(config, "max_position_embeddings", None)  # T5 reads any length
    if read is not None and padded > read:
        raise UserError(
            f"the base model {base.name} pads prompts to {shown(padded)} tokens, but its text "
            f"encoder reads {read}: set model_max_length in its "
            f"{encoder.tokenizer}/tokenizer_config.json"
        )


def _check_whole(base: Pin, loaded: LoadedBase) -> None:
    """Raises `UserError` if a network has more weights than its file holds.

    The libraries would draw the missing ones at random and only warn. Weights are counted because
    their names differ between library versions.
    """
    weights = loaded.family.weights
    patterns = [f"{part}/{name}{end}" for part, name in weights.items() for end in ("", LIST)]
    folder = Path(local_folder(base, patterns))
    for part, name in weights.items():
        network, file = getattr(loaded.pipeline, part, None), folder / part / name
        if network is None:
            continue
        if file.is_file():
            with safe_open(file, framework="pt") as stored_weights:
                names = set(stored_weights.keys())
        elif (shards := file.with_name(name + LIST)).is_file():  # of large weights
            names = set(read_json(shards)["weight_map"])
        else:
            continue
        stored = len(names - {buffer for buffer, _ in network.named_buffers()})
        needed = sum(1 for _ in network.parameters())
        if stored < needed:
            raise UserError(
                f"the base model {base.name} is incomplete: {part} needs {needed} weights, "
                f"its file holds {stored}; download it again"
            )
