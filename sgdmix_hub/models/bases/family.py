"""What differs between families of base models: one record a family, one file a record.

Everything else in the package works with `Family` and never asks which base it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from sgdmix_hub.errors import UserError

from .latents import LatentSpace
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
    `max_length`: tokens that it reads; the tokenizer's own number if None. `masked`: it does not
    see its padding; `padded`: prompts are padded to `max_length`, not to the longest.
    `optional`: a base may come without it. `outputs`: the hidden states that the denoiser is told,
    where learned tokens may stand too; none where it is told more than them, and then `hidden` are
    the hidden states.
    """

    tokenizer: str
    model: str
    key: str
    max_length: int | None = None
    masked: bool = False
    padded: bool = True
    optional: bool = False
    outputs: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()

    def reads(self, tokenizer: Any) -> int:
        """How many tokens of a prompt it reads."""
        return self.max_length or tokenizer.model_max_length

    def text(self, tokenizer: Any, prompt: str) -> str:
        """What is tokenised of a prompt: with the words that the base puts around it."""
        return prompt


class Family(ABC):
    """One family of base models.

    `name`: in adapter.json. `title`: in messages and docs. `class_names`: the `_class_name`s in
    model_index.json. `text_to_image`, `image_to_image`: classes of diffusers. `denoiser`: the name
    of the network that carries the LoRA, in a pipeline and in LoRA files. `weights`: part -> its
    file of weights. `license`: of the original weights; a base's own card may state another.
    `lora_halves`: the ends of a layer's two names in LoRA files. `drawn_with`: the sampler of a
    training's own images. `fits_float16`: whether its numbers stay in that precision's range.
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
    lora_halves: ClassVar[tuple[str, str]] = ("lora.down", "lora.up")
    drawn_with: ClassVar[str] = "dpmsolver++"
    fits_float16: ClassVar[bool] = True
    latents: ClassVar[LatentSpace] = LatentSpace()

    def encoders_of(self, pipeline: Pipeline) -> list[Encoder]:
        """The text encoders that a base has."""
        return [
            encoder
            for encoder in self.encoders
            if not encoder.optional or getattr(pipeline, encoder.model) is not None
        ]

    def multiple_of(self, pipeline: Pipeline) -> int:
        """What the sides of images must be multiples of, in pixels."""
        return self.latents.factor(pipeline.vae)

    @abstractmethod
    def fault(self, index: dict[str, Any], configs: Configs) -> str | None:
        """Why a base with this model_index.json and these configs cannot be used, or None.

        `configs`: of the denoiser and the autoencoder.
        """

    def check_precision(self, setting: str, value: str) -> None:
        """Raises `UserError` for a precision, in torch's or in accelerate's word, that the family
        does not compute in.
        """
        instead = {"float16": "bfloat16", "fp16": "bf16"}.get(value)
        if instead is not None and not self.fits_float16:
            raise UserError(
                f"{setting} {value}: bases of {self.title} leave its range, so all images would be "
                f"black: give {instead}"
            )

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

    def expanded(self, pipeline: Pipeline, text: str, tokenizer: Any) -> str:
        """A prompt with all tokens of its classes."""
        return pipeline.maybe_convert_prompt(text, tokenizer)

    def call_text(self, pipeline: Pipeline, text: str) -> str:
        """A prompt for a call of the stock pipeline, which expands it if it knows how to."""
        return text

    def joined(self, parts: list[Conditioning]) -> Conditioning:
        """The conditionings of single rows as one of a batch."""
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @abstractmethod
    def encode_ids(
        self,
        encoders: list[Any],
        input_ids: list[torch.Tensor],
        geometry: torch.Tensor | None,
    ) -> Conditioning:
        """The conditioning in a training, through which gradients reach the learned tokens.

        `encoders`, and `input_ids` int64 (B, length) each: in the order of `encoders_of`; padding
        that an encoder masks is negative, `~id`.
        `geometry`: int64 (B, 6), the images' `data.images.Geometry`, if `needs_geometry`.
        """

    def of_images(
        self, pipeline: Pipeline, height: int, width: int, guidance_scale: float
    ) -> Conditioning:
        """What the denoiser is told of an image to draw, besides the prompt: (1, values) each."""
        return {}

    def of_start(self, latents: torch.Tensor) -> Conditioning:
        """What the denoiser is told of the images that it starts from: one row an image.

        `latents`: scaled, (B, c, h, w).
        """
        return {}

    def embeds_guidance(self, pipeline: Pipeline) -> bool:
        """Whether the denoiser is told the guidance scale, and is not run twice for it."""
        return False

    def guided(
        self, unwanted: torch.Tensor, wanted: torch.Tensor, guidance_scale: float
    ) -> torch.Tensor:
        """Classifier-free guidance, as the stock pipeline does it; predictions (B, c, h, w)."""
        return unwanted + guidance_scale * (wanted - unwanted)

    def call_options(
        self, pipeline: Pipeline, guidance_scale: float, images: torch.Tensor | None
    ) -> dict[str, Any]:
        """Arguments of a stock call. `images`: (B, 3, H, W), which img2img begins with."""
        return {"guidance_scale": guidance_scale}

    @abstractmethod
    def scheduler(self, config: Any, name: str, timestep_spacing: str | None = None) -> Any:
        """The named sampler at the noise schedule of a base's own. Raises `UserError`."""

    def set_timesteps(
        self,
        pipeline: Pipeline,
        scheduler: Any,
        num_inference_steps: int,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Sets a sampler's time steps, which may depend on the `size` (height, width) of images."""
        scheduler.set_timesteps(num_inference_steps, device=device)

    def num_steps(self, num_inference_steps: int, strength: float) -> int:
        """The steps that a strength runs, as the stock pipeline counts them."""
        return int(num_inference_steps * strength)

    @abstractmethod
    def noise_levels(
        self,
        pipeline: Pipeline,
        scheduler: Any,
        num_inference_steps: int,
        size: tuple[int, int],
    ) -> list[float]:
        """Share of noise, in [0, 1], in what a sampler's last 1, 2, 3 ... steps begin with."""

    @abstractmethod
    def predict(
        self, denoiser: Any, latents: torch.Tensor, timestep: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        """The denoiser's prediction for noisy latents, both (B, c, h, w).

        `timestep`: of all rows, (), or one a row, (B,); in a sampler's units.
        """

    @abstractmethod
    def noising(self, scheduler_config: Any, weighting_scheme: str | None = None) -> Noising:
        """Noise, target and loss weights of a training. Raises `UserError`."""

    def check_tokens(self, token_place: str | None) -> None:
        """Raises `UserError` if learned tokens cannot be there."""
        if token_place is not None and not all(encoder.outputs for encoder in self.encoders):
            raise UserError(
                f"token_place {token_place} is for bases whose only text encoder is a language "
                f"model, and this one is of {self.title}: leave it out"
            )

    @abstractmethod
    def check_loss(self, snr_gamma: float | None, weighting_scheme: str | None) -> None:
        """Raises `UserError` for a weighting of the loss that is not for this family."""

    def overflows(self, vae: Any) -> bool:
        """Whether an autoencoder in half precision must be put into single precision."""
        return False

    def lora_layers(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """peft's weights of a LoRA as stock's `save_lora_weights` takes them."""
        return weights

    @abstractmethod
    def lora_weights(
        self, pipeline: Pipeline, weights: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The weights of a LoRA that others made, in a format that the stock loader reads whole,
        and in peft's, in which names begin with the network's.
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
