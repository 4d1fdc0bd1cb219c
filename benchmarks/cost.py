"""What CUB's recipe costs: hours, GPU memory and gigabytes, on 8 GPUs and on 1.

    python benchmarks/cost.py

Counts the floating-point operations of every network at its real size (SD 1.5, ResNet-50), forward
and backward, and the bytes of weights and of activations kept for the backward pass. Nothing is
computed: tensors have shapes and no values (torch's meta device). Multiplies by the recipe's number
of images, epochs and steps. Hours are operations divided by an assumed rate, `RATE`; nothing was
measured on a GPU. Writes JSON and Markdown.
"""

from __future__ import annotations

import argparse
import io
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from parts.sd15 import SHAPES, build_unet
from peft import LoraConfig
from PIL import Image
from skimage import data
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, ResNetConfig, ResNetForImageClassification

from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.generation.saliency_maps import row_type
from sgdmix_hub.models.bases.stable_diffusion import StableDiffusion
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.training.adapter.model import AdaptedModel
from sgdmix_hub.training.adapter.token_embedding import TokenEmbedding

PEAK, SHARE = 400e12, 0.4  # assumed: dense bf16 FLOP/s of a GPU, and the share that is reached
RATE = PEAK * SHARE
GPUS = (8, 1)
IMAGES, TEST_IMAGES, CLASSES = 5994, 5794, 200  # CUB-200-2011
MEASURED, MEASURED_BATCH = Path("benchmarks/results/training_gpu.json"), 4
HALF, SINGLE = 2, 4  # bytes of a number
TOKENS = 77
TEXT = CLIPTextConfig(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    projection_dim=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=TOKENS,
)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # in skimage's package


@contextmanager
def in_half():
    """New weights and inputs are bfloat16."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


class Kept:
    """Bytes of the storages that autograd keeps for the backward pass, without the weights'."""

    def __init__(self, model: torch.nn.Module):
        self.weights = {id(storage): storage for storage in map(_storage, model.parameters())}
        self.storages: dict[int, Any] = {}  # held, so that no other gets the same id

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = _storage(tensor)
        if id(storage) not in self.weights:
            self.storages[id(storage)] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


def _storage(tensor: torch.Tensor) -> Any:
    return tensor.untyped_storage()


class Fused(torch.autograd.Function):
    """Attention as a GPU's fused kernels do it: keeps its inputs and output, and no weights."""

    @staticmethod
    def forward(context, query, key, value):
        output = torch.empty_like(query)
        context.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(context, gradient):
        return tuple(torch.empty_like(tensor) for tensor in context.saved_tensors[:3])


class FusedAttention(TorchFunctionMode):
    """Replaces torch's attention, which on the meta device keeps the weights."""

    def __torch_function__(self, function, types, args=(), options=None):
        options = options or {}
        if function is F.scaled_dot_product_attention:
            named = [options[name] for name in ("query", "key", "value")[len(args) :]]
            return Fused.apply(*args[:3], *named)
        return function(*args, **options)


def size_of(model: torch.nn.Module) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in model.parameters())


def forward_flops(function, *inputs: torch.Tensor, **options: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*inputs, **options)
    return counter.get_total_flops()


def training_cost(model: torch.nn.Module, loss) -> dict[str, int]:
    """Operations of a forward and backward pass, and bytes kept between the two."""
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    kept = Kept(model)
    hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor)
    with FusedAttention(), hooks:
        loss().backward()
    return {"flops": counter.get_total_flops(), "kept_bytes": kept.bytes}


