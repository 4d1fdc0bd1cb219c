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
AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)


def with_scheduler(
    pipeline: AnyPipeline, name: str, timestep_spacing: str | None = None
) -> AnyPipeline:
    """Replaces the pipeline's sampler by the named one, at the same noise schedule.

    `timestep_spacing`: the base's own if not given.
    """
    scheduler_class, options = SCHEDULERS[name]
    if timestep_spacing is not None:
        options = options | {"timestep_spacing": timestep_spacing}
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
    return pipeline


def last_timesteps(
    scheduler: Any, num_inference_steps: int, steps: int, device: torch.device
) -> torch.Tensor:
    """Sets the sampler to begin `steps` before its end, as img2img does; their time steps."""
    scheduler.set_timesteps(num_inference_steps, device=device)
    begin = len(scheduler.timesteps) - steps
    if hasattr(scheduler, "set_begin_index"):  # not DDIM's
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def noise_level(scheduler: Any, num_inference_steps: int, steps: int) -> float:
    """Share of noise, in [0, 1], in what the sampler's last `steps` steps begin with.

    It is sigma / (1 + sigma) for sigma the ratio of noise to image. At one level, all families of
    base models see one ratio: for those trained by flow matching it is their own sigma.
    """
    sampler = type(scheduler).from_config(scheduler.config)  # leaves the given one as it is
    sampler.set_timesteps(num_inference_steps)
    begin = len(sampler.timesteps) - steps
    if hasattr(sampler, "sigmas"):
        sigma = float(sampler.sigmas[begin])
    else:
        kept = float(sampler.alphas_cumprod[int(sampler.timesteps[begin])])
        sigma = math.sqrt((1 - kept) / kept)
    return round(sigma / (1 + sigma), 4)


def step_options(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Arguments of the sampler's steps: a generator an image, if it draws noise."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if takes else {}
