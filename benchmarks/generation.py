"""How fast a generation is, where its time goes, how it scales and what memory it takes.

    python benchmarks/generation.py                       # all parts that this machine can run
    python benchmarks/generation.py --parts speed time    # some; the others' figures stay as they
    were

- `speed`: rows a second beside a sampler written the way the peers write theirs
  (parts/generation/samplers.py), in turns;
- `time`: where each second of it goes;
- `scaling`: two processes against one, in interleaved pairs, beside a plain convolution, because
  cores may be shared;
- `memory`: peak anonymous memory of whole runs over small and large datasets;
- `size`: a run over 50,000 images at S = 0, and the same command again;
- `gpu`, `gpu-compiled`: rows a second beside that sampler on a GPU, in the shape of Stable
  Diffusion 1.5 with random weights (they do not change speed);
- `gpu-sdxl`, `gpu-z-image`: the same in the shapes of Stable Diffusion XL and Z-Image;
- `unet`: FLOP/s of a UNet of that shape.

The last five need a GPU, the others run on the CPU, also where there is one. Figures go to
generation.json and, as tables, to generation.md.
"""

from __future__ import annotations

import os

# read when the libraries are imported, here and in every process that this one starts
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}

import argparse
import datetime
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import parts.generation.data as data
import torch
from parts.generation.flops import unet_alone
from parts.generation.runs import run_again, run_whole
from parts.generation.samplers import STEPS, STRENGTH, Task
from parts.generation.tables import render
from parts.generation.workers import Worker, in_process, loaded, run_together
from parts.sd15 import SHAPES, build_unet

from sgdmix_hub.files import read_json, write_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.supported import check_supported
from sgdmix_hub.runtime.ranks import start_processes

PLACES = ("one core", "all cores")
PRESETS = ("paper", "recommended")
BATCH, GPU_BATCH, LARGE_BATCH, GPU_TURNS = 8, 16, 4, 3
MIXED_ROWS, REFINED_ROWS = (1_000, 20_000), (200, 2_000)
SIZE_ROWS = 50_000
MIXING_ALONE = ["--strength", "0", "--resolution", str(data.PATTERN_SIZE)]


def task_of(args: argparse.Namespace, **more) -> Task:
    """Of `rows` rows of the demo's base; their batches are no larger than the run."""
    return Task(args.work_dir, args.rows, batch_size=min(BATCH, args.rows), **more)


def speed(args: argparse.Namespace) -> dict:
    """Ratios of the turns, with everything on one core and with all cores."""
    task = task_of(args)
    in_process(data.birds_adapter, args.work_dir, task.shape)
    found = []
    for place in args.places:
        with loaded(*(Worker(kind, task, core_of(place)) for kind in ("ours", "reference"))) as (
            ours,
            reference,
        ):
            turns = [{"ours": ours.run(), "reference": reference.run()} for _ in range(args.turns)]
        found.append({"place": place, "turns": turns} | ratios(turns))
    return {"rows": args.rows, "places": found}


def ratios(turns: list[dict]) -> dict:
    """Ours over the reference: medians over turns, of wall time and of CPU time of all cores."""

    def median(name: str) -> float:
        cost = [
            {kind: answer[name] / answer["rows"] for kind, answer in turn.items()} for turn in turns
        ]
        return statistics.median(turn["reference"] / turn["ours"] for turn in cost)

    return {"ratio": median("seconds"), "cpu_ratio": median("cpu_seconds")}


def core_of(place: str) -> int | None:
    """The core for one-core measurements: the last, because other work starts on the first."""
    return max(os.sched_getaffinity(0)) if place == "one core" else None


def time_shares(args: argparse.Namespace) -> dict:
    """What the time of our own rows goes to."""
    in_process(data.birds_adapter, args.work_dir, data.TINY)
    found = []
    for preset in PRESETS:
        for place in args.places:
            with loaded(Worker("ours", task_of(args, preset=preset), core_of(place))) as (worker,):
                found.append({"preset": preset, "place": place} | worker.run(timed=True))
    return {"rows": args.rows, "runs": found}


def scaling(args: argparse.Namespace) -> dict:
    """Throughput of two processes over one, each with all its helpers on a core of its own."""
    in_process(data.birds_adapter, args.work_dir, data.TINY)
    cores, kinds, pairs = sorted(os.sched_getaffinity(0)), ("convolution", "ours"), []
    tasks = [task_of(args, rank=rank) for rank in range(2)]
    with loaded(
        *(Worker(kind, task, cores[task.rank % len(cores)]) for kind in kinds for task in tasks)
    ) as workers:
        by_kind = {"convolution": workers[:2], "ours": workers[2:]}
        for _ in range(args.pairs):
            rates = {
                f"{kind} {count}": run_together(by_kind[kind][:count])
                for kind in kinds
                for count in (1, 2)
            }
            pairs.append(rates | {kind: rates[f"{kind} 2"] / rates[f"{kind} 1"] for kind in kinds})
    medians = {kind: statistics.median(pair[kind] for pair in pairs) for kind in kinds}
    return {
        "rows": args.rows,
        "pairs": pairs,
        "medians": medians,
        "ratio": medians["ours"] / medians["convolution"],
    }


