"""The samplers of the benchmark: ours, one written like other papers' code, and a convolution.

A sampler loads and warms up when it is made; `run()` makes its rows, `mean_pixel()` is of the
images of the last run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import parts.generation.data as data
import pyarrow.parquet as pq
import torch
from parts.generation.clock import Clock
from PIL import Image

from sgdmix_hub.data.splits import decode_image
from sgdmix_hub.errors import Unusable
from sgdmix_hub.generation import worker as flow
from sgdmix_hub.generation.inputs import environment, resolve_inputs
from sgdmix_hub.generation.plan import PlanRow, make_plan, table_of, write_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.models.adapters import load_into
from sgdmix_hub.models.bases.loading import load_base
from sgdmix_hub.publishing.layout import shard_features
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

STRENGTH, STEPS, GUIDANCE = 0.7, 25, 7.5
CONVOLUTIONS_A_ROW = 10  # so that a run of either takes about as long
WAITING, HANDING_OVER = "waiting for mixtures", "handing over, writing"
UNET, ENCODING, DECODING, SAMPLER, FINISHING = (
    "UNet",
    "VAE encode",
    "VAE decode",
    "sampler around the UNet",
    "pasting",
)
MODEL = (UNET, ENCODING, DECODING)


@dataclass(frozen=True)
class Task:
    """What a sampler is to do; two with another `rank` make other rows."""

    work_dir: Path
    rows: int
    rank: int = 0
    preset: str = "paper"
    shape: str = data.TINY
    batch_size: int = 8
    dtype: str = "float32"
    compiled: bool = False

    @property
    def settings(self) -> AugmentSettings:
        # the paper's Grad-CAM would need a classifier, and maps are made before anything is timed
        method = {"preset": self.preset} | (
            {"saliency_method": "spectral-residual"} if self.preset == "paper" else {}
        )
        return apply_preset(
            AugmentSettings(
                dataset_name=str(data.birds(self.work_dir)),
                output_dir=str(self.work_dir / f"samplers-{self.preset}"),
                adapter=str(data.birds_adapter(self.work_dir, self.shape)),
                pretrained_model_name_or_path=str(data.base(self.work_dir, self.shape)),
                strength=STRENGTH,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                scheduler=data.scheduler_of(self.shape),
                batch_size=self.batch_size,
                compile=self.compiled,
                dtype=self.dtype,
                resolution=data.resolution_of(self.shape),
                image_format="png",  # as the sampler that it is compared with
                **method,
            )
        )


def planned(task: Task, device: torch.device) -> tuple[RowMaker, list[PlanRow]]:
    """A maker, and rows for a first batch and a run."""
    settings = task.settings
    inputs = resolve_inputs(settings, Path(settings.output_dir) / "state")
    maps = compute_maps(settings, inputs.split, inputs.classifier, 0, 1, device)
    plan = list(make_plan(settings, inputs.split, maps))
    wanted = task.batch_size + task.rows
    maker, rows = RowMaker(settings, inputs, maps), []
    for position in range(task.rank * wanted, task.rank * wanted + len(plan)):
        row = plan[position % len(plan)]
        if not isinstance(maker.mixture_or_reason(row), Unusable):
            rows.append(row)
        if len(rows) == wanted:
            break
    return maker, rows


class Ours:
    """The library's flow as it is, shards written and all."""

    def __init__(self, task: Task, device: torch.device, folder: Path):
        self.maker, rows = planned(task, device)
        self.rows = rows[task.batch_size :]
        self.maker.load_refiner(device)
        self.schema = shard_features(
            self.maker.inputs.split.class_names, self.maker.settings.more_columns
        ).arrow_schema
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(folder / "plan.parquet", [table_of(self.rows)])
        self.shards = Shards(
            folder / "shards", folder / "plan.parquet", self.maker.settings.rows_per_shard
        )
        self._make([(0, rows[: task.batch_size])])
        self.clock = Clock(torch.cuda.synchronize if device.type == "cuda" else lambda: None)
        self._set_clock()

    def run(self) -> int:
        self.maker.masked_image.cache_clear()
        self._make((number, self.shards.rows(number)) for number in range(len(self.shards)))
        return sum(self.shards.record(number)["rows"] for number in range(len(self.shards)))

    def _make(self, shards: Iterable[tuple[int, list[PlanRow]]]) -> None:
        settings = self.maker.settings

        def write(number: int, rows: list[dict], skipped: list[dict], seconds: float) -> None:
            self.shards.write(
                number,
                rows,
                self.schema,
                {"skipped": skipped, "seconds": seconds, "environment": environment(settings)},
            )

        flow.make_shards(self.maker, shards, settings.num_workers, write, lambda rows: None)

    def _set_clock(self) -> None:
        """Wraps what the main thread calls; the mixing threads call none of it."""
        pipeline, timed = self.maker.pipeline, self.clock.timed
        refiner = pipeline.refiner
        unet, vae = refiner.denoiser, refiner.pipeline.vae
        # around the compiled call where there is one: what is compiled must not change
        unet._compiled_call_impl = timed(UNET, unet._compiled_call_impl or unet._call_impl)
        vae.encode, vae.decode = timed(ENCODING, vae.encode), timed(DECODING, vae.decode)
        refiner.refine = timed(SAMPLER, refiner.refine)
        pipeline.finish = timed(FINISHING, pipeline.finish)
        ahead = flow.computed_ahead
        flow.computed_ahead = lambda *args: self.clock.waited_for(WAITING, ahead(*args))

    def mean_pixel(self) -> float:
        tables = [
            pq.read_table(self.shards.path(number), columns=["image"])
            for number in range(len(self.shards))
        ]
        return float(
            np.mean(
                [
                    np.asarray(decode_image(cell))
                    for table in tables
                    for cell in table["image"].to_pylist()
                ]
            )
        )


