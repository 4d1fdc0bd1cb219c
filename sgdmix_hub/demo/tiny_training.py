"""What the training stages of the tiny base share: the cached world, a resumable loop, checkpoints
in safetensors.
"""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from .birds import render_bird
from .world import random_scene

TRAIN, HELD_OUT = 0, 1
EMA_DECAY = 0.999
WARMUP_STEPS = 100
GRADIENT_NORM = 1.0
LOG = "log.jsonl"
CHECKPOINT_EVERY = 250


def scene_generator(seed, split, index):
    return np.random.default_rng([seed, split, index])


def render_world(num_images, seed, split, resolution=64):
    """Random birds, uint8 (N, H, W, 4): RGB, and 255 where the bird is; image i depends on (seed,
    split, i) alone.
    """
    images = np.empty((num_images, resolution, resolution, 4), np.uint8)
    for index in tqdm(range(num_images), desc="rendering", disable=None):
        rng = scene_generator(seed, split, index)
        bird, background_name, _ = random_scene(rng)
        images[index, ..., :3], mask = render_bird(bird, rng, background_name, resolution)
        images[index, ..., 3] = np.where(mask, 255, 0)
    return images


def cached_world(folder, num_images, seed):
    """The training images as a read-only memory map, rendered on first use."""
    path = Path(folder) / f"world_{num_images}_{seed}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, render_world(num_images, seed, TRAIN))
        os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def to_tensor(images, device="cpu"):
    """uint8 (N, H, W, 3 or 4) -> float32 (N, 3, H, W) in [-1, 1], channels last in memory; a fourth
    channel is left out.
    """
    return torch.tensor(images[..., :3], device=device).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(images, reconstructions):
    """Peak signal-to-noise ratio in dB over all values of two tensors in [-1, 1]."""
    return 10 * math.log10(4 / (images - reconstructions.clamp(-1, 1)).square().mean().item())


def learning_rate(step, steps, peak):
    """Linear warm-up, then a cosine to zero."""
    return peak * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def save_tensors(tensors, path):
    """Write safetensors by way of a temporary file, so that an interruption leaves the former file
    whole.
    """
    partial = Path(path).with_suffix(".partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, partial)
    os.replace(partial, path)


def append_log(path, record):
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def logged_minutes(work_dir):
    """Time that the stages took, all together."""
    lines = (Path(work_dir) / LOG).read_text().splitlines()
    return sum(json.loads(line)["seconds"] for line in lines) / 60


class Stage:
    """A resumable training stage: a module, its exponential moving average and its optimiser, in
    one checkpoint file.

    `loss_fn(step, generator)` returns the loss of one batch; its randomness depends on (seed, step)
    alone, so that a stopped and resumed run gives the same weights as an uninterrupted one.
    """

    def __init__(self, name, module, work_dir, steps, peak_learning_rate, seed):
        self.name, self.module, self.steps, self.peak, self.seed = (
            name,
            module,
            steps,
            peak_learning_rate,
            seed,
        )
        self.folder = Path(work_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{name}.safetensors"
        self.parameters = {key: p for key, p in module.named_parameters() if p.requires_grad}
        self.average = {key: p.detach().clone() for key, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=peak_learning_rate, weight_decay=0.01, betas=(0.9, 0.99)
        )
        self.step = 0
        if self.path.exists():
            self.load()

    def save(self):
        tensors = {"step": torch.tensor(self.step)}
        tensors |= {f"model.{key}": p for key, p in self.parameters.items()}
        tensors |= {f"average.{key}": p for key, p in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        save_tensors(tensors, self.path)

    def load(self):
        tensors = load_file(self.path)
        self.step = tensors.pop("step").item()
        state = {}
        with torch.no_grad():
            for name, tensor in tensors.items():
                kind, key = name.split(".", 1)
                if kind == "optimizer":
                    index, key = key.split(".", 1)
                    state.setdefault(int(index), {})[key] = tensor
                else:
                    {"model": self.parameters, "average": self.average}[kind][key].copy_(tensor)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def update_average(self):
        decay = min(EMA_DECAY, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                self.average[key].lerp_(parameter, 1 - decay)

    def swap_average(self):
        """Exchange weights and averages in place; a second call undoes it."""
        with torch.no_grad():
            for key, p in self.parameters.items():
                kept = p.detach().clone()
                p.copy_(self.average[key])
                self.average[key].copy_(kept)

    def run(self, loss_fn, evaluate=None):
        """Train up to `steps`; figures of the averaged weights, from `evaluate()`, are logged at
        every checkpoint.
        """
        progress = tqdm(
            total=self.steps, initial=self.step, desc=self.name, disable=None, mininterval=5
        )
        losses, started = [], time.perf_counter()
        while self.step < self.steps:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.steps, self.peak)
            loss = loss_fn(self.step, generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), GRADIENT_NORM)
            self.optimizer.step()
            with torch.no_grad():
                self.update_average()
            self.step += 1
            losses.append(loss.detach())
            progress.update()
            if self.step % CHECKPOINT_EVERY == 0 or self.step == self.steps:
                self.save()
                figures = {"loss": round(torch.stack(losses).mean().item(), 5)} | self.measured(
                    evaluate
                )
                seconds = round(time.perf_counter() - started, 1)
                append_log(
                    self.folder / LOG,
                    {"stage": self.name, "step": self.step, "seconds": seconds} | figures,
                )
                losses, started = [], time.perf_counter()
                progress.set_postfix(figures)
        progress.close()

    def measured(self, evaluate):
        if evaluate is None:
            return {}
        self.swap_average()
        with torch.no_grad():
            figures = evaluate()
        self.swap_average()
        return figures


def load_average(module, path):
    """Copy the averaged weights of a stage's checkpoint into `module`; weights that the stage did
    not train stay.
    """
    tensors = load_file(path)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name.startswith("average."):
                parameters[name.removeprefix("average.")].copy_(tensor)
    return tensors["step"].item()


def take_over(module, model_class, folder):
    """Copy the weights of an earlier base's part, wherever they have the same name and shape, into
    `module`.
    """
    weights = model_class.from_pretrained(folder, use_safetensors=True).state_dict()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in weights and weights[name].shape == parameter.shape:
                parameter.copy_(weights[name])
