"""Keeps the weights that are best on validation images; test images play no part."""

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
    """The rows held out for validation, ascending: int64 (k,), a function of rows and seed.

    It is the same rounded share of every class, but never all of it. `labels`: int64 (n,), of the
    split; `rows`: int64 (m,), to choose from.
    """
    held = []
    for label in np.unique(labels[rows]):
        candidates = rows[labels[rows] == label]
        count = min(round(len(candidates) * share), len(candidates) - 1)
        held.append(generator(RandomStream.HOLD_OUT, seed, label).permutation(candidates)[:count])
    return np.sort(np.concatenate(held))


class BestWeights(TrainerCallback):
    """Evaluates during the training and keeps the best weights, the earliest if several are.

    The Trainer evaluates every `eval_steps` updates, by default every epoch, and after the last
    one. Accuracies are in the training's log, which is rewound on resuming. `folder` keeps the best
    weights so far, and the best as of every checkpoint that could still be resumed.
    """

    def __init__(self, folder: Path, log: TrainingLog, eval_steps: int | None):
        self.folder, self.log, self.eval_steps = folder, log, eval_steps

    def on_step_end(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        assert model is not None and train_dataloader is not None
        # not at an epoch's end, which comes after the checkpoint of the same step
        every = self.eval_steps or len(train_dataloader) // args.gradient_accumulation_steps
        control.should_evaluate = (
            state.global_step % every == 0 or state.global_step == state.max_steps
        )
        if control.should_evaluate:
            share_buffers(model)

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        if not state.is_world_process_zero:
            return
        assert model is not None and metrics is not None
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
        """Loads the kept weights into the model; returns their accuracy and step. Collective."""
        measured = on_rank_zero(self.measured)
        (step,) = best_steps(measured, [measured[-1][0]])
        wait_for_file(self._path(step))  # a shared file system may be slow to show it
        load_model(model, self._path(step))
        return {"accuracy": dict(measured)[step], "kept_step": step, "evaluations": len(measured)}

    def _path(self, step: int) -> Path:
        return self.folder / f"{step}.safetensors"


def best_steps(measured: list[tuple[int, float]], moments: list[int]) -> set[int]:
    """The best step as of each moment, a step too; the earliest if several are equally good."""
    histories = [[pair for pair in measured if pair[0] <= moment] for moment in moments]
    return {max(pairs, key=lambda pair: pair[1])[0] for pairs in histories if pairs}
