"""Mixed images -> refined images: img2img at strength S (Eq. 1-2 of the paper).

The loop equals diffusers' img2img step for step (tests compare them). It adds what thousands of
images need: batches through the VAE, an adapter merged into the weights, one encoding per prompt,
and a part of the image kept at another strength.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache

import numpy as np
import torch

from sgdmix_hub.errors import Unusable, UserError, shown
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.settings.method import MethodSettings

from .adapters import Adapter, load_into, quiet_libraries
from .bases.family import Conditioning
from .bases.loading import LoadedBase, load_base, to_uint8
from .bases.schedulers import last_timesteps, model_input, noised, step_options
from .few_step import merge_few_step
from .foreign import ForeignAdapter, merge_foreign, warn_of_unused
from .kept_part import KeptPart
from .lora_files import use_all_adapters
from .memory import MOST_PROMPTS
from .noise import Noise, padded_generators
from .noise_levels import NoiseLevels
from .placing import compile_networks, move, offload, prepare_vae
from .prompts import Prompts, RowPrompt

# for painting what is behind the target's foreground; at 1 the first filling would have no effect
INPAINT_STRENGTH = 0.9

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
        few_step_lora: Pin | None = None,
        foreign: ForeignAdapter | None = None,
        prompts: Prompts | None = None,
    ):
        """`on_step` is called before every denoising step. `few_step_lora`: merged into the base,
        under the adapter. `foreign`: instead of `adapter`. `prompts`: all that will be told,
        which are checked here and, if they are few enough to be kept, encoded; the text encoders
        are then freed.
        """
        self.adapter, self.foreign = adapter, foreign
        self.on_step = on_step
        merged = settings.quantization is None  # into single precision, which others lack
        loaded = load_base(
            base,
            torch.float32 if merged else getattr(torch, settings.dtype),
            "image_to_image",
            safety_checker=settings.safety_checker,
            quantization=settings.quantization,
        )
        self.family, self.denoiser = loaded.family, loaded.denoiser
        loaded.check_size(settings.resolution)
        loaded.use_scheduler(settings.scheduler, settings.timestep_spacing)
        self.pipeline = loaded.pipeline
        self.readers = [(encoder, loaded.tokenizer(encoder)) for encoder in loaded.encoders]
        if few_step_lora is not None:
            merge_few_step(loaded, few_step_lora, settings.few_step_weight_name, merged)
        self.foreign_tokens = [] if foreign is None else merge_foreign(loaded, foreign, merged)
        if adapter is not None:
            load_into(loaded, adapter)
        # inpainting by diffusion also needs the base model without its adapter
        if not merged:
            use_all_adapters(self.pipeline)
        elif adapter is not None and settings.inpainting_method != "diffusion":
            # in float32: half precision would round away much of the update
            self.pipeline.fuse_lora(components=[self.family.denoiser])
            self.pipeline.unload_lora_weights()
        self.device, self.dtype = device, getattr(torch, settings.dtype)
        prepare_vae(self.pipeline, settings)
        self._use(settings)
        if prompts is not None:
            self.check_prompts(prompts)
            self._encode_ahead(prompts, loaded)
        self._move(device, self.dtype)
        self.denoiser.to(memory_format=torch.channels_last)
        if self.family.latents.channels_last:
            self.pipeline.vae.to(memory_format=torch.channels_last)
        offload(self.pipeline, settings.cpu_offload, device)
        compile_networks(self.denoiser, self.pipeline, settings)

    def _use(self, settings: MethodSettings, on_step_end: OnStepEnd | None = None) -> None:
        self.settings, self.on_step_end = settings, on_step_end
        # one text is encoded alone: its bits depend on nothing else
        self._embeds = lru_cache(maxsize=MOST_PROMPTS)(self._encode_prompt)
        self.levels = NoiseLevels(self.family, self.pipeline, settings)
        self.levels.check()
        unread = self.family.embeds_guidance(self.pipeline)
        if settings.negative_prompt is not None and unread:
            raise UserError(
                f"negative_prompt has no effect: this base of {self.family.title} takes the "
                "guidance scale as an input and reads no negative prompt; leave it out"
            )

    def _move(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.pipeline.remove_all_hooks()
        first = torch.device("cpu") if self.settings.cpu_offload else device
        with quiet_libraries():  # diffusers warns of float32 parts that this pipeline lacks
            move(self.pipeline, first, dtype, self.denoiser if self.settings.quantization else None)
        if self.family.overflows(self.pipeline.vae):
            self.pipeline.vae.to(torch.float32)

    def using(self, settings: MethodSettings, on_step_end: OnStepEnd | None = None) -> Refiner:
        """The same networks under other settings: strength, steps, guidance, negative prompt.

        `on_step_end` is called after every step of `refine` and may replace the latents.
        """
        other = copy(self)
        other._use(settings, on_step_end)
        return other

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the networks, and converts them. Raises `UserError` if layers are offloaded."""
        if self.settings.cpu_offload == "group":
            raise UserError("cpu_offload group: load the pipeline again on another device or dtype")
        self._move(device, dtype)
        offload(self.pipeline, self.settings.cpu_offload, device)
        self._use(self.settings, self.on_step_end)

    @property
    def _guided(self) -> bool:
        told = self.family.embeds_guidance(self.pipeline)
        return self.settings.guidance_scale > 1 and not told

    def _encode_prompt(self, prompt: str, negative: str = "") -> list[Conditioning]:
        """What the denoiser is told, after what it is told of the negative prompt if guided: one
        row each.

        Raises `UserError` for a text that is too long for the text encoder.
        """
        self._check_length(prompt)
        self._check_length(negative)
        wanted, unwanted = self.family.encode_prompt(
            self.pipeline, prompt, negative, self._guided, self.device
        )
        return [unwanted, wanted] if self._guided else [wanted]

    def _encode_ahead(self, prompts: Prompts, loaded: LoadedBase) -> None:
        """Encodes the prompts, and frees the text encoders. Does nothing if they are too many."""
        texts = prompts.texts(MOST_PROMPTS - 1)
        if texts is None:
            return
        for encoder in loaded.encoders:
            loaded.network(encoder).to(self.device, self.dtype)
        with torch.no_grad():
            for text in texts:
                self._embeds(text, self.settings.negative_prompt or "")
            if self.settings.inpainting_method == "diffusion":
                self._embeds("", self._away_from())
        for encoder in loaded.encoders:
            setattr(self.pipeline, encoder.model, None)

    def _away_from(self) -> str:
        """What inpainting is guided away from: the metaclass."""
        assert self.adapter is not None  # settings.inpainting_method "diffusion" needs one
        return f"a photo of a {self.adapter.facts['metaclass']}"

    def check_prompts(self, prompts: Prompts) -> None:
        """Raises `UserError` if a prompt that rows may have is too long for the text encoder."""
        for encoder, tokenizer in self.readers:

            def length(text: str, encoder=encoder, tokenizer=tokenizer) -> int:
                return len(tokenizer(encoder.text(tokenizer, text)).input_ids)

            for text in prompts.longest(length):
                self._check_length(text)
        self._check_length(self.settings.negative_prompt or "")
        if self.foreign is not None:
            texts = [*prompts.templates, self.settings.negative_prompt or ""]
            warn_of_unused(self.foreign_tokens, texts, self.foreign)

    def _check_length(self, text: str) -> None:
        for encoder, tokenizer in self.readers:
            expanded = self.family.expanded(self.pipeline, text, tokenizer)
            length = len(tokenizer(encoder.text(tokenizer, expanded)).input_ids)
            read = encoder.reads(tokenizer)
            if length > read:
                raise UserError(
                    f"the prompt {shown(text)!r} takes {length} tokens, the text encoder reads "
                    f"{read}: shorten it, or its background_prompts"
                )

    def _told(self, texts: list[str], images: np.ndarray) -> Conditioning:
        """What the denoiser is told of a batch, its prompts and its images: (B or 2 * B, ...)."""
        negative = self.settings.negative_prompt or ""
        return self._with_images([self._embeds(text, negative) for text in texts], images)

    def _with_images(self, prompts: list[list[Conditioning]], images: np.ndarray) -> Conditioning:
        height, width = images.shape[1:3]
        of_one = self.family.of_images(self.pipeline, height, width, self.settings.guidance_scale)
        # the unwanted prompts of all rows, then the wanted ones
        rows = [one for told in zip(*prompts, strict=True) for one in told]
        told = self.family.joined(rows)
        return told | {name: value.repeat(len(rows), 1) for name, value in of_one.items()}

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
        generators = padded_generators(noise, padded)
        latents, drawn = self._encode(images[padded], generators)
        told = [prompts[i] for i in padded]
        size = images.shape[1], images.shape[2]
        steps, kept, released_after = self.levels.steps(strength, size), None, 0
        if self.settings.foreground_strength is not None:
            released_after = steps - self.levels.steps(self.settings.foreground_strength, size)
            kept = KeptPart(latents, drawn, foregrounds[padded], released_after)
            if any(prompt.background for prompt in told):
                kept.embeds = self._told([prompt.told(True) for prompt in told], images)
        embeds = self._told([prompt.told(released_after == steps) for prompt in told], images)
        on_step_end = self._on_step_end(len(images))
        latents = self._denoise(latents, drawn, generators, embeds, steps, kept, on_step_end)
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
        padded = self._padded(len(images))
        generators = padded_generators(seeds, padded)
        latents, noise = self._encode(images[padded], generators)
        prompt = self._embeds("", self._away_from())
        told = self._with_images([prompt] * len(padded), images)
        steps = self.family.num_steps(self.settings.num_inference_steps, INPAINT_STRENGTH)
        around = KeptPart(latents, noise, ~holes[padded], steps)
        self.denoiser.disable_adapters()
        latents = self._denoise(latents, noise, generators, told, steps, around)
        self.denoiser.enable_adapters()
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
        space = self.family.latents
        drawn = space.draw(vae, pixels.to(vae.dtype), generators)
        latents = space.scaled(drawn.to(self.dtype), vae)
        return latents, space.noise(latents.shape, generators, self.device, latents.dtype)

    def _denoise(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        generators: list[torch.Generator],
        embeds: Conditioning,
        steps: int,
        kept: KeptPart | None,
        on_step_end: OnStepEnd | None = None,
    ) -> torch.Tensor:
        """Noises the latents to where the sampler's last `steps` steps begin, and runs these."""
        scheduler, vae = self.pipeline.scheduler, self.pipeline.vae
        height, width = (side * self.family.latents.factor(vae) for side in latents.shape[-2:])
        self.family.set_timesteps(
            self.pipeline,
            scheduler,
            self.settings.num_inference_steps,
            (height, width),
            self.device,
        )
        timesteps = last_timesteps(scheduler, steps)
        drawn = step_options(scheduler, generators)
        passes = 2 if self._guided else 1
        start = {
            name: torch.cat([value] * passes)
            for name, value in self.family.of_start(latents).items()
        }
        latents = noised(scheduler, latents, noise, timesteps[:1])
        for step, timestep in enumerate(timesteps):
            self.on_step()
            inputs = model_input(scheduler, torch.cat([latents] * passes), timestep)
            told = embeds if kept is None else kept.told(step, embeds)
            prediction = self.family.predict(self.denoiser, inputs, timestep, told | start)
            if self._guided:
                prediction = self.family.guided(*prediction.chunk(2), self.settings.guidance_scale)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **drawn)[0]
            if kept is not None and step < kept.released_after:
                latents = kept.put_back(latents, scheduler, timesteps[step + 1 :])
            if on_step_end is not None:
                latents = on_step_end(step, timestep, latents)
        return latents

    def _decode(self, latents: torch.Tensor, wanted: int) -> list[np.ndarray | Unusable]:
        """The first `wanted` images, uint8 (size, size, 3), or why they are unusable."""
        vae = self.pipeline.vae
        space = self.family.latents
        decoded = space.decode(vae, space.unscaled(latents, vae).to(vae.dtype))
        flagged = [False] * wanted
        if getattr(self.pipeline, "safety_checker", None) is not None:
            # on a copy: the checker blackens what it flags
            flagged = self.pipeline.run_safety_checker(decoded.clone(), self.device, vae.dtype)[1]
        images = decoded[:wanted].float() / 2 + 0.5
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        reasons = unusable_reasons(images, flagged)
        return [
            image if reason is None else Unusable(reason)
            for image, reason in zip(pixels, reasons, strict=True)
        ]


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
