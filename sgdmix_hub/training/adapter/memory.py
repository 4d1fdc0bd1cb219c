"""What an adapter's training needs in memory, told before anything is loaded."""

from __future__ import annotations

from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.memory import gpu_room, listed, need_of
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
    total = sum(held.values())
    text = f"memory: {total:.2f} GB of weights in every process, in {word}: {listed(held)}"
    if frees_encoders(settings):
        freed = sum(held.get(name, 0.0) for name in need.encoders)
        text += f"; {total - freed:.2f} once the prompts are encoded"
    text += "; the LoRA, its gradients and the activations come on top"
    if (room := gpu_room()) is not None:
        text += f"; this GPU has {room:.1f} GB"
    return text


def frees_encoders(settings: AdapterSettings) -> bool:
    """Whether a training keeps no text encoder: no token is learned in one's input."""
    return settings.num_vectors == 0 or settings.token_place == "output"
