"""Mixed images -> refined images: img2img at strength S (Eq. 1-2 of the paper).

The loop equals diffusers' img2img step for step (tests compare them). It adds what thousands of
images need: batches through the VAE, an adapter merged into the weights, one encoding per prompt,
and a part of the image kept at another strength.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

from sgdmix_hub.errors import Unusable, UserError, shown
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.settings.method import MethodSettings, num_steps

from .adapters import Adapter, load_into, quiet_libraries
from .bases import NO_SAFETY_CHECKER, load_base, to_uint8, with_scheduler
from .noise import Noise, padded_generators
from .prompts import Prompts, RowPrompt

# for painting what is behind the target's foreground; at 1 the first filling would have no effect
INPAINT_STRENGTH = 0.9
PROMPTS_KEPT = 512  # encodings; one of Stable Diffusion takes 0.5 MB with its negative prompt

# (step, time step, latents (rows, c, h, w)) -> latents
OnStepEnd = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


class Refiner:
    """The diffusion model with its adapter; all rows of a batch have one strength."""

    def __init__(
        self,
        base: Pin,
        adapter: Adapter | None,
        settings: MethodSettings,
        device: torch.device,
        on_step: Callable[[], None] = lambda: None,
    ):
        """`on_step` is called before every denoising step."""
        self.device = device
        self.adapter = adapter
        self.on_step = on_step
        without = {} if settings.safety_checker else NO_SAFETY_CHECKER
        pipeline = load_base(StableDiffusionImg2ImgPipeline, base, torch.float32, **without)
        self.pipeline = with_scheduler(pipeline, settings.scheduler)
        if adapter is not None:
            load_into(self.pipeline, adapter)
        # inpainting by diffusion also needs the base model without its adapter
        if adapter is not None and settings.inpainting_method != "diffusion":
            # in float32: half precision would round away much of the update
            self.pipeline.fuse_lora(components=["unet"])
            self.pipeline.unload_lora_weights()
        with quiet_libraries():  # diffusers warns of float32 parts that this pipeline lacks
            self.pipeline.to(device, getattr(torch, settings.dtype))
        for part in (self.pipeline.unet, self.pipeline.vae):
            part.to(memory_format=torch.channels_last)
        if settings.compile:
            for part in (self.pipeline.unet, self.pipeline.vae.encoder, self.pipeline.vae.decoder):
                part.compile(dynamic=False)
        self._use(settings)

    def _use(self, settings: MethodSettings, on_step_end: OnStepEnd | None = None) -> None:
        self.settings, self.on_step_end = settings, on_step_end
        # one text is encoded alone: its bits depend on nothing else
        self._embeds = lru_cache(maxsize=PROMPTS_KEPT)(self._encode_prompt)

    def using(self, settings: MethodSettings, on_step_end: OnStepEnd | None = None) -> Refiner:
        """The same networks under other settings: strength, steps, guidance, negative prompt.

        `on_step_end` is called after every step of `refine` and may replace the latents.
        """
        other = copy(self)
        other._use(settings, on_step_end)
        return other

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the networks, and converts them."""
        self.device = device
        with quiet_libraries():
            self.pipeline.to(device, dtype)
        self._use(self.settings, self.on_step_end)

    @property
    def _guided(self) -> bool:
        return self.settings.guidance_scale > 1

    def _encode_prompt(self, prompt: str, negative: str = "") -> torch.Tensor:
        """The prompt's embedding, after the negative one if guided: (1 or 2, 1, tokens, dim).

        Raises `UserError` for a text that is too long for the text encoder.
        """
        self._check_length(prompt)
        self._check_length(negative)
        positive, unwanted = self.pipeline.encode_prompt(
            prompt, self.device, 1, self._guided, negative_prompt=negative
        )
        return torch.stack([unwanted, positive] if self._guided else [positive])

    def check_prompts(self, prompts: Prompts) -> None:
        """Raises `UserError` if a prompt that rows may have is too long for the text encoder."""
        tokenizer = self.pipeline.tokenizer
        for text in prompts.longest(lambda text: len(tokenizer(text).input_ids)):
            self._check_length(text)
        self._check_length(self.settings.negative_prompt or "")

    def _check_length(self, text: str) -> None:
        tokenizer = self.pipeline.tokenizer
        expanded = self.pipeline.maybe_convert_prompt(text, tokenizer)
        length, read = len(tokenizer(expanded).input_ids), tokenizer.model_max_length
        if length > read:
            raise UserError(
                f"the prompt {shown(text)!r} takes {length} tokens, the text encoder reads {read}: "
                "shorten it, or its background_prompts"
            )

    def _rows_embeds(self, texts: list[str]) -> torch.Tensor:
        """The embeddings of the rows of a batch: (B or 2 * B, tokens, dim)."""
        negative = self.settings.negative_prompt or ""
        return torch.cat([self._embeds(text, negative) for text in texts], dim=1).flatten(0, 1)

    @torch.no_grad()
    def refine(
        self,
        images: np.ndarray,
        foregrounds: np.ndarray,
        prompts: list[RowPrompt],
        noise: Sequence[Noise],
        strength: float,
    ) -> list[np.ndarray | Unusable]:
        """Refined images, uint8 (size, size, 3), or the reasons why they are unusable.

        `images`: uint8 (B, size, size, 3), B at most the batch size. `foregrounds`: bool (B, size,
        size), where `foreground_strength` applies; ignored without that setting. `noise`: what each
        row's is drawn from. `strength` runs at least one step. Short
        batches are padded and the padding dropped: bits depend on the batch size, but not on the
        other rows.
        """
        padded = self._padded(len(images))
        latents, drawn = self._encode(images[padded], padded_generators(noise, padded))
        told = [prompts[i] for i in padded]
        steps, kept, released_after = num_steps(self.settings, strength), None, 0
        if self.settings.foreground_strength is not None:
            released_after = steps - num_steps(self.settings, self.settings.foreground_strength)
            kept = KeptPart(latents, drawn, foregrounds[padded], released_after)
            if any(prompt.background for prompt in told):
                kept.embeds = self._rows_embeds([prompt.told(True) for prompt in told])
        embeds = self._rows_embeds([prompt.told(released_after == steps) for prompt in told])
        on_step_end = self._on_step_end(len(images))
        latents = self._denoise(latents, drawn, embeds, steps, kept, on_step_end)
        return self._decode(latents, len(images))

    def _on_step_end(self, wanted: int) -> OnStepEnd | None:
        """`on_step_end` without the padding of a batch."""
        on_step_end = self.on_step_end
        if on_step_end is None:
            return None
        return lambda step, timestep, latents: torch.cat(
            [on_step_end(step, timestep, latents[:wanted]), latents[wanted:]]
        )

    @torch.no_grad()
    def inpaint(
        self, images: np.ndarray, holes: np.ndarray, seeds: list[int]
    ) -> list[np.ndarray | Unusable]:
        """Images with their holes repainted, uint8 (size, size, 3), or why they are unusable.

        `images`: uint8 (B, size, size, 3) with a first filling; `holes`: bool (B, size, size). The
        base model paints without its adapter, at a high strength and, if guided, away from the
        metaclass. Around the hole the latents are put back after every step.
        """
        assert self.adapter is not None  # settings.inpainting_method "diffusion" needs one
        padded = self._padded(len(images))
        latents, noise = self._encode(images[padded], padded_generators(seeds, padded))
        embeds = self._encode_prompt("", f"a photo of a {self.adapter.facts['metaclass']}")
        steps = num_steps(self.settings, INPAINT_STRENGTH)
        around = KeptPart(latents, noise, ~holes[padded], steps)
        self.pipeline.unet.disable_adapters()
        latents = self._denoise(
            latents, noise, embeds.expand(-1, len(padded), -1, -1).flatten(0, 1), steps, around
        )
        self.pipeline.unet.enable_adapters()
        return self._decode(latents, len(images))

    def _padded(self, wanted: int) -> list[int]:
        return [min(row, wanted - 1) for row in range(self.settings.batch_size)]

    def _encode(
        self, images: np.ndarray, generators: list[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled latents and noise, both (B, c, h, w), for images uint8 (B, size, size, 3).

        Each row draws alone, in the order of the stock pipeline.
        """
        vae = self.pipeline.vae
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        latents = posterior.sample(generators) * vae.config.scaling_factor
        return latents, randn_tensor(latents.shape, generators, self.device, latents.dtype)

    def _denoise(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        embeds: torch.Tensor,
        steps: int,
        kept: KeptPart | None,
        on_step_end: OnStepEnd | None = None,
    ) -> torch.Tensor:
        """Noises the latents to where the sampler's last `steps` steps begin, and runs these."""
        scheduler, unet = self.pipeline.scheduler, self.pipeline.unet
        scheduler.set_timesteps(self.settings.num_inference_steps, device=self.device)
        begin = len(scheduler.timesteps) - steps
        timesteps = scheduler.timesteps[begin:]
        if hasattr(scheduler, "set_begin_index"):  # not DDIM's
            scheduler.set_begin_index(begin)
        latents = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(latents)))
        for step, timestep in enumerate(timesteps):
            self.on_step()
            inputs = scheduler.scale_model_input(
                torch.cat([latents] * 2) if self._guided else latents, timestep
            )
            told = embeds if kept is None else kept.told(step, embeds)
            prediction = unet(inputs, timestep, encoder_hidden_states=told, return_dict=False)[0]
            if self._guided:
                unwanted, wanted = prediction.chunk(2)
                prediction = unwanted + self.settings.guidance_scale * (wanted - unwanted)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
            if kept is not None and step < kept.released_after:
                latents = kept.put_back(latents, scheduler, timesteps[step + 1 :])
            if on_step_end is not None:
                latents = on_step_end(step, timestep, latents)
        return latents

    def _decode(self, latents: torch.Tensor, wanted: int) -> list[np.ndarray | Unusable]:
        """The first `wanted` images, uint8 (size, size, 3), or why they are unusable."""
        vae = self.pipeline.vae
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        flagged = [False] * wanted
        if self.pipeline.safety_checker is not None:
            # on a copy: the checker blackens what it flags
            flagged = self.pipeline.run_safety_checker(decoded.clone(), self.device, vae.dtype)[1]
        images = decoded[:wanted].float() / 2 + 0.5
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        reasons = unusable_reasons(images, flagged)
        return [
            image if reason is None else Unusable(reason)
            for image, reason in zip(pixels, reasons, strict=True)
        ]


