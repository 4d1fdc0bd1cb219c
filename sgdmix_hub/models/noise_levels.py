"""How many steps a strength runs on a base, and from which noise level it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.settings.method import MethodSettings

from .bases.family import Family
from .bases.supported import SCHEDULE, making_sampler

Size = tuple[int, int]  # height and width of images, in pixels


@dataclass(frozen=True)
class NoiseLevels:
    """Of one base under some settings; those of other families may depend on the images' size."""

    family: Family
    pipeline: Any
    settings: MethodSettings
    _levels: dict[Size, list[float]] = field(default_factory=dict)

    def of_steps(self, size: Size | None = None) -> list[float]:
        """The noise level, in [0, 1], that the last 0, 1, 2 ... steps begin with, ascending."""
        size = size or (self.settings.resolution, self.settings.resolution)
        if size not in self._levels:
            steps, scheduler = self.settings.num_inference_steps, self.pipeline.scheduler
            with making_sampler():
                levels = self.family.noise_levels(self.pipeline, scheduler, steps, size)
            if len(levels) < steps or not all(0 <= level <= 1 for level in levels):
                raise UserError(
                    f"{SCHEDULE} of the base model gives {len(levels)} noise levels for "
                    f"{steps} steps, {shown(levels)}: all must be from 0 to 1; use another base, "
                    "scheduler or num_inference_steps"
                )
            self._levels[size] = [0.0, *levels]
        return self._levels[size]

    def steps(self, strength: float, size: Size | None = None) -> int:
        """The steps that a strength runs: by the family's rule, or those whose noise level is
        nearest, as `settings.strength_unit` says.
        """
        if self.settings.strength_unit == "noise-level":
            # a level of the settings runs a step anyway; a second attempt may have half of it
            return max(self._nearest(strength, size), 1 if strength > 0 else 0)
        return self.family.num_steps(self.settings.num_inference_steps, strength)

    def _nearest(self, level: float, size: Size | None = None) -> int:
        distances = [abs(one - level) for one in self.of_steps(size)]
        return distances.index(min(distances))

    def sigma_start(self, strength: float, size: Size | None = None) -> float:
        """The noise level, in [0, 1], that a strength starts from."""
        return self.of_steps(size)[self.steps(strength, size)]

    def check(self) -> None:
        """Raises `UserError` if a strength above 0 runs no step, or there are no noise levels."""
        settings = self.settings
        self.of_steps()
        asked = {
            "strength": settings.strength,
            "foreground_strength": [settings.foreground_strength],
        }
        if settings.strength_unit != "noise-level":
            return  # the settings have checked it
        for name, values in asked.items():
            for value in values:
                if value and self._nearest(value) == 0:
                    raise UserError(
                        f"{name} {value:g} as a noise level runs no diffusion step: the last of "
                        f"{settings.num_inference_steps} steps begins at {self.of_steps()[1]:g}; "
                        "give 0 or at least that, or more num_inference_steps"
                    )
