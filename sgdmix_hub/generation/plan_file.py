"""What a generation began with, as files of its state folder, each of which is told from a torn or
changed one.

    run.json       settings, pins and environment, with a checksum of its own; written when the run
    begins plan.parquet   the plan
    plan.json      then its record: the plan's sha256, and a copy of run.json; with a checksum of its own

The plan is a pure function of settings and maps: one that was damaged is made again and has to have
the sha256 that was recorded. So no damage to these files costs a finished shard.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import (
    DamagedFile,
    file_sha256,
    made_again,
    read_sealed,
    write_atomically,
    write_sealed,
)
from sgdmix_hub.runtime.ranks import say

RUN, PLAN, RECORD = "run.json", "plan.parquet", "plan.json"


def has_begun(state_folder: Path) -> bool:
    """Whether anything was made that depends on the settings."""
    return (state_folder / PLAN).exists() or (state_folder / RECORD).exists()


def note_run(state_folder: Path, run: dict) -> None:
    """Writes down what a run begins with."""
    write_sealed(state_folder / RUN, run)


def begun_run(state_folder: Path) -> dict:
    """What the run in this folder began with; a damaged run.json is made again from its copy.
    Raises `UserError` without either.
    """
    path, record = state_folder / RUN, state_folder / RECORD
    try:
        return read_sealed(path)
    except (DamagedFile, FileNotFoundError):
        damage = DamagedFile(path)
    try:
        run = read_sealed(record)["run"]
    except (DamagedFile, FileNotFoundError):
        raise UserError(
            f"{path} is torn or was changed, and so is its copy in {record.name}: remove both and {PLAN}, then the same command goes on; "
            "shards of the same plan are kept"
        ) from None
    say(made_again(damage))
    note_run(state_folder, run)
    return run


class PlanFile:
    """`plan.parquet` of a state folder, with its record."""

    def __init__(self, state_folder: Path):
        self.path, self._record = state_folder / PLAN, state_folder / RECORD
        self._expected: str | None = None

    def is_whole(self) -> bool:
        """Whether the plan is there as it was made; where it or its record is not, says so."""
        self._expected, damage = self._stated()
        whole = self.path.exists() and file_sha256(self.path) == self._expected
        if self.path.exists() and not whole and self._expected is not None:
            damage = DamagedFile(self.path)
        if damage is not None:
            say(made_again(damage))
        return whole

    def settle(self) -> bool:
        """Whether there is a plan to go by. A damaged one is removed, so that everybody waits for
        the one that is made again.
        """
        whole = self.is_whole()
        if whole:
            self._note(self._expected)
        else:
            self.path.unlink(missing_ok=True)
        return whole

    def put(self, write: Callable[[Path], None]) -> None:
        """`write(path)` the plan, then its record. Raises `UserError` when it has to be another
        plan's equal, and is not.
        """

        def checked(temporary: Path) -> None:
            write(temporary)
            if self._expected not in (None, file_sha256(temporary)):
                raise UserError(
                    f"{self.path} was damaged, and what is made in its place is another plan (other libraries, other saliency maps?): put "
                    f"back a copy of it, or remove {self._record.name} and shards/ beside it to start over"
                )

        write_atomically(self.path, checked)
        self._note(file_sha256(self.path))

    def _note(self, sha256: str) -> None:
        facts = {"sha256": sha256, "run": begun_run(self.path.parent)}
        try:
            if read_sealed(self._record) == facts:
                return
        except (DamagedFile, FileNotFoundError):
            pass
        write_sealed(self._record, facts)

    def _stated(self) -> tuple[str | None, DamagedFile | None]:
        """The plan's sha256 by its record or, where that is damaged or was never written, by the
        records of shards; and the damage.
        """
        try:
            return read_sealed(self._record)["sha256"], None
        except FileNotFoundError:
            return (self._stated_by_shards() if self.path.exists() else None), None
        except DamagedFile as damage:
            return self._stated_by_shards(), damage

    def _stated_by_shards(self) -> str | None:
        """The plan that all whole records of shards are of, if there is one."""
        stated = set()
        for record in (self.path.parent / "shards").glob("shard-*.json"):
            try:
                stated.add(read_sealed(record)["plan_sha256"])
            except DamagedFile:
                continue
        return stated.pop() if len(stated) == 1 else None
