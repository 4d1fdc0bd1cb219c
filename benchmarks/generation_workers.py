"""One worker of the generation's benchmark: ours, the reference, or a plain convolution. Prints its figures as JSON, last.

The reference does the same work on the same planned rows, the way the peers' scripts do: one image a call of the stock pipeline, the
adapter beside the weights, the prompt as a string every time, eager, fp16 on a GPU, every image saved as PNG before the next one. Loading
and a first batch are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from generation_data import prepare
from PIL import Image
from training import SHAPES

from sgdmix_hub.adapters import load_into
from sgdmix_hub.config import AugmentSettings, apply_preset
from sgdmix_hub.flow import make_shards
from sgdmix_hub.inputs import environment, resolve_inputs
from sgdmix_hub.processes import quiet_other_ranks, start_processes
from sgdmix_hub.refine import NO_SAFETY_CHECKER, load_base, with_scheduler
from sgdmix_hub.rows import RowMaker
from sgdmix_hub.saliency_store import compute_maps
from sgdmix_hub.shards import PlanRow, Shards, make_plan, shard_features, write_plan

CONVOLUTION_SECONDS = 5.0
ROWS_PER_SHARD = 32


def settings_for(args: argparse.Namespace) -> AugmentSettings:
    inputs = prepare(args.work_dir, args.shape)
    large = args.shape != "tiny"
    values = {"preset": args.preset} | ({"saliency_method": "spectral-residual"} if args.preset == "paper" else {})
    return apply_preset(
        AugmentSettings(
            dataset_name=str(inputs.birds),
            output_dir=str(args.work_dir / f"run-{args.preset}"),
            adapter=str(inputs.adapter),
            pretrained_model_name_or_path=str(inputs.base),
            num_variants=8,
            strength=0.7,
            num_inference_steps=25,
            guidance_scale=7.5,
            batch_size=args.batch_size,
            compile=args.compiled,
            dtype="float16" if large else "float32",
            resolution=SHAPES[args.shape]["resolution"] if large else 64,
            **values,
        )
    )


def prepared(args: argparse.Namespace, device: torch.device) -> tuple[RowMaker, list[PlanRow]]:
    """A maker and enough planned rows for a first batch and the timed ones; of another share of them for every rank."""
    settings = settings_for(args)
    inputs = resolve_inputs(settings, Path(settings.output_dir) / "state")
    maps = compute_maps(settings, inputs.split, inputs.classifier, 0, 1, device)
    plan = list(make_plan(settings, inputs.split, maps))
    start = args.rank * args.rows
    return RowMaker(settings, inputs, maps), [plan[(start + row) % len(plan)] for row in range(args.rows + args.batch_size)]


class Ours:
    """The library's own flow, shards and all."""

    def __init__(self, args: argparse.Namespace, device: torch.device, folder: Path):
        self.maker, rows = prepared(args, device)
        self.batch, self.rows, self.device = rows[: args.batch_size], rows[args.batch_size :], device
        self.maker.load_refiner(device)
        self.seconds: dict[str, float] = defaultdict(float)
        self.features = shard_features(self.maker.inputs.split.class_names)
        write_plan(folder / "plan.parquet", self.rows)
        self.shards = Shards(folder / "shards", folder / "plan.parquet", ROWS_PER_SHARD)
        self._make([(0, self.batch)])
        if args.timed:
            self._take_time()

    def __call__(self) -> int:
        self._make((number, self.shards.rows(number)) for number in range(len(self.shards)))
        return len(self.rows)

    def _make(self, shards) -> None:
        def write(number: int, rows: list[dict], skipped: list[dict], seconds: float) -> None:
            facts = {"skipped": skipped, "seconds": seconds, "environment": environment(self.maker.settings)}
            self.shards.write(number, rows, self.features, facts)

        make_shards(self.maker, shards, self.maker.settings.num_workers, write, lambda rows: None)

    def _take_time(self) -> None:
        """Wraps what the main thread calls; the shares are of it alone."""
        pipeline, refiner = self.maker.pipeline, self.maker.pipeline.refiner
        unet, vae = refiner.pipeline.unet, refiner.pipeline.vae
        unet.forward = self._timed("UNet", unet.forward)
        vae.encode, vae.decode = self._timed("VAE", vae.encode), self._timed("VAE", vae.decode)
        refiner._denoise = self._timed("sampler", refiner._denoise, less="UNet")
        pipeline.finish = self._timed("around the model", pipeline.finish, less=("UNet", "VAE", "sampler"))

    def _timed(self, name: str, function: Callable, less: tuple[str, ...] | str = ()) -> Callable:
        """`function`, whose seconds count under a name, without those that count elsewhere meanwhile."""
        others = (less,) if isinstance(less, str) else less

        def timed(*args, **kwargs):
            before = sum(self.seconds[other] for other in others)
            self._synchronize()
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self._synchronize()
            self.seconds[name] += time.perf_counter() - started - (sum(self.seconds[other] for other in others) - before)
            return result

        return timed

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Reference:
    """The peers' way."""

    def __init__(self, args: argparse.Namespace, device: torch.device, folder: Path):
        self.maker, rows = prepared(args, device)
        self.folder, self.device, self.settings = folder, device, self.maker.settings
        inputs = self.maker.inputs
        pipeline = load_base(StableDiffusionImg2ImgPipeline, inputs.base, getattr(torch, self.settings.dtype), **NO_SAFETY_CHECKER)
        self.pipeline = with_scheduler(pipeline, self.settings.scheduler).to(device)
        load_into(self.pipeline, inputs.adapter)
        self.pipeline.set_progress_bar_config(disable=True)
        self._make(rows[0])
        self.rows = rows[args.batch_size :]

    def __call__(self) -> int:
        for row in self.rows:
            self._make(row)
        return len(self.rows)

    def _make(self, row: PlanRow) -> None:
        mixture = self.maker.mixture(row)
        image = self.pipeline(
            prompt=self.maker.inputs.prompt(self.maker.label(row)),
            image=Image.fromarray(mixture.mixed),
            strength=row.strength,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(row.seed),
        ).images[0]
        image.save(self.folder / f"{row.source_index}-{row.variant}.png")


