"""Mixed images -> refined images: img2img at strength S with the base model and the adapter (Eq. 1-2 of the paper)."""

from __future__ import annotations

import warnings
from typing import TypeVar

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    UniPCMultistepScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

from .adapters import Adapter, load_into
from .config import AugmentSettings, UserError, first_line
from .pins import Pin

SCHEDULERS = {
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
INPAINT_STRENGTH = 0.9  # of the pass that paints what stands behind the target's foreground; at 1 its first filling would not count
NO_SAFETY_CHECKER = {"safety_checker": None, "requires_safety_checker": False}
Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)


class Refiner:
    """The diffusion model with its adapter, ready for batches of one strength."""

    def __init__(self, base: Pin, adapter: Adapter, settings: AugmentSettings, device: torch.device):
        self.settings = settings
        self.device = device
        without = {} if settings.safety_checker else NO_SAFETY_CHECKER
        pipeline = load_base(StableDiffusionImg2ImgPipeline, base, getattr(torch, settings.dtype), **without)
        self.pipeline = with_scheduler(pipeline, settings.scheduler)
        load_into(self.pipeline, adapter)
        self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.adapter = adapter
        self._prompt_embeds: dict[int, torch.Tensor] = {}
        self._negative_embeds: torch.Tensor | None = None

    @property
    def _guided(self) -> bool:
        return self.settings.guidance_scale > 1

    @torch.no_grad()
    def _embeds(self, label: int) -> torch.Tensor:
        """The class's prompt embedding, (1, tokens, dim): encoded once a class, alone, so that its bits depend on nothing else."""
        if label not in self._prompt_embeds:
            positive, negative = self.pipeline.encode_prompt(self.adapter.prompt(label), self.device, 1, self._guided)
            self._prompt_embeds[label] = positive
            self._negative_embeds = negative
        return self._prompt_embeds[label]

    @torch.no_grad()
    def refine(self, images: np.ndarray, foregrounds: np.ndarray, labels: list[int], seeds: list[int]) -> tuple[np.ndarray, list[bool]]:
        """Refined images, float32 (B, size, size, 3) in [0, 1], and which of them the safety checker flagged.

        `images`: uint8 (B, size, size, 3), B at most the batch size: a shorter batch is padded to it and the padding dropped, because bits
        depend on the size of a batch (not on what else is in it). Each row draws its noise from its own CPU generator. `foregrounds`: bool
        (B, size, size), where `foreground_strength` applies; without that setting it is not looked at.
        """
        wanted = len(images)
        padded = [min(i, wanted - 1) for i in range(self.settings.batch_size)]
        embeds = torch.cat([self._embeds(labels[i]) for i in padded])
        generators = [torch.Generator("cpu").manual_seed(seeds[i]) for i in padded]
        image = torch.from_numpy(images[padded]).permute(0, 3, 1, 2).float() / 255
        keep_foreground = None
        if self.settings.foreground_strength is not None:
            released_after = self._steps(self.settings.strength) - self._steps(self.settings.foreground_strength)
            keep_foreground = self._keeper(image, foregrounds[padded], generators, released_after)
        output = self.pipeline(
            image=image,
            prompt_embeds=embeds,
            negative_prompt_embeds=self._negative_embeds.expand_as(embeds) if self._guided else None,
            strength=self.settings.strength,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            generator=generators,
            callback_on_step_end=keep_foreground,
            output_type="np",
        )
        return output.images[:wanted], self._flagged(output)[:wanted]

    @torch.no_grad()
    def inpaint(self, images: np.ndarray, holes: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, list[bool]]:
        """Images, float32 (B, size, size, 3) in [0, 1], whose holes, bool (B, size, size), the base model without its adapter has painted
        anew, and which of them the safety checker flagged: from a first filling (`images`, uint8), at a high strength, away from the
        metaclass where guidance is on. Around the hole the latents are put back after every step.
        """
        wanted = len(images)
        padded = [min(i, wanted - 1) for i in range(self.settings.batch_size)]
        generators = [torch.Generator("cpu").manual_seed(seeds[i]) for i in padded]
        pixels = torch.from_numpy(images[padded]).permute(0, 3, 1, 2).float() / 255
        around = self._keeper(pixels, ~holes[padded], generators, self._steps(INPAINT_STRENGTH))
        self.pipeline.unet.disable_adapters()
        output = self.pipeline(
            image=pixels,
            prompt=[""] * len(padded),
            negative_prompt=[f"a photo of a {self.adapter.facts['metaclass']}"] * len(padded),
            strength=INPAINT_STRENGTH,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            generator=generators,
            callback_on_step_end=around,
            output_type="np",
        )
        self.pipeline.unet.enable_adapters()
        return output.images[:wanted], self._flagged(output)[:wanted]

    def _flagged(self, output) -> list[bool]:
        return [bool(flag) for flag in output.nsfw_content_detected or [False] * self.settings.batch_size]

    def _steps(self, strength: float) -> int:
        """How many steps a strength runs, truncated as diffusers does."""
        return int(self.settings.num_inference_steps * strength)

    def _keeper(self, pixels: torch.Tensor, kept: np.ndarray, generators: list[torch.Generator], released_after: int) -> ForegroundKeeper:
        """What keeps part of the images, (B, 3, H, W) in [0, 1], as the pipeline is going to encode them with these generators.

        The pipeline is given pixels, not these latents: it takes for latents only what has four channels.
        """
        ahead = [torch.Generator("cpu").set_state(generator.get_state()) for generator in generators]
        vae = self.pipeline.vae
        inputs = self.pipeline.image_processor.preprocess(pixels).to(self.device, vae.dtype)
        rows = zip(inputs.split(1), ahead, strict=True)
        latents = torch.cat([vae.encode(row).latent_dist.sample(generator) for row, generator in rows]) * vae.config.scaling_factor
        return ForegroundKeeper(latents, kept, randn_tensor(latents.shape, ahead, self.device, latents.dtype), released_after)


