"""The training of a base as curves, from the log that its training leaves."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

VAE_STAGES = {"vae": "autoencoder", "decoder": "then its decoder alone"}


def read_log(path: Path) -> dict[str, list[dict]]:
    """Stage -> its checkpoints in order of steps; of two at one step, the later one."""
    stages: dict[str, dict[int, dict]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        stages.setdefault(record["stage"], {})[record["step"]] = record
    return {stage: [records[step] for step in sorted(records)] for stage, records in stages.items()}


def draw_curve(
    axes: Axes, records: list[dict], figure: str, label: str, first_step: int = 0
) -> None:
    axes.plot(
        [first_step + record["step"] for record in records],
        [record[figure] for record in records],
        label=label,
    )


def draw_curves(log: Path, output: Path) -> None:
    """PSNR over the autoencoder's steps, and the denoiser's loss over its steps, as a PNG."""
    stages = read_log(log)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    vae_axes, unet_axes = figure.subplots(1, 2)
    first_step = 0
    for stage, label in VAE_STAGES.items():
        if stage in stages:
            draw_curve(vae_axes, stages[stage], "psnr", label, first_step)
            first_step = stages[stage][-1]["step"]
    vae_axes.set(xlabel="step", ylabel="PSNR of held-out birds, dB")
    vae_axes.legend()
    draw_curve(unet_axes, stages.get("unet", []), "loss", "denoiser")
    unet_axes.set(xlabel="step", ylabel="loss of the denoiser (weighted MSE)")
    for axes in (vae_axes, unet_axes):
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=100)
