"""Trainings: optimizer steps a second, and memory. An adapter's beside a loop written like
diffusers' examples, a classifier's, and what a judge does with it.

    python benchmarks/training.py                 # the layout of SD 1.5 at a tenth of its width,
                                                  # 128x128: for a CPU
    python benchmarks/training.py --shape sd15    # its real size with random weights, 512x512,
                                                  # bf16, and all loops: for a GPU

Weights do not change speed, so they are random. The adapter's loops train LoRA of rank 10 and
learned tokens at the same batch on the same images; the stock one as
`train_text_to_image_lora.py` and `textual_inversion.py` do: the autoencoder at every step,
gradients for the whole embedding table, of which all rows but the new ones are put back after every
step. Classifier and judge are those of the recipe of CUB. No program compiles its training: the
compiled loops say whether a setting for it would pay. Compiled loops, classifier and judge need a
GPU, and their rows say so without one. Each loop is measured in processes of its own, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from parts.sd15 import SHAPES, build_base
from parts.training.adapter import BATCH, RANK, own_steps, settings_for, stock_steps, write_images
from parts.training.classifier import CUB, judging_steps, network_of, training_steps

from sgdmix_hub.files import write_json
from sgdmix_hub.runtime.ranks import start_processes

NOT_MEASURED = "not measured"
WARM_UP = 3


@dataclass(frozen=True)
class Loop:
    """An endless loop of steps. `steps` takes the shape of the base and the folder of models and
    images; `batch`: images a step.
    """

    steps: Callable[[dict, Path], Iterator[None]]
    batch: int
    needs_gpu: bool = False


def own(shape: dict, folder: Path, cached: bool = False, compiled: bool = False) -> Iterator[None]:
    settings = settings_for(shape, folder / "base", folder / "images", cached)
    return own_steps(settings, compiled)


def stock(shape: dict, folder: Path) -> Iterator[None]:
    return stock_steps(settings_for(shape, folder / "base", folder / "images", cached=False))


def classifier(shape: dict, folder: Path, compiled: bool = False) -> Iterator[None]:
    return training_steps(network_of(CUB), CUB, compiled)


def judge(shape: dict, folder: Path, compiled: bool = False) -> Iterator[None]:
    return judging_steps(CUB, folder / "judge", compiled)


ADAPTER = {
    "sgdmix_hub": Loop(own, BATCH),
    "sgdmix_hub, latents cached": Loop(partial(own, cached=True), BATCH),
    "sgdmix_hub, latents cached, compiled": Loop(
        partial(own, cached=True, compiled=True), BATCH, needs_gpu=True
    ),
    "stock": Loop(stock, BATCH),
}
CLASSIFIER = {
    "classifier, bf16": Loop(classifier, CUB.batch, needs_gpu=True),
    "classifier, bf16, compiled": Loop(partial(classifier, compiled=True), CUB.batch, True),
    "judge, float32": Loop(judge, CUB.batch, needs_gpu=True),
    "judge, float32, compiled": Loop(partial(judge, compiled=True), CUB.batch, needs_gpu=True),
}
LOOPS = ADAPTER | CLASSIFIER


def measure(loop: str, shape: dict, folder: Path, steps: int) -> dict:
    """One loop in this process: steps per second after the warm-up, peak memory in MB."""
    start_processes(num_threads=1)
    on_gpu = torch.cuda.is_available()
    run = LOOPS[loop].steps(shape, folder)
    for _ in range(WARM_UP):
        next(run)
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        next(run)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = (
        torch.cuda.max_memory_allocated() / 1e6
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    )
    return {"steps_per_second": steps / seconds, "peak_mb": peak}


def table(results: dict) -> str:
    shape, loops = results["shape"], results["loops"]
    found = {
        loop: {name: np.median([turn[name] for turn in turns]) for name in turns[0]}
        for loop, turns in loops.items()
    }
    lines = [
        f"{results['device']}, torch {results['torch']}; medians of {results['turns']} interleaved "
        f"turns of {results['steps']} steps.",
        "",
        f"Adapter: UNet {tuple(shape['unet'])}, {shape['resolution']}x{shape['resolution']}, batch "
        f"{BATCH}, rank {RANK}, precision {shape['precision']}.",
        "",
        "| Loop | steps/s | against stock | peak memory, MB |",
        "|---|---|---|---|",
    ]
    stock_rate = found["stock"]["steps_per_second"]
    lines += [
        row(loop, found.get(loop), lambda rate: f"{rate / stock_rate:.2f}") for loop in ADAPTER
    ]
    lines += [
        "",
        f"ResNet-50, {CUB.size}x{CUB.size}, batch {CUB.batch}, images on the device.",
        "",
        "| Loop | steps/s | images/s | peak memory, MB |",
        "|---|---|---|---|",
    ]
    lines += [
        row(loop, found.get(loop), lambda rate: f"{rate * CUB.batch:.0f}") for loop in CLASSIFIER
    ]
    return "\n".join(lines) + "\n"


def row(loop: str, figures: dict | None, other: Callable[[float], str]) -> str:
    """`other`: steps per second -> the cell beside them."""
    if figures is None:
        return f"| {loop} | {NOT_MEASURED} | | |"
    rate = figures["steps_per_second"]
    return f"| {loop} | {rate:.3f} | {other(rate)} | {figures['peak_mb']:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--steps", type=int, default=15, help="optimizer steps of each turn")
    parser.add_argument("--turns", type=int, default=3, help="times that each loop is measured")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/training"),
        help="the .json and .md, without suffix",
    )
    parser.add_argument("--one", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape, on_gpu = SHAPES[arguments.shape], torch.cuda.is_available()
    if arguments.one:
        print(json.dumps(measure(arguments.one, shape, arguments.folder, arguments.steps)))
        return
    loops: dict[str, list[dict]] = {
        name: [] for name, loop in LOOPS.items() if on_gpu or not loop.needs_gpu
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        build_base(shape).save_pretrained(folder / "base")
        write_images(folder / "images", shape["resolution"])
        for _ in range(arguments.turns):
            for loop, turns in loops.items():
                turns.append(in_process(loop, arguments.shape, arguments.steps, folder))
    results = {
        "shape": shape,
        "loops": loops,
        "steps": arguments.steps,
        "turns": arguments.turns,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU, one thread",
        "torch": torch.__version__.partition("+")[0],
    }
    write_json(arguments.results.with_suffix(".json"), results)
    arguments.results.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


def in_process(loop: str, shape: str, steps: int, folder: Path) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--shape", shape, "--steps", str(steps), "--one", loop]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
