"""Which weights of a training are kept: those that did best on validation images. Test images play
no part in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from transformers import TrainerCallback

from sgdmix_hub.files import write_atomically
from sgdmix_hub.runtime.ranks import on_rank_zero
from sgdmix_hub.runtime.stopping import wait_for_file
from sgdmix_hub.seeds import RandomStream, generator
from sgdmix_hub.training.log import TrainingLog

from .accuracy import share_buffers


def hold_out(labels: np.ndarray, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The rows that are kept from training, ascending: of each class the same share, rounded, but
    never all: a function of rows and seed.

    `labels`: int64 (n,); `rows`: int64 (m,), of which int64 (k,) are given back.
    """
    held = []
    for label in np.unique(labels[rows]):
        of_class = rows[labels[rows] == label]
        wanted = min(round(len(of_class) * share), len(of_class) - 1)
        held.append(generator(RandomStream.HOLD_OUT, seed, label).permutation(of_class)[:wanted])
    return np.sort(np.concatenate(held))


class BestWeights(TrainerCallback):
    """Has the Trainer measure every `eval_steps` updates (every epoch when not given) and after the
    last one, and keeps the weights of the highest accuracy, the first of equals.

    Accuracies are in the training's log, which a training that goes on rewinds to its checkpoint;
    beside it lie the weights that were best so far, and those that were best at each checkpoint
    that may still be gone on from.
    """

    def __init__(self, folder: Path, log: TrainingLog, eval_steps: int | None):
        self.folder, self.log, self.eval_steps = folder, log, eval_steps

    def on_step_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        # at a step, not at an epoch's end, which comes after the checkpoint of the same step
        every = self.eval_steps or len(train_dataloader)
        control.should_evaluate = (
            state.global_step % every == 0 or state.global_step == state.max_steps
        )
        if control.should_evaluate:
            share_buffers(model)

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        if not state.is_world_process_zero:
            return
        accuracy = metrics["eval_accuracy"]
        measured = self.measured()
        if not measured or accuracy > max(value for _, value in measured):
            write_atomically(
                self._path(state.global_step), lambda path: save_model(model, str(path))
            )
        self.log.append({"step": state.global_step, "validation_accuracy": accuracy})

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            checkpoints = [
                int(path.name.rpartition("-")[2])
                for path in Path(args.output_dir).glob("checkpoint-*")
            ]
            needed = {
                self._path(step)
                for step in best_steps(self.measured(), [*checkpoints, state.global_step])
            }
            for path in set(self.folder.glob("*.safetensors")) - needed:
                path.unlink()

    def measured(self) -> list[tuple[int, float]]:
        """(step, accuracy on the validation images), in order."""
        return [
            (record["step"], record["validation_accuracy"])
            for record in self.log.records()
            if "validation_accuracy" in record
        ]

    def load_into(self, model: torch.nn.Module) -> dict:
        """Puts the kept weights into the model and says which they are. A collective."""
        measured = on_rank_zero(self.measured)
        (step,) = best_steps(measured, [measured[-1][0]])
        wait_for_file(self._path(step))  # a shared file system may show it late
        load_model(model, self._path(step))
        return {"accuracy": dict(measured)[step], "kept_step": step, "evaluations": len(measured)}

    def _path(self, step: int) -> Path:
        return self.folder / f"{step}.safetensors"


def best_steps(measured: list[tuple[int, float]], moments: list[int]) -> set[int]:
    """The steps whose accuracy was the highest so far at one of the moments (steps too), the first
    of equals.
    """
    known = [[pair for pair in measured if pair[0] <= moment] for moment in moments]
    return {max(pairs, key=lambda pair: pair[1])[0] for pairs in known if pairs}
