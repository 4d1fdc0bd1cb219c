"""Settings of a generation that is divided between machines without a common disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError
from sgdmix_hub.output_folder import ERROR

from .fields import Checked, setting

WORKERS = ("maps", "shards", "files")  # stages of any number of workers


@dataclass(kw_only=True)
class StageSettings(Checked):
    """Which part of a generation a program does, and as which of several workers."""

    stage: Literal["all", "maps", "plan", "shards", "files", "finish"] = setting(
        "all",
        "part of the generation to do. On several machines without a common disk: plan on one, "
        "shards on any number, finish on one; also in parallel: maps before plan, files before "
        "finish",
        changes="nothing",
    )
    rank: int = setting(
        0,
        "number of this worker, from 0, with --stage maps, shards or files",
        changes="nothing",
        at_least=0,
        at_most=10**6,
    )
    world_size: int = setting(
        1,
        "number of workers; each does its own share first, then helps with what is left",
        changes="nothing",
        at_least=1,
        at_most=10**6,
    )

    @property
    def error_name(self) -> str:
        """The name of the file in `state/` that says why this program failed. A worker has its own:
        the others of a shared folder go on.
        """
        return f"error-{self.stage}-{self.rank}.json" if self.stage in WORKERS else ERROR

    def validate_stage(self) -> None:
        """Raises `UserError` for a worker's number where there are no workers."""
        stages = "--stage maps, --stage shards and --stage files"
        check_worker(self.rank, self.world_size, self.stage in WORKERS, stages)


def check_worker(rank: int, world_size: int, is_worker: bool, stages: str) -> None:
    """Raises `UserError` for a worker's number where there are no workers. `stages`: which have
    some.
    """
    if rank >= world_size:
        raise UserError(f"rank {rank} needs a world_size above it: ranks are 0 ... world_size - 1")
    if world_size > 1 and not is_worker:
        raise UserError(
            f"rank and world_size are for {stages}: every other stage is done by one worker, and "
            "the processes of a launch have their own ranks"
        )
