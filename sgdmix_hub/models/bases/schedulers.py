"""Samplers by name, at a base's own noise schedule, and where their steps begin."""

from __future__ import annotations

import inspect
import math
from typing import Any, TypeVar

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)

from .family import Pipeline

SCHEDULERS: dict[str, tuple[Any, dict]] = {
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "tcd": (TCDScheduler, {}),
}
# The same for bases trained by flow matching; `euler` is their stock pipelines' own.
FLOW_SCHEDULERS: dict[str, tuple[Any, dict]] = {
    "euler": (FlowMatchEulerDiscreteScheduler, {}),
    "dpmsolver++": (
        DPMSolverMultistepScheduler,
        {
            "algorithm_type": "dpmsolver++",
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
        },
    ),
    "unipc": (
        UniPCMultistepScheduler,
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
}
AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)


def with_scheduler(
    pipeline: AnyPipeline, name: str, timestep_spacing: str | None = None
) -> AnyPipeline:
    """Replaces a diffusion pipeline's sampler by the named one, at the same noise schedule.

    `timestep_spacing`: the base's own if not given.
    """
    pipeline.scheduler = diffusion_scheduler(pipeline.scheduler.config, name, timestep_spacing)
    return pipeline


def diffusion_scheduler(config: Any, name: str, timestep_spacing: str | None = None) -> Any:
    """The named sampler at the noise schedule of a configuration."""
    scheduler_class, options = SCHEDULERS[name]
    if timestep_spacing is not None:
        options = options | {"timestep_spacing": timestep_spacing}
    return scheduler_class.from_config(config, **options)


def last_timesteps(scheduler: Any, steps: int) -> torch.Tensor:
    """Lets a sampler begin `steps` before its end, as img2img does; their time steps.

    The sampler's time steps are set.
    """
    begin = len(scheduler.timesteps) - steps
    if hasattr(scheduler, "set_begin_index"):  # not DDIM's
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def noised(
    scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """Latents (B, c, h, w) at the noise level of a time step, (1,)."""
    timesteps = timestep.repeat(len(latents))
    if hasattr(scheduler, "scale_noise"):  # flow matching's Euler
        return scheduler.scale_noise(latents, timesteps, noise)
    return scheduler.add_noise(latents, noise, timesteps)


def model_input(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The sampler's latents as the denoiser takes them."""
    if hasattr(scheduler, "scale_model_input"):
        return scheduler.scale_model_input(latents, timestep)
    return latents


def noise_levels(scheduler: Any, num_inference_steps: int) -> list[float]:
    """Share of noise, in [0, 1], in what a diffusion sampler's last 1, 2, 3 ... steps begin with.

    It is sigma / (1 + sigma) for sigma the ratio of noise to image. At one level, all families of
    base models see one ratio: for those trained by flow matching it is their own sigma.
    """
    sampler = type(scheduler).from_config(scheduler.config)  # leaves the given one as it is
    sampler.set_timesteps(num_inference_steps)
    if hasattr(sampler, "sigmas"):
        sigmas = [float(sigma) for sigma in sampler.sigmas[: len(sampler.timesteps)]]
    else:
        kept = [float(sampler.alphas_cumprod[int(time)]) for time in sampler.timesteps]
        sigmas = [math.sqrt((1 - share) / share) if share > 0 else math.inf for share in kept]
    return [
        1.0 if sigma == math.inf else round(sigma / (1 + sigma), 4) for sigma in reversed(sigmas)
    ]


def step_options(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Arguments of the sampler's steps: a generator an image, if it draws noise."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if takes else {}
