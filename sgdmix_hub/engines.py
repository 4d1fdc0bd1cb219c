"""`sgdmix launch --on ENGINE`: the stages of a generation as jobs, each after the one before.

    maps (workers, if asked for) -> plan (1) -> shards (workers) -> finish (1)

The engines are datatrove's executors. A task runs `sgdmix augment --stage ...` as a program; which
shards are done is in the output folder alone, so a launch can be repeated at any time. A worker may
fail: the others make its share, and the stage after it refuses to go on if something is missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgdmix_hub.errors import UserError, first_line, one_line, shown
from sgdmix_hub.settings.fetched import is_fetched
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings, take_config
from sgdmix_hub.settings.stages import WORKERS
from sgdmix_hub.storage.places import is_url

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError:
    raise UserError("sgdmix launch needs datatrove: pip install 'sgdmix_hub[engines]'") from None


@dataclass(frozen=True)
class Engine:
    """An executor of datatrove, as `module:class`, and the options that it cannot do without.

    `has_names`: its jobs have names. `is_queue`: takes all stages at once and starts each after the
    one before; the others run one stage and return. `is_remote`: its tasks see no disk of this
    machine.
    """

    executor: str
    needed: tuple[str, ...] = ()
    has_names: bool = False
    is_queue: bool = False
    is_remote: bool = False


ENGINES = {
    "local": Engine("datatrove.executor.local:LocalPipelineExecutor"),
    "slurm": Engine(
        "datatrove.executor.slurm:SlurmPipelineExecutor",
        ("time", "partition"),
        has_names=True,
        is_queue=True,
    ),
    "ray": Engine("datatrove.executor.ray:RayPipelineExecutor"),
    "jobs": Engine(
        "datatrove.executor.jobs:JobsPipelineExecutor",
        ("flavor", "dependencies"),
        has_names=True,
        is_remote=True,
    ),
}
OF_STAGES = ("stage", "rank", "world_size", "push_to_hub", "dry_run")
# What the client of a store reads from the environment: tasks elsewhere get it as secrets.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
)


class AugmentStage(PipelineStep):
    """One task of a stage: `sgdmix augment` with its rank, in a process of its own.

    `config`: the text of the local configuration file, which the task's machine may not have.
    """

    name = "sgdmix augment"
    type = "SGD-Mix"

    def __init__(self, stage: str, words: list[str], config: str | None = None):
        super().__init__()
        self.stage, self.words, self.config = stage, words, config

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Raises `RuntimeError` if the program fails; it has said why."""
        command = [sys.executable, "-m", "sgdmix_hub.augment", *self.words, "--stage", self.stage]
        if world_size > 1:
            command += ["--rank", str(rank), "--world_size", str(world_size)]
        with tempfile.TemporaryDirectory() as folder:
            if self.config is not None:
                path = Path(folder) / "generate.yaml"
                path.write_text(self.config, encoding="utf-8")
                command += ["--config", str(path)]
            code = subprocess.run(command).returncode
        if code:
            raise RuntimeError(f"sgdmix augment --stage {self.stage} ended with exit code {code}")
        return data


def stages(workers: int, map_workers: int) -> list[tuple[str, int]]:
    """The stages in their order, each with its number of tasks."""
    maps = [("maps", map_workers)] if map_workers else []
    return [*maps, ("plan", 1), ("shards", workers), ("finish", 1)]


def executors(
    name: str,
    words: list[str],
    config: str | None,
    tasks: list[tuple[str, int]],
    options: dict[str, Any],
    logs: str,
) -> dict[str, Any]:
    """The executor of every stage, by its name. `config`: as in `AugmentStage`. Raises `UserError`.

    `logs`: a new folder, since the engines take marks of an earlier launch for this one's.
    """
    engine = ENGINES[name]
    missing = [option for option in engine.needed if option not in options]
    if missing:
        raise UserError(f"{name} needs --option {missing[0]}=...")
    module, _, class_name = engine.executor.partition(":")
    executor_class = getattr(importlib.import_module(module), class_name)
    found: dict[str, Any] = {}
    for stage, count in tasks:
        more: dict[str, Any] = {"job_name": f"sgdmix-{stage}"} if engine.has_names else {}
        if engine.is_queue and found:
            before = list(found)[-1]
            more |= {"depends": found[before], "run_on_dependency_fail": before in WORKERS}
        if engine.is_remote:
            more["secrets"] = {key: os.environ[key] for key in CREDENTIALS if key in os.environ}
        try:
            found[stage] = executor_class(
                pipeline=[AugmentStage(stage, words, config)],
                tasks=count,
                logging_dir=f"{logs}/{stage}",
                skip_completed=False,  # records in the output folder tell what is done
                **more | options,
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {one_line(str(error))}") from error
    return found


def run(name: str, found: dict[str, Any], logs: str) -> None:
    """Runs the stages, or queues them. Raises `UserError` if the engine fails, or a stage of which
    nobody else makes what is missing.
    """
    for stage, executor in found.items():
        if ENGINES[name].is_queue and stage != list(found)[-1]:
            continue  # launched by the last one
        try:
            executor.run()
            failed = not ENGINES[name].is_queue and bool(
                executor.get_incomplete_ranks(skip_completed=True)
            )
            why = "see what its program said"
        except Exception as error:  # the engines raise what their tasks raise, or wrap it
            failed, why = True, one_line(first_line(error))
        if failed and stage not in WORKERS:
            raise UserError(
                f"{name}: stage {stage} failed ({why}): logs are in {shown(logs)}; the same "
                "command again does what is left"
            )


def option(text: str) -> tuple[str, Any]:
    """`name=value`, for the engine's executor; a value in JSON is what it says, any other one is
    text. Raises `UserError`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError("an option of the engine is given as --option name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


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
        'partition=gpu, gpus_per_task=1, flavor=l4x1, sbatch_args={"account": "birds"}',
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
        if ENGINES[known.on].is_remote:
            raise UserError(f"{known.on} needs an output_dir in a store, such as s3://bucket/run")
        place = str(Path(place).resolve())
        words = [*words, "--output_dir", place]
    location, words = take_config(words)
    config = None
    if location is not None and (is_url(location) or is_fetched(location)):
        words = [*words, "--config", location]
    elif location is not None:
        config = Path(location).read_text(encoding="utf-8")
    tasks = stages(known.workers, known.map_workers)
    options = dict(map(option, known.option))
    logs = f"{place}/state/engine/{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    run(known.on, executors(known.on, words, config, tasks, options, logs), logs)