def memory(args: argparse.Namespace) -> dict:
    """Peaks of small and large runs."""
    in_process(data.patterns_adapter, args.work_dir)
    found = []
    for title, sizes, words in (
        ("S = 0", MIXED_ROWS, MIXING_ALONE),
        ("one diffusion step", REFINED_ROWS, one_step(args.work_dir)),
    ):
        small, large = (
            run_whole(data.patterns(args.work_dir, rows), args.work_dir / f"run-{rows}", words)
            for rows in sizes
        )
        found.append(
            {"title": title, "runs": [small, large], "ratio": large["peak_mb"] / small["peak_mb"]}
        )
    return {"runs": found}


def one_step(work_dir: Path) -> list[str]:
    words = [
        "--strength",
        "1",
        "--num_inference_steps",
        "1",
        "--resolution",
        str(data.TINY_RESOLUTION),
        "--allow_other_subset",
    ]
    return [
        *words,
        "--adapter",
        str(data.patterns_adapter(work_dir)),
        "--pretrained_model_name_or_path",
        str(data.TINY_BASE),
    ]


def size(args: argparse.Namespace) -> dict:
    """A large run and its repetition."""
    place = (
        data.patterns(args.work_dir, SIZE_ROWS),
        args.work_dir / f"run-{SIZE_ROWS}",
        MIXING_ALONE,
    )
    return run_whole(*place) | {"again_seconds": run_again(*place)}


def gpu(
    args: argparse.Namespace,
    compiled: bool = False,
    shape: str | None = None,
    batch_size: int = GPU_BATCH,
) -> dict | None:
    """Speed against the reference in turns; None without a GPU. `shape`: `gpu_shape` if None."""
    if not torch.cuda.is_available():
        return None
    shape = shape or args.gpu_shape
    in_process(data.birds_adapter, args.work_dir, shape, on_gpu=True)
    options = {
        "shape": shape,
        "batch_size": batch_size,
        "dtype": args.gpu_dtype,
        "compiled": compiled,
    }
    started = time.monotonic()
    tasks = {
        "reference": Task(args.work_dir, 8, shape=shape),
        "ours": Task(args.work_dir, 6 * batch_size, **options),
    }
    with loaded(*(Worker(kind, task, on_gpu=True) for kind, task in tasks.items())) as (
        reference,
        ours,
    ):
        facts = {
            "device": torch.cuda.get_device_name(),
            "resolution": data.resolution_of(shape),
            "reference_dtype": data.half_of(shape),
            "scheduler": data.scheduler_of(shape),
            "steps": steps_of_a_row(args.work_dir, shape),
        }
        facts |= options | {"loading_seconds": time.monotonic() - started}
        turns = [{"ours": ours.run(), "reference": reference.run()} for _ in range(GPU_TURNS)]
        return facts | {"turns": turns, "timed": ours.run(timed=True)} | ratios(turns)


def steps_of_a_row(work_dir: Path, shape: str) -> int:
    """The denoising steps that a row takes, as the base's family counts them."""
    family = check_supported(resolve(str(data.base(work_dir, shape))))
    return family.num_steps(STEPS, STRENGTH)


def unet(args: argparse.Namespace) -> dict | None:
    """FLOP/s of the UNet alone; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    start_processes(1)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = build_unet(SHAPES[args.gpu_shape])
    model = model.to(getattr(torch, args.gpu_dtype)).to(memory_format=torch.channels_last).eval()
    return {
        "device": torch.cuda.get_device_name(),
        "resolution": data.resolution_of(args.gpu_shape),
    } | unet_alone(model, 2 * GPU_BATCH)


def machine() -> dict:
    """What the figures were measured on; the load says how much else was going on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "torch": torch.__version__.partition("+")[0],
        "date": str(datetime.date.today()),
        "load": os.getloadavg()[0],
    }


PARTS = {"speed": speed, "time": time_shares, "scaling": scaling, "memory": memory, "size": size}
PARTS |= {
    "gpu": gpu,
    "gpu-compiled": partial(gpu, compiled=True),
    "gpu-sdxl": partial(gpu, shape="sdxl", batch_size=LARGE_BATCH),
    "gpu-z-image": partial(gpu, shape="z-image", batch_size=LARGE_BATCH),
    "unet": unet,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/benchmarks/generation"),
        help="folder of data, models and runs",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/generation"),
        help="path of the .json and .md, without suffix",
    )
    parser.add_argument(
        "--rows", type=int, default=96, help="rows of every run of `speed`, `time` and `scaling`"
    )
    parser.add_argument(
        "--places", nargs="+", choices=PLACES, default=list(PLACES), help="of `speed` and `time`"
    )
    parser.add_argument("--turns", type=int, default=5, help="of `speed`")
    parser.add_argument("--pairs", type=int, default=5, help="of `scaling`")
    parser.add_argument(
        "--gpu_dtype",
        choices=("bfloat16", "float16"),
        default="bfloat16",
        help="ours; the reference has float16",
    )
    parser.add_argument(
        "--gpu_shape", choices=list(SHAPES), default="sd15", help="of the models on the GPU"
    )
    args = parser.parse_args()
    args.work_dir = args.work_dir.resolve()
    path = args.results.with_suffix(".json")
    figures = read_json(path) if path.exists() else {}
    for part in args.parts:
        measured_on, started = machine(), time.monotonic()
        found = PARTS[part](args)
        if found is not None:
            figures[part] = {
                "machine": measured_on,
                "minutes": (time.monotonic() - started) / 60,
                "figures": found,
            }
            write_json(path, figures)
    text = render(read_json(path) if path.exists() else {})
    args.results.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