def stable_diffusion(rank: int, resolution: int) -> dict[str, int]:
    """Operations of one image's passes at SD 1.5's size, and the bytes of the training step."""
    shape = SHAPES["sd15"]
    side = resolution // 8
    with torch.device("meta"), in_half():
        unet = build_unet(shape).requires_grad_(False)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=shape["vae"],
            layers_per_block=2,
        )
        text = CLIPTextModel(TEXT).requires_grad_(False)
        latents = torch.empty(1, 4, side, side)
        pixels = torch.empty(1, 3, resolution, resolution)
        time = torch.zeros(1, dtype=torch.int64)
        ids = torch.zeros(1, TOKENS, dtype=torch.int64)
        found = {
            "unet": forward_flops(unet, latents, time, text(ids)[0]),
            "encode": forward_flops(vae.encode, pixels),
            "decode": forward_flops(vae.decode, latents),
            "text": forward_flops(text, ids),
            "unet_weights": size_of(unet),
            "vae_weights": size_of(vae),
            "text_weights": size_of(text),
        }
        tokens = TokenEmbedding(text.get_input_embeddings(), torch.empty(CLASSES, 768))
        text.set_input_embeddings(tokens)
        unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=StableDiffusion.lora_targets)
        )
        model = AdaptedModel(StableDiffusion(), [text], unet, {"clip_l": tokens}).train()
        cost = training_cost(model, lambda: model(latents, time, [ids]).float().square().mean())
        found |= {f"step_{name}": value for name, value in cost.items()}
        found["trained_weights"] = sum(weight.numel() for weight in model.trained().values())
    return found