class KeptPart:
    """A part of the image at a lower strength than the rest.

    After every step its latents are reset to those of the input image, noised to the sampler's
    current level, until the part is released (blended diffusion; differential diffusion with two
    levels). A part kept through all steps is changed by the VAE alone.
    """

    def __init__(
        self, latents: torch.Tensor, noise: torch.Tensor, kept: np.ndarray, released_after: int
    ):
        """`latents`: scaled, (B, c, h, w); `noise`: (B, c, h, w), what the sampler starts from;
        `kept`: bool (B, size, size); `released_after`: for how many steps the part is put back.
        """
        self.latents = latents
        self.noise = noise
        coverage = F.adaptive_avg_pool2d(
            torch.from_numpy(kept)[:, None].float(), (latents.shape[-2], latents.shape[-1])
        )
        self.mask = (coverage >= 0.5).to(latents.device)
        self.released_after = released_after
        self.embeds: torch.Tensor | None = None  # what is told while the part is kept, if another

    def told(self, step: int, embeds: torch.Tensor) -> torch.Tensor:
        """The prompts' embeddings at a step; `embeds`: those of the whole image."""
        return embeds if self.embeds is None or step >= self.released_after else self.embeds

    def put_back(
        self, latents: torch.Tensor, scheduler: Any, remaining: torch.Tensor
    ) -> torch.Tensor:
        """The sampler's latents with the kept part reset; `remaining`: the timesteps to come."""
        own = self.latents
        if len(remaining):
            own = scheduler.add_noise(
                self.latents, self.noise, remaining[:1].repeat(len(self.latents))
            )
        return torch.where(self.mask, own, latents)


def unusable_reasons(images: torch.Tensor, flagged: list[bool]) -> list[str | None]:
    """Why refined images, float (B, 3, size, size), must not be published; None for a usable one.

    `flagged`: what the safety checker says, of at least B images.
    """
    flat = images.flatten(1)
    finite = flat.isfinite().all(dim=1).tolist()
    constant = (flat.amax(dim=1) - flat.amin(dim=1) < 1 / 255).tolist()
    reasons = []
    for row in range(len(images)):
        if flagged[row]:
            reasons.append("flagged by the safety checker")
        elif not finite[row]:
            reasons.append("refined image is not finite")
        else:
            reasons.append("refined image is constant" if constant[row] else None)
    return reasons
