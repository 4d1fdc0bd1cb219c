"""What families trained by flow matching share: transformers whose latents are mixed with noise as
(1 - sigma) x + sigma n.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.models.prompts import add_tokens, check_width, fault_of_count, tokens_of

from .family import Conditioning, Configs, Encoder, Family, Pipeline
from .noising import FlowMatching
from .output_tokens import OUTPUT, PLACEHOLDER, fault_of_output, place_in_output

PATCH = 2  # latents' side of a token
# LoRA's layers in transformers that attend to text and image together
JOINT_ATTENTION = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)

OF_PEFT = re.compile(r"\.(lora_[AB](\.default)?\.weight|alpha)$")
# what trainers put before a layer's flattened name, and after it: peft's own ends
FLATTENED = re.compile(r"^(lora_unet|lora_transformer|lycoris)_")
ENDS = {
    "lora_down.weight": "lora_A.weight",
    "lora_up.weight": "lora_B.weight",
    "alpha": "alpha",
}


class FlowFamily(Family):
    """Learned tokens are a file of one tensor an encoder, named by its key, (tokens, dim).

    No stock loader reads it for these pipelines; the card's snippet does so in a few lines.
    `weighting_scheme`, `loss_of_image`: of the loss, as in diffusers' script for the family by
    default; `FlowMatching` tells what they mean.
    """

    denoiser = "transformer"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    lora_halves = ("lora_A", "lora_B")
    drawn_with = "euler"
    weighting_scheme = "none"
    loss_of_image = False

    def fault(self, index: dict[str, Any], configs: Configs) -> str | None:
        needed = [encoder.model for encoder in self.encoders if not encoder.optional]
        absent = [part for part in needed if index.get(part) in (None, [None, None])]
        if absent:
            return f"no {absent[0]}, unlike {self.title}"
        denoiser, vae = configs[self.denoiser], configs["vae"]
        taken, given = denoiser.get("in_channels"), self.given_channels(vae)
        if taken is not None and given is not None and taken != given:
            return (
                f"a transformer that takes {shown(taken)} channels, and an autoencoder that gives "
                f"{shown(given)}, like a model for inpainting or depth"
            )
        return None

    def given_channels(self, vae: dict[str, Any]) -> Any:
        """The channels that an autoencoder of this configuration gives to the transformer."""
        return vae.get("latent_channels")

    def options(self, safety_checker: bool) -> dict[str, Any]:
        return {}

    def multiple_of(self, pipeline: Pipeline) -> int:
        return PATCH * self.latents.factor(pipeline.vae)

    def num_tokens(self, pipeline: Pipeline, size: tuple[int, int]) -> int:
        """How many tokens an image of this (height, width) is."""
        height, width = (side // self.multiple_of(pipeline) for side in size)
        return height * width

    # ---- the schedule ----

    def scheduler(self, config: Any, name: str, timestep_spacing: str | None = None) -> Any:
        from .schedulers import FLOW_SCHEDULERS

        if name not in FLOW_SCHEDULERS:
            raise UserError(
                f"scheduler {name} is not for bases trained by flow matching, and this one is of "
                f"{self.title}: give {', '.join(FLOW_SCHEDULERS)}"
            )
        if timestep_spacing not in (None, "trailing"):
            raise UserError(
                f"timestep_spacing {timestep_spacing} is not for bases trained by flow matching: "
                "their steps are spread as trailing says"
            )
        scheduler_class, options = FLOW_SCHEDULERS[name]
        if name != "euler":
            options = options | {"flow_shift": config.get("shift", 1.0)}
            shifted = config.get("use_dynamic_shifting")
            if shifted and config.get("time_shift_type", "exponential") != "exponential":
                raise UserError(
                    f"scheduler {name} does not know this base's shift of the noise levels: give "
                    "euler"
                )
        return scheduler_class.from_config(config, **options)

    def set_timesteps(
        self,
        pipeline: Pipeline,
        scheduler: Any,
        num_inference_steps: int,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        options: dict[str, Any] = {"num_inference_steps": num_inference_steps}
        if scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = self.shift(pipeline, scheduler, num_inference_steps, size)
        sigmas = self.sigmas(num_inference_steps)
        if sigmas is not None and not scheduler.config.get("use_flow_sigmas"):
            options["sigmas"] = sigmas
        scheduler.set_timesteps(device=device, **options)

    def sigmas(self, num_inference_steps: int) -> Any:
        """The noise levels before they are shifted, which stock gives to the sampler; None if it
        gives none.
        """
        return np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)

    def shift(
        self, pipeline: Pipeline, scheduler: Any, num_inference_steps: int, size: tuple[int, int]
    ) -> float:
        """By how much the noise levels of images of this size are shifted (`mu`)."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = scheduler.config
        return calculate_shift(
            self.num_tokens(pipeline, size),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )

    def num_steps(self, num_inference_steps: int, strength: float) -> int:
        """Rounded up, as stock does; but none where not even one would fit in."""
        if int(num_inference_steps * strength) == 0:
            return 0
        first = max(
            num_inference_steps - min(num_inference_steps * strength, num_inference_steps), 0
        )
        return num_inference_steps - int(first)

    def noise_levels(
        self,
        pipeline: Pipeline,
        scheduler: Any,
        num_inference_steps: int,
        size: tuple[int, int],
    ) -> list[float]:
        """The sampler's own sigmas."""
        sampler = type(scheduler).from_config(scheduler.config)  # leaves the given one as it is
        self.set_timesteps(pipeline, sampler, num_inference_steps, size, torch.device("cpu"))
        sigmas = sampler.sigmas[: len(sampler.timesteps)]
        if not sigmas.isfinite().all():
            raise UserError(
                f"num_inference_steps {num_inference_steps} gives no noise levels on this base of "
                f"{self.title}: give more"
            )
        return [round(float(sigma), 4) for sigma in reversed(sigmas)]

    # ---- a training ----

    def noising(self, scheduler_config: Any, weighting_scheme: str | None = None) -> FlowMatching:
        scheme = weighting_scheme or self.weighting_scheme
        return FlowMatching(scheduler_config, scheme, self.loss_of_image)

    def check_loss(self, snr_gamma: float | None, weighting_scheme: str | None) -> None:
        if snr_gamma is not None:
            raise UserError(
                f"snr_gamma is not for bases trained by flow matching, and this one is of "
                f"{self.title}: leave it out, or give weighting_scheme"
            )

    # ---- prompts and learned tokens ----

    def expanded(self, pipeline: Pipeline, text: str, tokenizer: Any) -> str:
        from diffusers.loaders import TextualInversionLoaderMixin

        # these pipelines are none, but the mixin needs nothing of them
        expanding: Any = TextualInversionLoaderMixin()
        return expanding.maybe_convert_prompt(text, tokenizer)

    def call_text(self, pipeline: Pipeline, text: str) -> str:
        return self.expanded(pipeline, text, getattr(pipeline, self.encoders[0].tokenizer))

    def call_options(
        self, pipeline: Pipeline, guidance_scale: float, images: torch.Tensor | None
    ) -> dict[str, Any]:
        size = {} if images is None else {"height": images.shape[-2], "width": images.shape[-1]}
        return {"guidance_scale": guidance_scale} | size

    def token_file(
        self, learned: dict[str, torch.Tensor], num_vectors: int
    ) -> dict[str, torch.Tensor]:
        return {key: rows.clone() for key, rows in learned.items()}

    def fault_of_tokens(self, tokens: dict[str, torch.Tensor], num_classes: int) -> str | None:
        if any(name.endswith(OUTPUT) for name in tokens):
            outputs = {encoder.key: encoder.outputs for encoder in self.encoders}
            return fault_of_output(tokens, outputs, num_classes)
        unknown = set(tokens) - {encoder.key for encoder in self.encoders}
        if unknown:
            return f"has learned tokens {shown(min(unknown))}, and its base takes none of that name"
        return fault_of_rows(
            tokens, [one.key for one in self.encoders if not one.optional], num_classes
        )

    def load_tokens(
        self, pipeline: Pipeline, tokens: dict[str, torch.Tensor], num_classes: int
    ) -> None:
        for encoder in self.encoders_of(pipeline):
            output = tokens.get(encoder.key + OUTPUT)
            rows = tokens[encoder.key] if output is None else output
            tokenizer, network = (
                getattr(pipeline, name) for name in (encoder.tokenizer, encoder.model)
            )
            count = len(rows) // num_classes
            add_tokens(tokenizer, num_classes, count)
            names = [name for label in range(num_classes) for name in tokens_of(label, count)]
            ids = tokenizer.convert_tokens_to_ids(names)
            known = network.get_input_embeddings().num_embeddings
            if known <= max(ids):
                network.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
            weight = network.get_input_embeddings().weight
            vectors = rows if output is None else tokens[encoder.key + PLACEHOLDER]
            check_width(vectors, network)
            with torch.no_grad():
                weight[ids] = vectors.to(weight)
            if output is not None:
                place_in_output(network, output, ids[0], encoder.outputs)

    def lora_weights(
        self, pipeline: Pipeline, weights: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        stock: Any = pipeline
        given = unflattened(weights, getattr(pipeline, self.denoiser), self.denoiser)
        if all(OF_PEFT.search(name) for name in given):
            given = with_alphas(given)  # some stock loaders take alphas for another format
        found = stock.lora_state_dict(given, return_alphas=True)
        # some pipelines give the alphas beside the weights, the others leave them among them
        named, beside = found if isinstance(found, tuple) else (found, None)
        whole = with_alphas(named | (beside or {}))
        return whole, whole


def unflattened(
    weights: dict[str, torch.Tensor], denoiser: torch.nn.Module, name: str
) -> dict[str, torch.Tensor]:
    """A LoRA by diffusers' own layers but kohya's ends, in peft's format; any other as it is.

    LyCORIS and OneTrainer write such names: with _ for every dot of a layer, or behind the
    denoiser's name as they are.
    """
    dotted = {f"{name}.{layer}": layer for layer, _ in denoiser.named_modules()}
    flat = {layer.replace(".", "_"): layer for layer in dotted.values()}
    found = {}
    for key, value in weights.items():
        end = next((end for end in ENDS if key.endswith(f".{end}")), None)
        given = key.removesuffix(f".{end}")
        layer = flat.get(FLATTENED.sub("", given)) if FLATTENED.match(given) else dotted.get(given)
        if layer is None or end is None:
            return dict(weights)
        found[f"{name}.{layer}.{ENDS[end]}"] = value
    return found


def with_alphas(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA's weights, in peft's format, multiplied by alpha / rank where they have an alpha.

    Most loaders leave alphas out. Raises `ValueError` for one that belongs to no layer.
    """
    alphas = {name: value for name, value in weights.items() if name.endswith(".alpha")}
    whole = {name: value for name, value in weights.items() if name not in alphas}
    for name, alpha in alphas.items():
        layer = name.removesuffix(".alpha")
        ups = [f"{layer}.lora_B{middle}.weight" for middle in ("", ".default")]
        up = next((each for each in ups if each in whole), None)
        if up is None:
            raise ValueError(f"{shown(name)} belongs to no layer")
        whole[up] = whole[up] * (alpha.item() / whole[up].shape[1])
    return whole


def fault_of_rows(tokens: dict[str, torch.Tensor], keys: list[str], num_classes: int) -> str | None:
    """What a file of one tensor an encoder lacks for an adapter of these classes, or None."""
    missing = [key for key in keys if key not in tokens]
    if missing:
        return f"has no learned tokens {missing[0]}"
    if any(rows.ndim != 2 for rows in tokens.values()):
        return f"has no tokens of {num_classes} classes"
    counts = {len(rows) for rows in tokens.values()}
    return fault_of_count(counts.pop() if len(counts) == 1 else 0, num_classes)


class ChatEncoder(Encoder):
    """A language model that is told the prompt as a chat's message of the user."""

    thinking = True

    def text(self, tokenizer: Any, prompt: str) -> str:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking,
        )


def masked(input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of `prompt_ids`, none of them negative, and the mask of what is no padding."""
    shown = input_ids >= 0
    return torch.where(shown, input_ids, ~input_ids), shown


def padded(parts: list[Conditioning], names: tuple[str, ...]) -> list[Conditioning]:
    """Conditionings whose named parts, (rows, length, ...), are padded with zeros to one length."""
    length = max(part[names[0]].shape[1] for part in parts)

    def longer(value: torch.Tensor) -> torch.Tensor:
        more = value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])
        return torch.cat([value, more], dim=1)

    return [part | {name: longer(part[name]) for name in names} for part in parts]


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, c, h, w) as tokens of 2 x 2, (B, h / 2 * w / 2, 4 * c)."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * PATCH**2)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens (B, h / 2 * w / 2, 4 * c) as latents (B, c, h, w)."""
    rows = len(tokens)
    patches = tokens.reshape(rows, height // PATCH, width // PATCH, -1, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(rows, -1, height, width)


def places(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Row and column of every token of latents of this size, int64 (h / 2 * w / 2, 2)."""
    rows, columns = (torch.arange(side // PATCH, device=device) for side in (height, width))
    return torch.cartesian_prod(rows, columns)
