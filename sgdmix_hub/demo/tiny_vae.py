"""The autoencoder of the tiny base: 64x64 images to 16x16x8 latents."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from torch.nn import functional as F

from .tiny_training import (
    HELD_OUT,
    Stage,
    load_average,
    psnr,
    render_world,
    save_tensors,
    take_over,
    to_tensor,
)

# Training from scratch uses mostly crops: four times cheaper, and the autoencoder is local. Crop
# borders are the hardest places, so a training that starts from an earlier base uses whole images.
CROP_SHARE, CROP = 0.7, 32
CROP_BATCH, FULL_BATCH = 16, 8
KL_WEIGHT = 3e-5
NUM_HELD_OUT = 192
LATENT_CHANNELS = 8  # with 4, eyes and legs of one or two pixels are lost


def build_vae(seed) -> AutoencoderKL:
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        force_upcast=False,
    )
    return vae.to(memory_format=torch.channels_last)


def load_vae(work_dir, seed):
    """The best autoencoder that `work_dir` holds, and its steps as `(vae_steps, decoder_steps)`."""
    vae, work_dir = build_vae(seed), Path(work_dir)
    vae_steps = load_average(vae, work_dir / "vae.safetensors")
    fine_tuned = work_dir / "decoder.safetensors"
    decoder_steps = load_average(vae, fine_tuned) if fine_tuned.exists() else 0
    return vae, vae_steps, decoder_steps


def batch_of(images, count, generator, device):
    """`count` random images, half of them flipped on average, float32 (count, 3, H, W)."""
    rows = torch.randint(len(images), (count,), generator=generator)
    batch = to_tensor(images[rows.numpy()], device)
    flipped = torch.rand(count, generator=generator).to(device)[:, None, None, None] < 0.5
    return torch.where(flipped, batch.flip(3), batch)


def held_out_psnr(vae, seed):
    """A function that measures the reconstruction of held-out birds from mean latents."""
    device = vae.device
    images = to_tensor(render_world(NUM_HELD_OUT, seed, HELD_OUT), device)

    def evaluate():
        with torch.no_grad():
            decoded = torch.cat(
                [
                    vae.decode(vae.encode(part).latent_dist.mode()).sample
                    for part in images.split(32)
                ]
            )
        return {"psnr": round(psnr(images, decoded), 2)}

    return evaluate


def train_vae(images, work_dir, steps, seed, device, earlier_base=None, compiled=False):
    """Trains encoder and decoder in bf16 autocast. `compiled` is a third faster."""
    vae = build_vae(seed)
    if earlier_base is not None:
        take_over(vae, AutoencoderKL, earlier_base / "vae")
    vae.to(device)
    stage = Stage("vae", vae, work_dir, steps, 1.5e-3, seed)
    crop_steps = int(steps * CROP_SHARE) if earlier_base is None else 0

    def loss_of(batch, noise):
        """Squared error (weights thin legs more than absolute error) and a small KL term."""
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        mean, variance = posterior.mean.float(), posterior.var.float()
        divergence = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
        return F.mse_loss(decoded.float(), batch) + KL_WEIGHT * divergence

    compute_loss = torch.compile(loss_of) if compiled else loss_of

    def loss_fn(step, generator):
        batch = batch_of(images, CROP_BATCH if step < crop_steps else FULL_BATCH, generator, device)
        if step < crop_steps:
            y, x = torch.randint(batch.shape[2] - CROP + 1, (2,), generator=generator).tolist()
            batch = batch[:, :, y : y + CROP, x : x + CROP]
        noise = torch.randn(
            len(batch),
            LATENT_CHANNELS,
            batch.shape[2] // 4,
            batch.shape[3] // 4,
            generator=generator,
        )
        return compute_loss(batch.contiguous(memory_format=torch.channels_last), noise.to(device))

    stage.run(loss_fn, held_out_psnr(vae, seed))


def cache_latents(images, work_dir, seed, device):
    """Mean and deviation of each training latent, and the scaling factor; written once."""
    path = Path(work_dir) / "latents.safetensors"
    vae = build_vae(seed).to(device)
    vae_steps = load_average(vae, Path(work_dir) / "vae.safetensors")
    if path.exists():
        latents = load_file(path)
        if latents["vae_steps"].item() == vae_steps and len(latents["mean"]) == len(images):
            return latents
    means, deviations = [], []
    with torch.no_grad():
        for start in range(0, len(images), 64):
            posterior = vae.encode(to_tensor(images[start : start + 64], device)).latent_dist
            means.append(posterior.mean.half().cpu())
            deviations.append(posterior.std.half().cpu())
    mean, deviation = torch.cat(means), torch.cat(deviations)
    scaling_factor = 1 / (mean.float().var() + deviation.float().square().mean()).sqrt()
    latents = {
        "mean": mean,
        "std": deviation,
        "scaling_factor": scaling_factor,
        "vae_steps": torch.tensor(vae_steps),
    }
    save_tensors(latents, path)
    return latents


def train_decoder(images, latents, work_dir, steps, seed, device):
    """Fine-tunes the decoder on the cached latents; encoder and denoiser stay valid."""
    vae = build_vae(seed).to(device)
    load_average(vae, Path(work_dir) / "vae.safetensors")
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    stage = Stage("decoder", vae, work_dir, steps, 8e-4, seed + 1)

    def loss_fn(step, generator):
        rows = torch.randint(len(images), (FULL_BATCH,), generator=generator)
        mean, deviation = latents["mean"][rows].float(), latents["std"][rows].float()
        noisy = mean + deviation * torch.randn(mean.shape, generator=generator)
        decoded = vae.decode(noisy.to(device, memory_format=torch.channels_last)).sample
        return F.mse_loss(decoded, to_tensor(images[rows.numpy()], device))

    stage.run(loss_fn, held_out_psnr(vae, seed))