class ForegroundKeeper:
    """Keeps part of the image at a lower strength than the rest: after every step its latents are put back to the given image's own, noised
    to where the sampler stands, until it is released (blended diffusion; differential diffusion with two levels). What is kept through
    all steps passes through the VAE alone.
    """

    def __init__(self, latents: torch.Tensor, kept: np.ndarray, noise: torch.Tensor, released_after: int):
        """`latents`: scaled, (B, c, h, w); `kept`: bool (B, size, size); `noise`: (B, c, h, w), what the sampler starts from;
        `released_after`: the number of steps that the part is put back for."""
        self.latents = latents
        self.noise = noise
        coverage = F.adaptive_avg_pool2d(torch.from_numpy(kept)[:, None].float(), latents.shape[-2:])
        self.kept = (coverage >= 0.5).to(latents.device)
        self.released_after = released_after

    def __call__(self, pipeline, step: int, timestep: int, tensors: dict) -> dict:
        """diffusers' `callback_on_step_end`."""
        if step >= self.released_after:
            return {}
        remaining = pipeline.scheduler.timesteps[-(pipeline.num_timesteps - step) :][1:]
        own = self.latents
        if len(remaining):
            own = pipeline.scheduler.add_noise(self.latents, self.noise, remaining[:1].repeat(len(self.latents)))
        return {"latents": torch.where(self.kept, own, tensors["latents"])}


def unusable_reason(image: np.ndarray, flagged: bool) -> str | None:
    """Why a refined image, float (size, size, 3), must not be published; None when it may."""
    if flagged:
        return "flagged by the safety checker"
    if not np.isfinite(image).all():
        return "refined image is not finite"
    if np.ptp(image) < 1 / 255:
        return "refined image is constant"
    return None


def to_uint8(image: np.ndarray) -> np.ndarray:
    """A float image in [0, 1] as uint8."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def load_base(pipeline_class: type[Pipeline], base: Pin, dtype: torch.dtype, **options) -> Pipeline:
    """The pinned base model as a pipeline, safetensors only. Raises `UserError`."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*torch_dtype.*", category=FutureWarning
            )  # its new name is unknown to older diffusers
            return pipeline_class.from_pretrained(
                base.path or base.name,
                revision=None if base.is_local else base.revision,
                torch_dtype=dtype,
                use_safetensors=True,
                **options,
            )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the base model {base.name}: {first_line(error)}") from error


def with_scheduler(pipeline: Pipeline, name: str) -> Pipeline:
    """The pipeline with the sampler of that name in place of its own, at the same noise schedule."""
    scheduler_class, options = SCHEDULERS[name]
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
    return pipeline
