"""transformers' Trainer as this package uses it: the samples of a step, one progress bar, safe
checkpoints.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import ProgressCallback, Trainer, TrainingArguments

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import DamagedFile, read_sealed, write_sealed
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.training.adapter.checkpoints import newest_whole, seal_folder
from sgdmix_hub.training.dropout import use_sample_dropout
from sgdmix_hub.training.log import TrainingLog
from sgdmix_hub.training.precision import precision_of
from sgdmix_hub.training.resume import different_facts
from sgdmix_hub.training.share import Share

from .dataset import TrainingImages

SEALED = "sealed.json"  # a checkpoint's record, written last


class SampleTrainer(Trainer):
    """A Trainer whose dropout belongs to the samples, and that shows `TrainingImages` in their own
    order: batch by batch of the total batch, each process the ones of its `Share`.
    """

    def __init__(self, model: torch.nn.Module, **options: Any):
        super().__init__(model, **options)
        self.dropout = use_sample_dropout(model)

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            cast(Any, self.train_dataset),
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def compute_loss(self, model, inputs, *args, **options):
        inputs = dict(inputs)
        samples = inputs.pop("sample", None)  # evaluation images have none
        self.dropout.rows = [] if samples is None else samples.tolist()
        return super().compute_loss(model, inputs, *args, **options)


class TrainingBar(ProgressCallback):
    """The Trainer's progress bar, without its printed dictionaries and its bar per evaluation.

    It also writes losses to the training's log, sets the images' epoch, seals checkpoints, and
    stops on SIGTERM.
    """

    def __init__(self, log: TrainingLog, images: TrainingImages):
        super().__init__()
        self.log, self.images = log, images

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if state.is_world_process_zero:
            self.log.rewind(state.global_step)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.images.epoch = int(state.epoch or 0)

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        # a checkpoint does not hold the losses since the last log line: they would be lost
        control.should_log |= control.should_save
        stop_if_requested()

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            seal_folder(
                Path(args.output_dir) / f"checkpoint-{state.global_step}",
                SEALED,
                {"step": state.global_step},
            )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs is not None and "loss" in logs:
            self.log.append(
                {"step": state.global_step, "loss": logs["loss"], "lr": logs["learning_rate"]}
            )

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        pass


def training_arguments(
    settings: ClassifierSettings, share: Share, folder: Path
) -> TrainingArguments:
    """The settings as the Trainer's arguments, for processes that are already started."""
    precision = precision_of(settings)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.num_train_epochs,
        per_device_train_batch_size=share.batch_size,
        gradient_accumulation_steps=share.accumulation,
        per_device_eval_batch_size=share.batch_size * 2,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        learning_rate=settings.learning_rate,
        optim=settings.optim,
        optim_args="momentum=0.9" if settings.optim == "sgd" else None,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type="cosine",
        dataloader_num_workers=settings.dataloader_num_workers,
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        accelerator_config={"use_configured_state": True},
        ddp_find_unused_parameters=False,
        save_strategy="steps",
        save_steps=settings.checkpointing_steps,
        save_total_limit=settings.checkpoints_total_limit,
        logging_strategy="steps",
        logging_steps=settings.logging_steps,
        report_to=settings.report_to,
        disable_tqdm=False,
        remove_unused_columns=False,
    )


def checkpoint_to_resume(folder: Path, which: str, identity: dict) -> Path | None:
    """The checkpoint in `folder` to resume from, or None; writes the training's identity there.

    `which`: `latest`, the newest undamaged one; a checkpoint's folder; or `none`, which removes all
    checkpoints. Raises `UserError` if it is no checkpoint, or one of another training.
    """
    record = folder / "training.json"
    if which == "none":
        shutil.rmtree(folder, ignore_errors=True)
    elif record.exists() and (different := different_facts(read_identity(record), identity)):
        raise UserError(
            f"{folder} has checkpoints of another training (other {', '.join(different)}): "
            "start over with --resume_from_checkpoint none, or choose another --output_dir"
        )
    write_sealed(record, identity)
    finished = sorted(
        (path.parent for path in folder.glob(f"checkpoint-*/{SEALED}")),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
    if which in ("latest", "none"):
        return newest_whole(finished, SEALED)
    if Path(which) not in finished or newest_whole([Path(which)], SEALED) is None:
        raise UserError(
            f"{which} is not a checkpoint of this training, or it is damaged: "
            f"give latest, none, or a folder like {folder / 'checkpoint-500'}"
        )
    return Path(which)


def read_identity(record: Path) -> dict:
    """The identity of the training whose checkpoints these are. Raises `UserError` if damaged."""
    try:
        return read_sealed(record)
    except DamagedFile:
        raise UserError(
            f"{record} is damaged, so the training of its checkpoints is unknown: "
            "start over with --resume_from_checkpoint none, or choose another --output_dir"
        ) from None