def classifier(size: int) -> dict[str, int]:
    """ResNet-50: operations and bytes of one image."""
    with torch.device("meta"), in_half():
        model = ResNetForImageClassification(ResNetConfig(num_labels=CLASSES)).train()
        pixels = torch.empty(2, 3, size, size)  # BN needs two values
        cost = training_cost(model, lambda: model(pixels).logits.float().square().mean())
        found = {f"step_{name}": value // 2 for name, value in cost.items()}
        found["forward"] = forward_flops(model.eval(), pixels) // 2
        found["weights"] = size_of(model)
    return found


def image_bytes(resolution: int) -> dict[str, float]:
    """Mean bytes of a photograph of this size, by format."""
    sizes: dict[str, list[int]] = {"png": [], "jpeg q95": [], "webp q95": []}
    for name in PHOTOGRAPHS:
        image = Image.fromarray(getattr(data, name)()).resize((resolution, resolution))
        for kind, found in sizes.items():
            kind, _, quality = kind.partition(" q")
            buffer = io.BytesIO()
            image.save(buffer, kind, **({"quality": int(quality)} if quality else {}))
            found.append(buffer.tell())
    return {kind: float(np.mean(found)) for kind, found in sizes.items()}


def stages() -> list[dict]:
    """Each stage's operations in all, and the bytes that its GPU holds at least."""
    train = parse_settings(ClassifierSettings, ["--config", "cub-sgdmix/classifier.yaml"])
    adapt = parse_settings(AdapterSettings, ["--config", "cub-sgdmix/adapter.yaml"])
    make = apply_preset(parse_settings(AugmentSettings, ["--config", "cub-sgdmix/generate.yaml"]))
    net, diffusion = classifier(train.image_size or 0), stable_diffusion(adapt.rank, 512)
    samples = round(adapt.num_train_epochs * IMAGES)
    rows = IMAGES * make.num_variants
    judged = adapt.num_judged_images * CLASSES

    def drawn(strength: float, steps: int, guided: bool) -> int:
        """Operations of one image."""
        encoded = diffusion["encode"] if strength < 1 else 0
        passes = int(steps * strength) * (2 if guided else 1)
        return encoded + passes * diffusion["unet"] + diffusion["decode"] + 2 * diffusion["text"]

    judging = sum(
        drawn(strength, adapt.num_inference_steps, True) for strength in (1, adapt.judged_strength)
    )
    weights = diffusion["unet_weights"] + diffusion["vae_weights"] + diffusion["text_weights"]
    training = IMAGES * train.num_train_epochs * net["step_flops"] + TEST_IMAGES * net["forward"]
    # weights, gradients and momentum in float32
    held = 3 * SINGLE * net["weights"]
    classifier_bytes = {
        gpus: held + train.total_batch_size // gpus * net["step_kept_bytes"] for gpus in GPUS
    }
    # the frozen weights in bf16 and the autoencoder in float32; trained ones four times
    held = HALF * (diffusion["unet_weights"] + diffusion["text_weights"])
    held += SINGLE * (diffusion["vae_weights"] + 4 * diffusion["trained_weights"])
    adapter_bytes = {
        gpus: held + adapt.total_batch_size // gpus * diffusion["step_kept_bytes"] for gpus in GPUS
    }
    drawing = dict.fromkeys(GPUS, HALF * weights)
    strength = float(np.mean(make.strength))
    guided = make.guidance_scale > 1
    return [
        {"stage": "classifier", "flops": training, "bytes": classifier_bytes},
        {
            "stage": "latents of all images and their mirror images",
            "flops": 2 * IMAGES * diffusion["encode"],
            "bytes": dict.fromkeys(GPUS, SINGLE * diffusion["vae_weights"]),
        },
        {
            "stage": "adapter",
            "samples": samples,
            "flops": samples * diffusion["step_flops"],
            "bytes": adapter_bytes,
        },
        {
            "stage": "judge: images drawn with the adapter and with the base alone",
            "flops": 2 * judged * judging,
            "bytes": drawing,
        },
        {
            "stage": "augmented dataset",
            "flops": rows * drawn(strength, make.num_inference_steps, guided),
            "bytes": drawing,
        },
        {"stage": "downstream classifier", "flops": training, "bytes": classifier_bytes},
    ]


def measured_rate(flops: float) -> float:
    """FLOP/s of the adapter's training with cached latents on a GPU, as training.py measured it."""
    turns = read_json(MEASURED)["loops"]["sgdmix_hub, latents cached"]
    return flops * MEASURED_BATCH * float(np.median([turn["steps_per_second"] for turn in turns]))


def files(resolution: int) -> dict[str, float]:
    """Gigabytes on disk."""
    make = parse_settings(AugmentSettings, ["--config", "cub-sgdmix/generate.yaml"])
    rows = IMAGES * make.num_variants
    found = {
        f"images as {kind}": rows * size / 1e9 for kind, size in image_bytes(resolution).items()
    }
    side = resolution // 8
    # mean and standard deviation of an image and its mirror image
    found["saliency maps and masks"] = IMAGES * row_type("consensus").itemsize / 1e9
    found["latents of the adapter's training"] = IMAGES * 2 * 2 * 4 * side * side * HALF / 1e9
    return found


def table(results: dict) -> str:
    lines = [
        f"Computed, not measured: operations and bytes are counted at full size (torch "
        f"{results['torch']}), hours assume {SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s in bf16 on "
        "every GPU and no time for loading, encoding or communication. Memory is the least that a "
        "process holds: weights, optimizer, and activations kept for the backward pass; working "
        "memory comes on top. Not measured, but for the adapter's step in eager mode on one H200 "
        f"([training_gpu.md](training_gpu.md)): {results['measured'] / 1e12:.0f} TFLOP/s at "
        "batch 4, so its hours are optimistic until more is measured.",
        "",
        "| Stage | PFLOP | hours, 8 GPUs | hours, 1 GPU | GB a GPU, of 8 | GB, 1 GPU |",
        "|---|---|---|---|---|---|",
    ]
    total = 0.0
    for stage in results["stages"]:
        total += stage["flops"]
        hours = [f"{stage['flops'] / RATE / 3600 / gpus:.2f}" for gpus in GPUS]
        memory = [f"{stage['bytes'][str(gpus)] / 1e9:.1f}" for gpus in GPUS]
        cells = [f"{stage['flops'] / 1e15:.1f}", *hours, *memory]
        lines.append(f"| {stage['stage']} | {' | '.join(cells)} |")
    hours = [f"{total / RATE / 3600 / gpus:.2f}" for gpus in GPUS]
    lines.append(f"| **all** | {total / 1e15:.1f} | {' | '.join(hours)} | | |")
    lines += ["", "| On disk | GB |", "|---|---|"]
    lines += [f"| {name} | {size:.3g} |" for name, size in results["files"].items()]
    lines += [
        "",
        f"Image sizes: the mean of {len(PHOTOGRAPHS)} photographs of scikit-image at 512 x 512.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/cost"),
        help="the .json and .md, without suffix",
    )
    path = parser.parse_args().results
    found = [
        stage | {"bytes": {str(gpus): size for gpus, size in stage["bytes"].items()}}
        for stage in stages()
    ]
    (adapter,) = (stage for stage in found if stage["stage"] == "adapter")
    results: dict[str, Any] = {
        "measured": measured_rate(adapter["flops"] / adapter["samples"]),
        "torch": torch.__version__.partition("+")[0],
        "assumed": {"peak_flops": PEAK, "share": SHARE},
        "stages": found,
        "files": files(512),
    }
    write_json(path.with_suffix(".json"), results)
    text = table(read_json(path.with_suffix(".json")))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
