"""A strength S and the whole number of diffusion steps that it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .method import MethodSettings


def num_steps(settings: MethodSettings, strength: float) -> int:
    """Number of whole diffusion steps in a strength; some bases round up what is left."""
    return int(settings.num_inference_steps * strength)


def keeps_to_the_end(settings: MethodSettings) -> bool:
    """Whether the source's foreground is kept through all steps."""
    kept = settings.foreground_strength
    if kept is None or settings.strength_unit is not None:
        return kept == 0
    return num_steps(settings, kept) == 0


def smallest_strength(num_inference_steps: int) -> float:
    """The smallest S, in hundredths, that runs a step.

    Computes `int(steps * S)` in floating point, as diffusers does.
    """
    return next(s / 100 for s in range(1, 101) if int(num_inference_steps * (s / 100)) > 0)


def strength_grid(num_inference_steps: int) -> list[float]:
    """The smallest S, in hundredths, of every number of steps: other values run the same steps."""
    counts = (int(num_inference_steps * (s / 100)) for s in range(1, 101))
    first: dict[int, float] = {}
    for hundredths, steps in enumerate(counts, 1):
        first.setdefault(steps, hundredths / 100)
    return [strength for steps, strength in first.items() if steps > 0]
