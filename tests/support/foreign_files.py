"""LoRA files as other programs write them."""

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from sgdmix_hub.models.adapters import LORA_FILE

RANK, ALPHA = 2, 4


def with_random_lora(network, targets):
    """peft's weights of a random LoRA of a network, by layer: (down, up)."""
    torch.manual_seed(4)
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    weights = get_peft_model_state_dict(network)
    layers = {name.split(".lora_")[0] for name in weights}
    return {
        layer: tuple(weights[f"{layer}.lora_{half}.weight"].contiguous() for half in "AB")
        for layer in sorted(layers)
    }


def kohya_names(layers, start):
    """A LoRA as kohya's scripts and OneTrainer name it, each layer with its alpha."""
    weights = {}
    for layer, (down, up) in layers.items():
        name = start + layer.removeprefix("text_model.").replace(".", "_")
        weights |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        weights[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    return weights


def save(weights, folder, name=LORA_FILE, **options):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone() for key, value in weights.items()}, folder / name, **options)
    return folder