class Convolution:
    """A loop of what most of the time goes to, without anything around it; its rows are rounds."""

    def __init__(self, args: argparse.Namespace, device: torch.device, folder: Path):
        self.layer = torch.nn.Conv2d(96, 96, 3, padding=1).to(memory_format=torch.channels_last)
        self.inputs = torch.randn(16, 96, 16, 16).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self) -> int:
        rounds, started = 0, time.perf_counter()
        while time.perf_counter() - started < CONVOLUTION_SECONDS:
            self.layer(self.inputs)
            rounds += 1
        return rounds


KINDS = {"ours": Ours, "reference": Reference, "convolution": Convolution}


@contextmanager
def started_together(args: argparse.Namespace):
    """Waits until all workers of a measurement are ready."""
    if args.barrier is not None:
        (args.barrier / f"ready-{args.rank}").touch()
        while not (args.barrier / "start").exists():
            time.sleep(0.01)
    yield


def achieved_flops(ours: Ours) -> dict:
    """FLOP/s inside the UNet over the rate of a large matrix product of the same precision on the same device."""
    from torch.utils.flop_counter import FlopCounterMode

    refiner = ours.maker.pipeline.refiner
    unet, batch = refiner.pipeline.unet, 2 * ours.maker.settings.batch_size
    latents = torch.randn(batch, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size, device=ours.device)
    embeds = torch.randn(batch, 77, unet.config.cross_attention_dim, device=ours.device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        type(unet).forward(unet, latents.to(unet.dtype), torch.tensor(500, device=ours.device), embeds.to(unet.dtype))
    steps = int(25 * 0.7) * -(-len(ours.rows) // ours.maker.settings.batch_size)
    achieved = counter.get_total_flops() * steps / ours.seconds["UNet"]
    side = 8192
    factor = torch.randn(side, side, device=ours.device, dtype=unet.dtype)
    for _ in range(3):
        factor @ factor
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        factor @ factor
    torch.cuda.synchronize()
    product = 20 * 2 * side**3 / (time.perf_counter() - started)
    return {"unet_tflops": achieved / 1e12, "matrix_product_tflops": product / 1e12, "share": achieved / product}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--barrier", type=Path)
    parser.add_argument("--core", type=int, help="run on this core alone, with all helpers")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--timed", action="store_true")
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    state = start_processes(1)
    quiet_other_ranks()
    with TemporaryDirectory() as folder:
        work = KINDS[args.kind](args, state.device, Path(folder))
        with started_together(args):
            started = time.perf_counter()
            rows = work()
            seconds = time.perf_counter() - started
    found = {"rows": rows, "seconds": seconds, "rate": rows / seconds}
    if args.timed:
        shares = {name: value / seconds for name, value in work.seconds.items()}
        found["shares"] = shares | {"waiting, handing over, writing": 1 - sum(shares.values())}
        if state.device.type == "cuda":
            found |= achieved_flops(work)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
