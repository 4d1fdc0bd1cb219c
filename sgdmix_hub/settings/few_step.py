"""Few-step sampling: what each kind of distilled model is sampled with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FewStepMethod = Literal["lcm", "tcd", "hyper-sd", "lightning", "turbo"]
Spacing = Literal["leading", "linspace", "trailing"]


@dataclass(frozen=True)
class Sampling:
    """Values of the settings of these names, where they are not given.

    `timestep_spacing` None is the base's own. A `guidance_scale` of 1 is no guidance.
    """

    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    timestep_spacing: Spacing | None = None


MANY_STEPS = Sampling("dpmsolver++", 25, 7.5)
# As the models' cards and diffusers' pages for them say. Hyper-SD and Lightning have one file for
# each number of steps: give the steps of the file.
FEW_STEPS: dict[str, Sampling] = {
    "lcm": Sampling("lcm", 8, 1.0),
    "tcd": Sampling("tcd", 8, 1.0),
    "hyper-sd": Sampling("ddim", 8, 1.0, "trailing"),
    "lightning": Sampling("euler", 8, 1.0, "trailing"),
    "turbo": Sampling("euler", 4, 1.0, "trailing"),
}
# Schedulers that take their time steps from the 50 that the models were distilled with.
DISTILLED_STEPS = {"lcm": 50, "tcd": 50}


def sampling_of(few_step_method: object) -> Sampling:
    """The values for a method; those of many steps if it is None or unknown."""
    known = few_step_method if isinstance(few_step_method, str) else ""
    return FEW_STEPS.get(known, MANY_STEPS)