class Reference:
    """The same rows as other papers' scripts make theirs.

    One image per call of the stock pipeline, the adapter beside the weights, the prompt as a string
    every time, eager, on a GPU fp16 (bf16 where the base has no fp16) under autocast, each PNG
    saved before the next image.
    """

    def __init__(self, task: Task, device: torch.device, folder: Path):
        self.maker, rows = planned(task, device)
        self.folder, self.settings, self.rows = folder, self.maker.settings, rows[task.batch_size :]
        torch.backends.cudnn.deterministic = False  # theirs need not be repeatable
        on_gpu = device.type == "cuda"
        half = getattr(torch, data.half_of(task.shape))
        dtype = half if on_gpu else torch.float32
        self.autocast: Callable = (lambda: torch.autocast("cuda", dtype)) if on_gpu else nullcontext
        base = load_base(self.maker.inputs.base, dtype, "image_to_image")
        base.use_scheduler(self.settings.scheduler)
        self.family, self.pipeline = base.family, base.pipeline.to(device)
        load_into(base, self.maker.inputs.adapter)
        self.pipeline.set_progress_bar_config(disable=True)
        self._make(rows[0])

    def run(self) -> int:
        self.maker.masked_image.cache_clear()
        for row in self.rows:
            self._make(row)
        return len(self.rows)

    def _make(self, row: PlanRow) -> None:
        mixture = self.maker.mixture(row)
        pixels = torch.from_numpy(mixture.mixed).permute(2, 0, 1)[None]
        guidance = self.settings.guidance_scale
        with self.autocast():
            image = self.pipeline(
                prompt=self.family.call_text(self.pipeline, self.maker.prompt(row)),
                image=Image.fromarray(mixture.mixed),
                strength=row.strength,
                num_inference_steps=self.settings.num_inference_steps,
                generator=torch.Generator("cpu").manual_seed(row.seed),
                **self.family.call_options(self.pipeline, guidance, pixels),
            ).images[0]
        image.save(self._path(row))

    def _path(self, row: PlanRow) -> Path:
        return self.folder / self.maker.image_name(row)

    def mean_pixel(self) -> float:
        return float(np.mean([np.asarray(Image.open(self._path(row))) for row in self.rows]))


class Convolution:
    """Plain convolutions: what the machine itself gains from two processes.

    A row is as many convolutions as take about a row's time.
    """

    def __init__(self, task: Task, device: torch.device, folder: Path):
        torch.manual_seed(0)
        self.rows = task.rows
        self.layer = torch.nn.Conv2d(96, 96, 3, padding=1).to(memory_format=torch.channels_last)
        self.inputs = torch.randn(16, 96, 16, 16).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def run(self) -> int:
        for _ in range(self.rows * CONVOLUTIONS_A_ROW):
            output = self.layer(self.inputs)
        self.output = output
        return self.rows

    def mean_pixel(self) -> float:
        return float(self.output.mean())


SAMPLERS = {"ours": Ours, "reference": Reference, "convolution": Convolution}
