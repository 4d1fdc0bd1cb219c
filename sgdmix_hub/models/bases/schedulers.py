"""Samplers by name, at a base's own noise schedule, and where their steps begin."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from .family import Pipeline

SCHEDULERS: dict[str, tuple[Any, dict]] = {
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)


def with_scheduler(pipeline: AnyPipeline, name: str) -> AnyPipeline:
    """Replaces the pipeline's sampler by the named one, at the same noise schedule."""
    scheduler_class, options = SCHEDULERS[name]
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


def step_options(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Arguments of the sampler's steps: a generator an image, if it draws noise."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if takes else {}
