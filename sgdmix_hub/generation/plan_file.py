"""What a generation began with, as three files in `state/`. Damage to any of them is detected.

    run.json       settings, pins and environment; sealed; written when the run begins
    plan.parquet   the plan
    plan.json      its record: the plan's sha256 and a copy of run.json; sealed; written last

The plan is a pure function of settings and maps. A damaged plan is made again and must have the
recorded sha256. So damage to these files never costs a finished shard.
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
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.storage.stores import HERE, Store

RUN, PLAN, RECORD = "run.json", "plan.parquet", "plan.json"


def has_begun(state_folder: Path) -> bool:
    """Whether anything was made that depends on the settings."""
    return (state_folder / PLAN).exists() or (state_folder / RECORD).exists()


def note_run(state_folder: Path, run: dict) -> None:
    """Records what a run begins with."""
    write_sealed(state_folder / RUN, run)


def bring_run(state_folder: Path, store: Store) -> bool:
    """Brings what a run began with from its store. Returns whether it has a plan."""
    store.bring(state_folder / RUN)
    return store.bring(state_folder / RECORD)


def begun_run(state_folder: Path) -> dict:
    """What the run in this folder began with. A damaged run.json is restored from its copy.

    Raises `UserError` if both are damaged.
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
            f"{path} and its copy in {record.name} are torn or were changed: remove both and "
            f"{PLAN}, then run the same command, in stages that with --stage plan; shards of the "
            "same plan are kept"
        ) from None
    say(made_again(damage))
    note_run(state_folder, run)
    return run


class PlanFile:
    """`plan.parquet` of an output folder, with its record."""

    def __init__(self, output: OutputFolder, store: Store = HERE):
        self._store = store
        self.path, self._record = output.state / PLAN, output.state / RECORD
        self._shards = output.shards
        self._expected: str | None = None

    def is_whole(self) -> bool:
        """Whether the plan is there, as it was made. Reports damage to the plan or its record."""
        self._store.bring_all((self.path, self._record))
        self._expected, damage = self._recorded()
        whole = self.path.exists() and file_sha256(self.path) == self._expected
        if self.path.exists() and not whole and self._expected is not None:
            damage = DamagedFile(self.path)
        if damage is not None:
            say(damage.what)  # not every stage makes it again
        return whole

    def settle(self) -> bool:
        """Whether the plan is usable. A damaged one is removed, so all ranks wait for a new one."""
        whole = self.is_whole()
        if whole:
            self._write_record()
        else:
            self.path.unlink(missing_ok=True)
        return whole

    def put(self, write: Callable[[Path], None]) -> None:
        """`write(path)` the plan, then its record.

        Raises `UserError` if it replaces a damaged plan and differs from it.
        """

        def checked(temporary: Path) -> None:
            write(temporary)
            if self._expected not in (None, file_sha256(temporary)):
                raise UserError(
                    f"{self.path} was damaged, and its replacement is another plan (other "
                    "libraries, other saliency maps?): put back a copy of it, or remove "
                    f"{self._record.name} and shards/ beside it to start over"
                )

        write_atomically(self.path, checked)
        self._store.keep(self.path)
        self._write_record()

    def _write_record(self) -> None:
        facts = {"sha256": file_sha256(self.path), "run": begun_run(self.path.parent)}
        try:
            if read_sealed(self._record) == facts:
                return
        except (DamagedFile, FileNotFoundError):
            pass
        write_sealed(self._record, facts)
        self._store.keep(self._record)

    def _recorded(self) -> tuple[str | None, DamagedFile | None]:
        """The plan's recorded sha256, and the damage to the record if any.

        Without a readable record, the records of shards tell the sha256.
        """
        try:
            return read_sealed(self._record)["sha256"], None
        except FileNotFoundError:
            return (self._recorded_by_shards() if self.path.exists() else None), None
        except DamagedFile as damage:
            return self._recorded_by_shards(), damage

    def _recorded_by_shards(self) -> str | None:
        """The plan that all intact shard records name, if it is the same."""
        plans = set()
        for record in self._shards.rglob("shard-*.json"):
            try:
                plans.add(read_sealed(record)["plan_sha256"])
            except DamagedFile:
                continue
        return plans.pop() if len(plans) == 1 else None
