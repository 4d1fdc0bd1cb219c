"""Mixed images -> refined images: img2img at strength S with the base model and the adapter (Eq. 1-2 of the paper)."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    UniPCMultistepScheduler,
)

from .adapters import Adapter, load_into
from .config import AugmentSettings, UserError, first_line
from .pins import Pin

SCHEDULERS = {
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}


class Refiner:
    """The diffusion model with its adapter, ready for batches of one strength."""

    def __init__(self, base: Pin, adapter: Adapter, settings: AugmentSettings, device: torch.device):
        self.settings = settings
        self.device = device
        self.pipeline = load_base(base, settings)
        load_into(self.pipeline, adapter)
        self.pipeline.to(device, getattr(torch, settings.dtype))
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
    def refine(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> tuple[np.ndarray, list[bool]]:
        """Refined images, float32 (B, size, size, 3) in [0, 1], and which of them the safety checker flagged.

        `images`: uint8 (B, size, size, 3), B at most the batch size: a shorter batch is padded to it and the padding dropped, because bits
        depend on the size of a batch (not on what else is in it). Each row draws its noise from its own CPU generator.
        """
        wanted = len(images)
        padded = [min(i, wanted - 1) for i in range(self.settings.batch_size)]
        embeds = torch.cat([self._embeds(labels[i]) for i in padded])
        pixels = torch.from_numpy(images[padded]).permute(0, 3, 1, 2).float() / 255
        output = self.pipeline(
            image=pixels,
            prompt_embeds=embeds,
            negative_prompt_embeds=self._negative_embeds.expand_as(embeds) if self._guided else None,
            strength=self.settings.strength,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(seeds[i]) for i in padded],
            output_type="np",
        )
        flagged = [bool(f) for f in output.nsfw_content_detected or [False] * len(padded)]
        return output.images[:wanted], flagged[:wanted]


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


def load_base(base: Pin, settings: AugmentSettings) -> StableDiffusionImg2ImgPipeline:
    """The base as an img2img pipeline, safetensors only, with the scheduler of the settings. Raises `UserError`."""
    options = {} if settings.safety_checker else {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
            base.path or base.name,
            revision=None if base.is_local else base.revision,
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the base model {base.name}: {first_line(error)}") from error
    scheduler_class, scheduler_options = SCHEDULERS[settings.scheduler]
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **scheduler_options)
    return pipeline
