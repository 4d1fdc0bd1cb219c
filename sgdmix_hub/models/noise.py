"""What the noise of a row is drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Noise = int | torch.Generator  # the seed of a generator on the CPU, or a generator itself


def seed_of_noise(noise: Noise) -> int:
    """The seed that a row's other draws are derived from: a generator's initial one."""
    return noise.initial_seed() if isinstance(noise, torch.Generator) else int(noise)


def padded_generators(noise: Sequence[Noise], padded: list[int]) -> list[torch.Generator]:
    """The generators of a padded batch, `len(padded)` of them; padding draws from no row's own."""
    drawn = [
        row if isinstance(row, torch.Generator) else torch.Generator("cpu").manual_seed(row)
        for row in noise
    ]
    return drawn + [torch.Generator("cpu") for _ in padded[len(noise) :]]
