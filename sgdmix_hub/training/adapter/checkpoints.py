"""Checkpoints of an adapter's training: trained weights, optimizer, schedule and step.

    step-0000500/
        accelerate's files
        trained.safetensors
        training.json            what is trained, the step, the checksums of all files

A checkpoint is written under another name and renamed when it is complete. A damaged one is
reported, and the one before it is used. Samples are functions of their numbers (dataset.py), so the
step alone gives the position in the data.
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
OF_ONE_RANK = "rng_state_"  # other ranks may still be writing these when rank 0 seals a folder


def seal_folder(folder: Path, record: str, facts: dict) -> None:
    """Syncs a checkpoint's files to disk, then writes its record, the done-marker.

    The record holds `facts` and the sha256 of every file.
    """
    sync(folder)
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((OF_ONE_RANK, "."))
    ]
    checksums = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    write_sealed(folder / record, facts | {"files": checksums})


def read_record(folder: Path, record: str) -> dict:
    """A checkpoint's record. Raises `DamagedFile` if it, or a file it lists, is damaged."""
    facts = read_sealed(folder / record)
    for name, sha256 in facts["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DamagedFile(folder / name)
    return facts


def newest_whole(folders: list[Path], record: str) -> Path | None:
    """The newest undamaged checkpoint of `folders`, oldest first; prints which are damaged."""
    for folder in reversed(folders):
        try:
            read_record(folder, record)
        except DamagedFile as damage:
            say(f"{damage.path} is damaged: resuming from an older checkpoint, if there is one")
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
        """`trained`: the parameters by name. `facts`: identity of the training run; a checkpoint is
        resumed only if it matches. `limit`: how many checkpoints are kept.
        """
        self.folder, self.accelerator, self.facts, self.limit = folder, accelerator, facts, limit
        self.trained = trained
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, step: int) -> None:
        """Writes the checkpoint of a step and removes the oldest ones. Collective."""
        finished = self.folder / f"step-{step:07d}"
        working = self.folder / f".{finished.name}"
        if self.accelerator.is_main_process:
            shutil.rmtree(working, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(working))
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
        """Loads a checkpoint and returns its step; 0 if there is none. Collective.

        `which`: `latest`, the newest undamaged one; a checkpoint's folder; or `none`, which removes
        all checkpoints. Raises `UserError` if it is no checkpoint, or one of another training.
        """
        if which == "none" and self.accelerator.is_main_process:
            # old ones may be of another training, and have higher steps than the new ones
            shutil.rmtree(self.folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        newest = which in ("latest", "none")
        folder = on_rank_zero(lambda: newest_whole(self._all(), RECORD) if newest else Path(which))
        if folder is None:
            return 0
        if not (folder / RECORD).is_file():
            raise UserError(
                f"{which} is not a checkpoint: "
                f"give latest, none, or a folder like {self.folder / 'step-0000500'}"
            )
        record = on_rank_zero(lambda: _read_chosen(folder))
        different = different_facts(record, self.facts)
        if different:
            raise UserError(
                f"{folder} is a checkpoint of another training (other {', '.join(different)}): "
                "start over with --resume_from_checkpoint none, or choose another --output_dir"
            )
        self.accelerator.load_state(str(folder))
        return record["step"]

    def _all(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if (path / RECORD).is_file())

    def _save_trained(self, models: list, weights: list, folder: str) -> None:
        """Saves the trained parameters instead of the whole model."""
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


def _read_chosen(folder: Path) -> dict:
    """The record of the checkpoint that the user chose. Raises `UserError`."""
    try:
        return read_record(folder, RECORD)
    except DamagedFile as damage:
        raise UserError(
            f"{damage.path} is damaged: give another checkpoint, latest or none"
        ) from None
