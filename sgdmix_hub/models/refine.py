"""Mixed images -> refined images: img2img at strength S with the base model and the adapter (Eq.
1-2 of the paper).

The loop is diffusers' img2img, step for step (tests compare them), with what a generation of
thousands needs: the VAE works on whole batches, the adapter is merged into the weights, prompts are
encoded once a class, and part of the image may be kept at another strength.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

from sgdmix_hub.errors import Unusable
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.method import MethodSettings, num_steps

from .adapters import Adapter, load_into, quiet_libraries
from .bases import NO_SAFETY_CHECKER, load_base, to_uint8, with_scheduler

INPAINT_STRENGTH = 0.9  # of the pass that paints what stands behind the target's foreground; at 1 its first filling would not count


class Refiner:
    """The diffusion model with its adapter, ready for batches: in each, all rows have one strength."""

    def __init__(
        self,
        base: Pin,
        adapter: Adapter | None,
        prompt: Callable[[int], str],
        settings: MethodSettings,
        device: torch.device,
    ):
        """`prompt`: the prompt of a class."""
        self.settings = settings
        self.device = device
        self.adapter = adapter
        self.prompt = prompt
        without = {} if settings.safety_checker else NO_SAFETY_CHECKER
        pipeline = load_base(StableDiffusionImg2ImgPipeline, base, torch.float32, **without)
        self.pipeline = with_scheduler(pipeline, settings.scheduler)
        if adapter is not None:
            load_into(self.pipeline, adapter)
        if (
            adapter is not None and settings.inpainting_method != "diffusion"
        ):  # which needs the base model without its adapter too
            self.pipeline.fuse_lora(
                components=["unet"]
            )  # in float32: half precision would round much of an update away
            self.pipeline.unload_lora_weights()
        with (
            quiet_libraries()
        ):  # diffusers warns of parts that have to stay in float32 where there are none
            self.pipeline.to(device, getattr(torch, settings.dtype))
        for part in (self.pipeline.unet, self.pipeline.vae):
            part.to(memory_format=torch.channels_last)
        if settings.compile:
            for part in (self.pipeline.unet, self.pipeline.vae.encoder, self.pipeline.vae.decoder):
                part.compile(dynamic=False)
        self._prompt_embeds: dict[int, torch.Tensor] = {}

    @property
    def _guided(self) -> bool:
        return self.settings.guidance_scale > 1

    def _encode_prompt(self, prompt: str, negative: str = "") -> torch.Tensor:
        """Embeddings of the negative prompt, where guidance needs it, and of the prompt, (1 or 2,
        1, tokens, dim).
        """
        positive, unwanted = self.pipeline.encode_prompt(
            prompt, self.device, 1, self._guided, negative_prompt=negative
        )
        return torch.stack([unwanted, positive] if self._guided else [positive])

    def _class_embeds(self, label: int) -> torch.Tensor:
        """The class's prompt embedding: encoded once a class, alone, so that its bits depend on
        nothing else.
        """
        if label not in self._prompt_embeds:
            self._prompt_embeds[label] = self._encode_prompt(self.prompt(label))
        return self._prompt_embeds[label]

    @torch.no_grad()
    def refine(
        self,
        images: np.ndarray,
        foregrounds: np.ndarray,
        labels: list[int],
        seeds: list[int],
        strength: float,
    ) -> list[np.ndarray | Unusable]:
        """Refined images, uint8 (size, size, 3), or the reasons why they are unusable.

        `images`: uint8 (B, size, size, 3), B at most the batch size: a shorter batch is padded to
        it and the padding dropped, because bits depend on the size of a batch (not on what else is
        in it). Each row draws its noise from its own CPU generator. `foregrounds`: bool (B, size,
        size), where `foreground_strength` applies; without that setting it is not looked at.
        `strength` runs at least one step.
        """
        padded = self._padded(len(images))
        latents, noise = self._encode(images[padded], [seeds[i] for i in padded])
        embeds = torch.cat([self._class_embeds(labels[i]) for i in padded], dim=1).flatten(0, 1)
        steps, kept = num_steps(self.settings, strength), None
        if self.settings.foreground_strength is not None:
            released_after = steps - num_steps(self.settings, self.settings.foreground_strength)
            kept = KeptPart(latents, noise, foregrounds[padded], released_after)
        return self._decode(self._denoise(latents, noise, embeds, steps, kept), len(images))

    @torch.no_grad()
    def inpaint(
        self, images: np.ndarray, holes: np.ndarray, seeds: list[int]
    ) -> list[np.ndarray | Unusable]:
        """Images, uint8 (size, size, 3), whose holes, bool (B, size, size), the base model without
        its adapter has painted anew, or the reasons why they are unusable: from a first filling
        (`images`, uint8 (B, size, size, 3)), at a high strength, away from the metaclass where
        guidance is on. Around the hole the latents are put back after every step.
        """
        padded = self._padded(len(images))
        latents, noise = self._encode(images[padded], [seeds[i] for i in padded])
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

    def _encode(self, images: np.ndarray, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled latents of images, uint8 (B, size, size, 3), and the noise for them, both (B, c,
        h, w) and drawn row by row, in the order in which the stock pipeline draws.
        """
        vae = self.pipeline.vae
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
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
    ) -> torch.Tensor:
        """The last `steps` of the sampler's steps, from latents that are noised to where these
        begin.
        """
        scheduler, unet = self.pipeline.scheduler, self.pipeline.unet
        scheduler.set_timesteps(self.settings.num_inference_steps, device=self.device)
        begin = len(scheduler.timesteps) - steps
        timesteps = scheduler.timesteps[begin:]
        if hasattr(scheduler, "set_begin_index"):  # not DDIM's
            scheduler.set_begin_index(begin)
        latents = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(latents)))
        for step, timestep in enumerate(timesteps):
            stop_if_requested()
            inputs = scheduler.scale_model_input(
                torch.cat([latents] * 2) if self._guided else latents, timestep
            )
            prediction = unet(inputs, timestep, encoder_hidden_states=embeds, return_dict=False)[0]
            if self._guided:
                unwanted, wanted = prediction.chunk(2)
                prediction = unwanted + self.settings.guidance_scale * (wanted - unwanted)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
            if kept is not None and step < kept.released_after:
                latents = kept.put_back(latents, scheduler, timesteps[step + 1 :])
        return latents

    def _decode(self, latents: torch.Tensor, wanted: int) -> list[np.ndarray | Unusable]:
        """The first `wanted` images, uint8 (size, size, 3), or the reasons why they are unusable."""
        vae = self.pipeline.vae
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        flagged = [False] * wanted
        if self.pipeline.safety_checker is not None:  # which blackens what it flags
            flagged = self.pipeline.run_safety_checker(decoded.clone(), self.device, vae.dtype)[1]
        images = decoded[:wanted].float() / 2 + 0.5
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        reasons = unusable_reasons(images, flagged)
        return [
            image if reason is None else Unusable(reason)
            for image, reason in zip(pixels, reasons, strict=True)
        ]


