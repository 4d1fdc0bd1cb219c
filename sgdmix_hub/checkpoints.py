"""Checkpoints of an adapter's training: what is trained, the optimizer, the schedule, and the step, so that it truly goes on.

    step-0000500/    accelerate's files; trained.safetensors; training.json, which says what is being trained and how far it is

A checkpoint is written under another name and renamed: the newest one is always whole. Samples are functions of their numbers (samples.py),
so the step is all there is to know of the position in the data.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from .errors import UserError
from .files import read_json, write_json
from .processes import different_facts

RECORD, TRAINED = "training.json", "trained.safetensors"


class Checkpoints:
    """The checkpoints of one training, in one folder."""

    def __init__(self, folder: Path, accelerator: Accelerator, trained: dict[str, torch.nn.Parameter], facts: dict, limit: int):
        """`trained`: the parameters by name; `facts`: what is being trained, which a checkpoint must share to be gone on from."""
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
            write_json(working / RECORD, {"step": step, **self.facts})
            shutil.rmtree(finished, ignore_errors=True)
            working.rename(finished)
            for old in self._all()[: -self.limit]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def restore(self, which: str) -> int:
        """Goes on from `latest`, which may be none, or from a checkpoint's folder; returns the steps that are done. `none` removes them
        and starts over. A collective.

        Raises `UserError` for a checkpoint of another training, and for a folder that is none.
        """
        if which == "none" and self.accelerator.is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)  # they may be another training's, and newer than those to come
        self.accelerator.wait_for_everyone()
        found = self._all()[-1:] if which in ("latest", "none") else [Path(which)]
        if not found:
            return 0
        if not (found[0] / RECORD).is_file():
            raise UserError(f"{which} is no checkpoint: give latest, none, or a folder like {self.folder / 'step-0000500'}")
        record = read_json(found[0] / RECORD)
        different = different_facts(record, self.facts)
        if different:
            raise UserError(
                f"{found[0]} is a checkpoint of another training ({', '.join(different)} differ): "
                "start over with --resume_from_checkpoint none, or choose another --output_dir"
            )
        self.accelerator.load_state(found[0])
        return record["step"]

    def _all(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if (path / RECORD).is_file())

    def _save_trained(self, models: list, weights: list, folder: str) -> None:
        """In place of the whole model, what is trained."""
        weights.clear()
        if self.accelerator.is_main_process:
            tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self.trained.items()}
            save_file(tensors, Path(folder) / TRAINED)

    def _load_trained(self, models: list, folder: str) -> None:
        models.clear()
        with torch.no_grad():
            for name, tensor in load_file(Path(folder) / TRAINED).items():
                self.trained[name].copy_(tensor)
