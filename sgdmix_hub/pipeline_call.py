"""The arguments of a pipeline's call, as diffusers takes them, and what it makes of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from sgdmix_hub.errors import Unusable
from sgdmix_hub.method.mixer import Mixture
from sgdmix_hub.models.noise import Noise, seed_of_noise
from sgdmix_hub.models.prompts import Prompts, RowPrompt

from .pipeline_output import OUTPUT_TYPES, SGDMixPipelineOutput
from .pipeline_stages import Finished
from .seeds import prompt_number

LARGEST_DRAWN = 2**63 - 1
CALLBACK_TENSORS = ["latents"]


def as_list(name: str, value: Any, count: int, kind: type | tuple[type, ...]) -> list:
    """One value, or a list of `count` of them, as a list. Raises `ValueError`."""
    values = [value] if isinstance(value, kind) else list(value)
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries for {count} images")
    return values


def as_images(name: str, value: Any, count: int | None = None) -> list[Image.Image]:
    """One image of PIL, or a list, as a list; `count`: how many, if known. Raises `ValueError`."""
    images = [value] if isinstance(value, Image.Image) else list(value)
    for image in images:
        if not isinstance(image, Image.Image):
            raise ValueError(f"{name}: give images of PIL, not {type(image).__name__}")
    return images if count is None else as_list(name, images, count, Image.Image)


def as_labels(name: str, value: int | list[int] | None, count: int) -> list[int] | None:
    """Class numbers as a list, or None. Raises `ValueError`."""
    return None if value is None else as_list(name, value, count, (int, np.integer))


def chosen_strength(given: float | None, known: list[float]) -> float:
    """A call's strength: the given one, or the only one of the settings. Raises `ValueError`."""
    if given is not None:
        return given
    if len(known) > 1:
        raise ValueError(f"choose a strength of {known}")
    return known[0]


def noise_of(
    generator: torch.Generator | list[torch.Generator] | None,
    seeds: int | list[int] | None,
    count: int,
) -> list[Noise]:
    """What each image's noise is drawn from.

    `generator`: one an image, used as they are; or one for all, from which a seed is drawn for each
    of several images. Without it and without `seeds`, seeds are drawn from torch's own generator.
    Raises `ValueError`.
    """
    if generator is not None and seeds is not None:
        raise ValueError("give seeds or generator, not both")
    if seeds is not None:
        return [int(seed) for seed in as_list("seeds", seeds, count, (int, np.integer))]
    if isinstance(generator, torch.Generator) and count > 1 or generator is None:
        device = None if generator is None else generator.device
        drawn = torch.randint(LARGEST_DRAWN, (count,), generator=generator, device=device)
        return drawn.tolist()
    return as_list("generator", generator, count, torch.Generator)


def as_prompts(prompt: str | list[str] | None, count: int) -> list[str] | None:
    """One prompt for all images, or one each, as a list; or None. Raises `ValueError`."""
    if isinstance(prompt, str):
        return [prompt] * count
    return None if prompt is None else as_list("prompt", prompt, count, str)


def class_prompts(prompts: Prompts, labels: list[int], noise: list[Noise]) -> list[RowPrompt]:
    """Each row's prompt of its class, drawn by its noise's seed. Raises `ValueError`."""
    classes = len(prompts.class_names)
    for label in labels:
        if not 0 <= label < classes:
            raise ValueError(f"label {label} is not one of the {classes} classes")
    return [
        prompts.of(label, prompt_number(seed_of_noise(row), len(prompts)))
        for label, row in zip(labels, noise, strict=True)
    ]


def checked_tensor_inputs(names: Sequence[str]) -> Sequence[str]:
    """The tensors that a callback asks for. Raises `ValueError` for any but the latents."""
    unknown = [name for name in names if name not in CALLBACK_TENSORS]
    if unknown:
        raise ValueError(f"a callback is given {CALLBACK_TENSORS}, not {unknown}")
    return names


def output_of(
    finished: list[Finished | Unusable],
    mixtures: list[Mixture | Unusable],
    confidences: list[float | None],
    prompts: list[str],
    noise: list[Noise],
    output_type: str,
) -> SGDMixPipelineOutput:
    """What a call returns, from what became of every image. Raises `KeyError`."""
    shown = OUTPUT_TYPES[output_type]
    made = [
        mixture if isinstance(outcome, Unusable) else outcome.mixture
        for outcome, mixture in zip(finished, mixtures, strict=True)
    ]

    def images(rows: list, pixels: Callable[[Any], np.ndarray]) -> list:
        return [None if isinstance(row, Unusable) else shown(pixels(row)) for row in rows]

    return SGDMixPipelineOutput(
        images=images(finished, lambda row: row.image),
        mixed=images(made, lambda mixture: mixture.mixed),
        masks=images(made, lambda mixture: mixture.source.mask),
        mask_confidences=confidences,
        prompts=[
            "" if isinstance(row, Unusable) or row.mixture.is_source else text
            for row, text in zip(finished, prompts, strict=True)
        ],
        seeds=[None if isinstance(row, torch.Generator) else row for row in noise],
        reasons=[row.reason if isinstance(row, Unusable) else None for row in finished],
    )


def refined_shapes(mixtures: list[Mixture | Unusable], batch_size: int) -> list[tuple[int, int]]:
    """The height and width of every pass of the refiner over the mixtures."""
    usable = [mixture for mixture in mixtures if not isinstance(mixture, Unusable)]
    batches = [usable[start : start + batch_size] for start in range(0, len(usable), batch_size)]
    return [
        shape
        for batch in batches
        for shape in {row.mixed.shape[:2] for row in batch if not row.is_source}
    ]
