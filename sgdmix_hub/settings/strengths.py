"""A strength S and the whole number of diffusion steps that it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgdmix_hub.errors import UserError

from .few_step import DISTILLED_STEPS

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


def check_strengths(settings: MethodSettings) -> None:
    """Raises `UserError` on a strength that runs no step, twice the same, one below
    `foreground_strength`, and more steps than the scheduler takes.
    """
    most = DISTILLED_STEPS.get(settings.scheduler, settings.num_inference_steps)
    if settings.num_inference_steps > most:
        raise UserError(
            f"scheduler {settings.scheduler} takes at most {most} num_inference_steps, not "
            f"{settings.num_inference_steps}"
        )
    for strength in settings.strength if settings.strength_unit is None else []:
        if strength > 0 and num_steps(settings, strength) == 0:
            smallest = smallest_strength(settings.num_inference_steps)
            raise UserError(
                f"strength {strength} at {settings.num_inference_steps} steps runs no diffusion "
                f"step: give 0 (only mix) or at least {smallest:g}"
            )
    if len(set(settings.strength)) < len(settings.strength):
        twice = max(settings.strength, key=settings.strength.count)
        raise UserError(f"strength contains {twice:g} twice: give every value once")
    smallest = min(settings.strength)
    if settings.foreground_strength is not None and settings.foreground_strength > smallest:
        raise UserError(
            f"foreground_strength is {settings.foreground_strength}: give a value in [0, {smallest}"
            "], at most the smallest strength"
        )
