"""`sgdmix launch --on ENGINE`: the stages of a generation as jobs, each after the one before.

    maps (workers, if asked for) -> plan (1) -> shards (workers) -> finish (1)

The engines are datatrove's executors. A task runs `sgdmix augment --stage ...` as a program; which
shards are done is in the output folder alone, so a launch can be repeated at any time.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgdmix_hub.errors import UserError, one_line, shown
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.storage.places import is_url

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError:
    raise UserError("sgdmix launch needs datatrove: pip install 'sgdmix_hub[engines]'") from None

# engine -> its executor, and the options that it cannot do without
ENGINES = {
    "local": ("datatrove.executor.local:LocalPipelineExecutor", ()),
    "slurm": ("datatrove.executor.slurm:SlurmPipelineExecutor", ("time", "partition")),
    "ray": ("datatrove.executor.ray:RayPipelineExecutor", ()),
    "jobs": ("datatrove.executor.jobs:JobsPipelineExecutor", ("flavor",)),
}
OF_STAGES = ("stage", "rank", "world_size", "push_to_hub", "dry_run")


class AugmentStage(PipelineStep):
    """One task of a stage: `sgdmix augment` with its rank, in a process of its own."""

    name = "sgdmix augment"
    type = "SGD-Mix"

    def __init__(self, stage: str, words: list[str]):
        super().__init__()
        self.stage, self.words = stage, words

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Raises `RuntimeError` if the program fails; it has said why."""
        command = [sys.executable, "-m", "sgdmix_hub.augment", *self.words, "--stage", self.stage]
        if world_size > 1:
            command += ["--rank", str(rank), "--world_size", str(world_size)]
        code = subprocess.run(command).returncode
        if code:
            raise RuntimeError(f"sgdmix augment --stage {self.stage} ended with exit code {code}")
        return data


def stages(workers: int, map_workers: int) -> Iterator[tuple[str, int]]:
    """The stages in their order, each with its number of tasks."""
    if map_workers:
        yield "maps", map_workers
    yield "plan", 1
    yield "shards", workers
    yield "finish", 1


def executors(
    engine: str, words: list[str], tasks: Iterator[tuple[str, int]], options: dict, logs: str
) -> Any:
    """The executor of the last stage, which launches those that it depends on first.

    Raises `UserError`.
    """
    place, needed = ENGINES[engine]
    missing = [name for name in needed if name not in options]
    if missing:
        raise UserError(f"{engine} needs --option {missing[0]}=...")
    module, _, name = place.partition(":")
    executor_class, last = getattr(importlib.import_module(module), name), None
    for stage, count in tasks:
        try:
            last = executor_class(
                pipeline=[AugmentStage(stage, words)],
                tasks=count,
                depends=last,
                logging_dir=f"{logs}/{stage}",
                skip_completed=False,  # records in the output folder tell what is done
                **options,
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{engine}: {one_line(str(error))}") from error
    return last


def option(text: str) -> tuple[str, str | int]:
    """`name=value`, for the engine's executor. Raises `UserError`."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"option {shown(text)}: give it as name=value")
    return name, int(value) if value.isdecimal() else value


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, AugmentSettings, list[str]]:
    """The engine's arguments, the generation's settings, and the words that gave them. Raises
    `UserError`.
    """
    parser = argparse.ArgumentParser(
        prog="sgdmix launch",
        allow_abbrev=False,
        description="Launches a generation as jobs: maps, plan, shards, finish. All other words "
        "are those of sgdmix augment.",
    )
    parser.add_argument("--on", choices=list(ENGINES), required=True, help="the engine")
    parser.add_argument("--workers", type=int, required=True, help="tasks that make shards")
    parser.add_argument(
        "--map_workers", type=int, default=0, help="tasks that make saliency maps before the plan"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of datatrove's executor, for every stage: time=20:00:00, "
        "partition=gpu, gpus_per_task=1, flavor=l4x1",
    )
    known, words = parser.parse_known_args(argv)
    if known.workers < 1 or known.map_workers < 0:
        raise UserError("workers must be at least 1, map_workers at least 0")
    settings = parse_settings(AugmentSettings, words)
    default = {name: AugmentSettings.__dataclass_fields__[name].default for name in OF_STAGES}
    given = [name for name, value in default.items() if getattr(settings, name) != value]
    if given:
        raise UserError(f"leave {given[0]} out: a launch does all stages; publish when it is done")
    return known, settings, words


def main(argv: list[str]) -> None:
    """Launches a generation. Raises `UserError` on mistakes, before anything is started."""
    known, settings, words = parse_args(argv)
    place = settings.output_dir.rstrip("/")
    if not is_url(place):
        place = str(Path(place).resolve())
    executor = executors(
        known.on,
        words,
        stages(known.workers, known.map_workers),
        dict(map(option, known.option)),
        f"{place}/state/engine",
    )
    executor.run()
