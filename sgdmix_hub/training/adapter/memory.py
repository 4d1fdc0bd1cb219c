"""What an adapter's training needs in memory, told before anything is loaded."""

from __future__ import annotations

import torch

from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.memory import need_of
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.training.precision import dtype_of


def memory_text(settings: AdapterSettings, base: Pin) -> str:
    """The base's weights in every process, in one line. Raises `UserError`."""
    need = need_of(base, safety_checker=False)
    if not need.weights:
        return "memory: unknown: the base model has no safetensors, so it cannot be loaded"
    word = str(dtype_of(settings)).removeprefix("torch.")
    # the autoencoder encodes in single precision
    held = need.gigabytes(word) | {"vae": need.gigabytes("float32").get("vae", 0.0)}
    listed = ", ".join(f"{name} {size:.2f}" for name, size in sorted(held.items(), key=_by_size))
    text = f"memory: {sum(held.values()):.2f} GB of weights in every process, in {word}: {listed}"
    if frees_encoders(settings):
        freed = sum(held.get(name, 0.0) for name in need.encoders)
        text += f"; {sum(held.values()) - freed:.2f} once the prompts are encoded"
    text += "; the LoRA, its gradients and the activations come on top"
    if torch.cuda.is_available():
        room = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9
        text += f"; this GPU has {room:.1f} GB"
    return text


def frees_encoders(settings: AdapterSettings) -> bool:
    """Whether a training keeps no text encoder: no token is learned in one's input."""
    return settings.num_vectors == 0 or settings.token_place == "output"


def _by_size(item: tuple[str, float]) -> float:
    return -item[1]
