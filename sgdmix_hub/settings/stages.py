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
        "what to do of a generation: all, or one part of it, on several machines without a common "
        "disk: plan, shards, finish; any number of workers do shards, and may do maps before the "
        "plan and the published files before finish",
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
        "into how many shares the work is cut; a worker takes its own first, then what is left",
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
        if self.rank >= self.world_size:
            raise UserError(
                f"rank {self.rank} needs a world_size above it: ranks are 0 ... world_size - 1"
            )
        if self.world_size > 1 and self.stage not in WORKERS:
            raise UserError(
                "rank and world_size are for --stage maps, --stage shards and --stage files: plan "
                "and finish are one worker's, and the processes of a launch have their own ranks"
            )
