"""What differs between families of base models: one record a family, one file a record.

Everything else in the package works with `Family` and never asks which base it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from .noising import Noising

# What the denoiser is told besides latents and time step: tensors with one row an image.
Conditioning = dict[str, torch.Tensor]
Configs = dict[str, dict[str, Any]]  # part of a base -> its config.json


class Pipeline(Protocol):
    """What all families' pipelines have.

    diffusers' classes are no types to check against: at its top level each is a union with a
    stand-in for missing libraries.
    """

    vae: Any
    scheduler: Any
    components: dict[str, Any]
    config: Any
    to: Callable[..., Any]
    encode_prompt: Callable[..., tuple[torch.Tensor, ...]]
    maybe_convert_prompt: Callable[..., Any]
    run_safety_checker: Callable[..., tuple[torch.Tensor, list[bool]]]
    set_progress_bar_config: Callable[..., None]
    load_lora_weights: Callable[..., None]
    load_textual_inversion: Callable[..., None]
    fuse_lora: Callable[..., None]
    unload_lora_weights: Callable[..., None]
    remove_all_hooks: Callable[..., None]

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Encoder:
    """A text encoder that learns tokens: the names of its parts in a pipeline.

    `key`: the name of its learned rows in a training, and in files that hold several encoders'.
    """

    tokenizer: str
    model: str
    key: str


class Family(ABC):
    """One family of base models.

    `name`: in adapter.json. `title`: in messages and docs. `class_names`: the `_class_name`s in
    model_index.json. `text_to_image`, `image_to_image`: classes of diffusers. `denoiser`: the name
    of the network that carries the LoRA, in a pipeline and in LoRA files. `weights`: part -> its
    file of weights. `license`: of the original weights; a base's own card may state another.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    text_to_image: ClassVar[str]
    image_to_image: ClassVar[str]
    denoiser: ClassVar[str]
    encoders: ClassVar[tuple[Encoder, ...]]
    lora_targets: ClassVar[tuple[str, ...]]
    weights: ClassVar[dict[str, str]]
    license: ClassVar[str]
    needs_geometry: ClassVar[bool] = False

    @abstractmethod
    def fault(self, index: dict[str, Any], configs: Configs) -> str | None:
        """Why a base with this model_index.json and these configs cannot be used, or None.

        `configs`: of the denoiser and the autoencoder.
        """

    @abstractmethod
    def options(self, safety_checker: bool) -> dict[str, Any]:
        """Arguments of the pipelines' constructors and of `from_pretrained`."""

    def of_pipeline(self, pipeline: Pipeline) -> dict[str, Any]:
        """Arguments that carry a loaded pipeline's own configuration to another pipeline."""
        return {}

    @abstractmethod
    def encode_prompt(
        self, pipeline: Pipeline, prompt: str, negative: str, guided: bool, device: torch.device
    ) -> tuple[Conditioning, Conditioning]:
        """One prompt, and the negative one (empty unless `guided`), each one row, as stock does."""

    @abstractmethod
    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        """The conditioning in a training, through which gradients reach the learned tokens.

        `encoders`, and `input_ids` int64 (B, length) each: in the order of `Family.encoders`.
        `geometry`: int64 (B, 6), the images' `data.images.Geometry`, if `needs_geometry`.
        """

    def of_images(
        self, pipeline: Pipeline, height: int, width: int, guidance_scale: float
    ) -> Conditioning:
        """What the denoiser is told of an image to draw, besides the prompt: (1, values) each."""
        return {}

    def embeds_guidance(self, pipeline: Pipeline) -> bool:
        """Whether the denoiser is told the guidance scale, and is not run twice for it."""
        return False

    @abstractmethod
    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        """The denoiser's prediction for noisy latents, both (B, c, h, w).

        `timestep`: of all rows, or int64 (B,).
        """

    @abstractmethod
    def noising(self, scheduler_config: Any) -> Noising:
        """Noise, target and loss weights of a training. Raises `UserError`."""

    def overflows(self, vae: Any) -> bool:
        """Whether an autoencoder in half precision must be put into single precision."""
        return False

    @abstractmethod
    def lora_weights(
        self, pipeline: Pipeline, weights: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], list[str]]:
        """The weights of a LoRA that others made, in a format that the stock loader reads whole,
        and their names in peft's format, which begin with the network's name.
        """

    @abstractmethod
    def token_file(
        self, learned: dict[str, torch.Tensor], num_vectors: int
    ) -> dict[str, torch.Tensor]:
        """The tensors of the file of learned tokens, in the format that stock loaders read.

        `learned`: encoder's key -> float32 (classes * num_vectors, dim).
        """

    @abstractmethod
    def fault_of_tokens(self, tokens: dict[str, torch.Tensor], num_classes: int) -> str | None:
        """What such a file lacks for an adapter of these classes, or None."""

    @abstractmethod
    def load_tokens(
        self, pipeline: Pipeline, tokens: dict[str, torch.Tensor], num_classes: int
    ) -> None:
        """Adds the tokens of such a file to a pipeline."""