class KeptPart:
    """A part of the image at a lower strength than the rest: after every step its latents are put
    back to the given image's own, noised to where the sampler stands, until it is released (blended
    diffusion; differential diffusion with two levels). What is kept through all steps passes
    through the VAE alone.
    """

    def __init__(
        self, latents: torch.Tensor, noise: torch.Tensor, kept: np.ndarray, released_after: int
    ):
        """`latents`: scaled, (B, c, h, w); `noise`: (B, c, h, w), what the sampler starts from;
        `kept`: bool (B, size, size); `released_after`: the number of steps that the part is put
        back for.
        """
        self.latents = latents
        self.noise = noise
        coverage = F.adaptive_avg_pool2d(
            torch.from_numpy(kept)[:, None].float(), latents.shape[-2:]
        )
        self.mask = (coverage >= 0.5).to(latents.device)
        self.released_after = released_after

    def put_back(self, latents: torch.Tensor, scheduler, remaining: torch.Tensor) -> torch.Tensor:
        """The sampler's latents with the part's own in their place; `remaining`: the timesteps to
        come.
        """
        own = self.latents
        if len(remaining):
            own = scheduler.add_noise(
                self.latents, self.noise, remaining[:1].repeat(len(self.latents))
            )
        return torch.where(self.mask, own, latents)


def unusable_reasons(images: torch.Tensor, flagged: list[bool]) -> list[str | None]:
    """Why refined images, float (B, 3, size, size), must not be published, by what the safety
    checker says (a longer list may be given) and by their values; None for one that may.
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
