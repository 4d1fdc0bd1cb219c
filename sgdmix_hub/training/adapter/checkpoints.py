"""Checkpoints of an adapter's training: what is trained, the optimizer, the schedule, and the step,
so that it truly goes on.

    step-0000500/    accelerate's files; trained.safetensors; training.json, which says what is being trained and how far it is

A checkpoint is written under another name and renamed, and its record holds the checksums of its
files: one that was torn or changed since is named, and the one before it taken. Samples are
functions of their numbers (samples.py), so the step is all there is to know of the position in the
data.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import DamagedFile, file_sha256, read_sealed, sync, sync_entry, write_sealed
from sgdmix_hub.runtime.ranks import on_rank_zero, say
from sgdmix_hub.training.resume import different_facts

RECORD, TRAINED = "training.json", "trained.safetensors"
OF_ONE_RANK = (
    "rng_state_"  # files that other ranks may still be writing when rank 0 records a checkpoint
)


def seal_folder(folder: Path, record: str, facts: dict) -> None:
    """Puts a checkpoint's files on the disk, then its record, which is its done-marker: `facts`,
    and the sha256 of every file.
    """
    sync(folder)
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((OF_ONE_RANK, "."))
    ]
    write_sealed(
        folder / record,
        facts
        | {"files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}},
    )


def read_record(folder: Path, record: str) -> dict:
    """A checkpoint's record. Raises `DamagedFile` where it, or a file that it names, is torn or was
    changed.
    """
    facts = read_sealed(folder / record)
    for name, sha256 in facts["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DamagedFile(folder / name)
    return facts


def newest_whole(folders: list[Path], record: str) -> Path | None:
    """The last of some checkpoints, oldest first, that is as it was written; says which are not."""
    for folder in reversed(folders):
        try:
            read_record(folder, record)
        except DamagedFile as damage:
            say(
                f"{damage.path} is torn or was changed since it was written: going on without this checkpoint"
            )
            continue
        return folder
    return None


class Checkpoints:
    """The checkpoints of one training, in one folder."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        trained: dict[str, torch.nn.Parameter],
        facts: dict,
        limit: int,
    ):
        """`trained`: the parameters by name; `facts`: what is being trained, which a checkpoint
        must share to be gone on from.
        """
        self.folder, self.accelerator, self.facts, self.limit = folder, accelerator, facts, limit
        self.trained = trained
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, step: int) -> None:
        """Writes the checkpoint of a step and removes the oldest ones. A collective."""
        finished = self.folder / f"step-{step:07d}"
        working = self.folder / f".{finished.name}"
        if self.accelerator.is_main_process:
            shutil.rmtree(working, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(working)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            seal_folder(working, RECORD, {"step": step, **self.facts})
            shutil.rmtree(finished, ignore_errors=True)
            working.rename(finished)
            sync_entry(self.folder)
            for old in self._all()[: -self.limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def restore(self, which: str) -> int:
        """Goes on from `latest`, the newest whole one, which may be none, or from a checkpoint's
        folder; returns the steps that are done. `none` removes them and starts over. A collective.

        Raises `UserError` for a checkpoint of another training, and for a folder that is none.
        """
        if which == "none" and self.accelerator.is_main_process:
            shutil.rmtree(
                self.folder, ignore_errors=True
            )  # they may be another training's, and newer than those to come
        self.accelerator.wait_for_everyone()
        found = on_rank_zero(
            lambda: (
                newest_whole(self._all(), RECORD) if which in ("latest", "none") else Path(which)
            )
        )
        if found is None:
            return 0
        if not (found / RECORD).is_file():
            raise UserError(
                f"{which} is no checkpoint: give latest, none, or a folder like {self.folder / 'step-0000500'}"
            )
        record = on_rank_zero(lambda: _named(found))
        different = different_facts(record, self.facts)
        if different:
            raise UserError(
                f"{found} is a checkpoint of another training ({', '.join(different)} differ): "
                "start over with --resume_from_checkpoint none, or choose another --output_dir"
            )
        self.accelerator.load_state(found)
        return record["step"]

    def _all(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if (path / RECORD).is_file())

    def _save_trained(self, models: list, weights: list, folder: str) -> None:
        """In place of the whole model, what is trained."""
        weights.clear()
        if self.accelerator.is_main_process:
            tensors = {
                name: parameter.detach().cpu().contiguous()
                for name, parameter in self.trained.items()
            }
            save_file(tensors, Path(folder) / TRAINED)

    def _load_trained(self, models: list, folder: str) -> None:
        models.clear()
        with torch.no_grad():
            for name, tensor in load_file(Path(folder) / TRAINED).items():
                self.trained[name].copy_(tensor)


def _named(folder: Path) -> dict:
    """The record of the checkpoint that was asked for. Raises `UserError`."""
    try:
        return read_record(folder, RECORD)
    except DamagedFile as damage:
        raise UserError(
            f"{damage.path} is torn or was changed since it was written: give another checkpoint, latest or none"
        ) from None
