"""Tokenizer, text encoder and denoiser of the tiny base, and their training."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tokenizers import pre_tokenizers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .tiny_training import TRAIN, Stage, load_average, scene_generator, take_over
from .tiny_vae import LATENT_CHANNELS
from .world import caption, random_scene, vocabulary

MAX_TOKENS = 40
END_OF_WORD = "</w>"
TEXT_WIDTH = 96
BATCH = 32
CAPTION_DROP = 0.1
MIN_SNR_GAMMA = 5.0
BIRD_WEIGHT = 3.0  # extra weight of errors on the bird, which fills little of the image


def learn_merges(spellings):
    """Byte-pair merges that make each spelling, a list of symbols, one token: most frequent pair
    first, then a to z.

    The trainer of `tokenizers` breaks ties differently in every process, but an export must rebuild
    the tokenizer of the training.
    """
    merges = []
    while pairs := Counter(
        pair for spelling in spellings for pair in zip(spelling, spelling[1:], strict=False)
    ):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = [merge(spelling, best) for spelling in spellings]
    return merges


def merge(spelling, pair):
    """`spelling` with every occurrence of `pair` joined, from the left."""
    merged = []
    for token in spelling:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def build_tokenizer():
    """A byte-level CLIP tokenizer: each word of the world is one token, other text is bytes."""
    merges = learn_merges([[*word[:-1], word[-1] + END_OF_WORD] for word in vocabulary()])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["".join(pair) for pair in merges]
    tokens = [
        *letters,
        *(letter + END_OF_WORD for letter in letters),
        *merged,
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer, seed):
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_unet(seed) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    return unet.to(memory_format=torch.channels_last)


def build_scheduler():
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Denoiser(nn.Module):
    """Text encoder and UNet in one module: trained, averaged and saved together."""

    def __init__(self, text_encoder, unet):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, latents, timesteps, token_ids):
        return self.unet(latents, timesteps, self.text_encoder(token_ids).last_hidden_state).sample


def build_denoiser(seed):
    return Denoiser(build_text_encoder(build_tokenizer(), seed), build_unet(seed))


def load_denoiser(work_dir, seed):
    """Averaged weights of the last checkpoint, and its step."""
    denoiser = build_denoiser(seed)
    return denoiser, load_average(denoiser, Path(work_dir) / "unet.safetensors")


def tokenize(tokenizer, captions):
    """Token ids, int64 (N, MAX_TOKENS), padded as Stable Diffusion pipelines do."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def world_scenes(num_images, seed):
    """Bird and background of every training image, as `render_world` drew them."""
    return [random_scene(scene_generator(seed, TRAIN, index))[:2] for index in range(num_images)]


def bird_weights(images, size):
    """Loss weight of each latent position, float32 (N, 1, size, size), mean 1 per image."""
    coverage = torch.tensor(images[..., 3]).float().div(255)[:, None]
    weights = 1 + BIRD_WEIGHT * nn.functional.adaptive_avg_pool2d(coverage, size)
    return weights / weights.mean((2, 3), keepdim=True)


def train_unet(images, latents, work_dir, steps, seed, device, earlier_base=None, compiled=False):
    """Trains text encoder and UNet. `compiled` is a quarter faster; a CPU needs a C++ compiler."""
    tokenizer, scheduler = build_tokenizer(), build_scheduler()
    denoiser = build_denoiser(seed)
    if earlier_base is not None:
        take_over(denoiser.text_encoder, CLIPTextModel, earlier_base / "text_encoder")
        take_over(denoiser.unet, UNet2DConditionModel, earlier_base / "unet")
    denoiser.to(device)
    if compiled:
        denoiser.compile()
    scenes = world_scenes(len(latents["mean"]), seed)
    signal = scheduler.alphas_cumprod.to(device)
    stage = Stage("unet", denoiser, work_dir, steps, 1.2e-3, seed + 2)

    def captions_of(rows, step):
        rng = np.random.default_rng([seed, step])
        return ["" if rng.random() < CAPTION_DROP else caption(*scenes[row], rng) for row in rows]

    def loss_fn(step, generator):
        rows = torch.randint(len(scenes), (BATCH,), generator=generator)
        mean, deviation = latents["mean"][rows].float(), latents["std"][rows].float()
        clean = mean + deviation * torch.randn(mean.shape, generator=generator)
        clean = clean * latents["scaling_factor"]
        noise = torch.randn(mean.shape, generator=generator)
        timesteps = torch.randint(
            scheduler.config.num_train_timesteps, (BATCH,), generator=generator
        )
        clean, noise, timesteps = (value.to(device) for value in (clean, noise, timesteps))
        noisy = scheduler.add_noise(clean, noise, timesteps).contiguous(
            memory_format=torch.channels_last
        )
        token_ids = tokenize(tokenizer, captions_of(rows.tolist(), step)).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            velocity = denoiser(noisy, timesteps, token_ids)
        error = velocity.float() - scheduler.get_velocity(clean, noise, timesteps)
        snr = signal[timesteps] / (1 - signal[timesteps])
        weight = snr.clamp(max=MIN_SNR_GAMMA) / (snr + 1)
        places = bird_weights(images[rows.numpy()], mean.shape[-1]).to(device)
        return (weight * (places * error.square()).mean((1, 2, 3))).mean()

    stage.run(loss_fn)
