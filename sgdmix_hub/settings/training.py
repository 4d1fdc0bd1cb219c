"""Settings that the trainings share, and those of a classifier's.

The settings that change the result are recorded beside it. A training is resumed, or counts as
finished, only if it has them unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sgdmix_hub.errors import UserError

from .data import DataSettings
from .fields import (
    AUTO,
    LONGEST_NAME,
    CountOrAuto,
    names_where,
    setting,
)


@dataclass(kw_only=True)
class TrainingSettings(DataSettings):
    """What every training has: batches, precision, checkpoints, a log, and a push to the Hub."""

    # There is no setting for the token: `accelerate launch` prints the command line of a program
    # that fails.

    total_batch_size: int = setting(
        32,
        "samples per optimizer step, over all processes; the result does not depend on how they "
        "are spread",
        at_least=1,
        at_most=10**6,
    )
    per_device_train_batch_size: CountOrAuto = setting(
        AUTO,
        "samples that a process takes at once; gradients are accumulated over the rest of its "
        "share; auto: the largest that fits the GPU, found by trial",
        changes="last_bits",
        at_least=1,
        at_most=10**6,
    )
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = setting(
        AUTO, "precision of the forward pass; auto: bf16 on a GPU that has it, otherwise float32"
    )
    dataloader_num_workers: int = setting(
        0,
        "worker processes per process that decode images",
        changes="nothing",
        at_least=0,
        at_most=256,
    )
    checkpointing_steps: int = setting(
        500, "optimizer steps between checkpoints", changes="nothing", at_least=1, at_most=10**9
    )
    checkpoints_total_limit: int = setting(
        2, "number of checkpoints to keep, the newest", changes="nothing", at_least=1, at_most=10**6
    )
    resume_from_checkpoint: str = setting(
        "latest", "latest, none (start over), or the folder of a checkpoint", changes="nothing"
    )
    logging_steps: int = setting(
        10,
        "optimizer steps per point of the loss curve, their mean",
        changes="nothing",
        at_least=1,
        at_most=10**9,
    )
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = setting(
        "none", "tracker to log losses and learning rates to", changes="nothing"
    )
    license: str | None = setting(
        None,
        "license of the trained model; required for pushing",
        changes="nothing",
        at_most=LONGEST_NAME,
    )
    push_to_hub: bool = setting(
        False,
        "push the finished model to the Hub, with the token of `hf auth login` or HF_TOKEN",
        changes="nothing",
    )
    hub_model_id: str | None = setting(
        None, "model repository to push to, as org/name", changes="nothing", at_most=LONGEST_NAME
    )
    hub_private_repo: bool = setting(False, "create the repository as private", changes="nothing")

    def validate(self) -> None:
        super().validate()
        if self.push_to_hub and self.hub_model_id is None:
            raise UserError("push_to_hub needs --hub_model_id org/name")
        if self.push_to_hub and self.license is None:
            raise UserError("push_to_hub needs --license, the license of the model")


@dataclass(kw_only=True)
class ClassifierSettings(TrainingSettings):
    """Trains an image classifier on real images, or on real and synthetic ones."""

    model: str = setting(
        "microsoft/resnet-50",
        "model to fine-tune, as org/name[@revision] or folder",
        pinned=True,
    )
    from_scratch: bool = setting(
        False, "initialize the model at random from its config.json, without its weights"
    )
    image_size: int | None = setting(
        None, "input size; the image processor's if not given", at_least=1, at_most=4096
    )
    resize_size: int | None = setting(
        None,
        "size to stretch images to before cropping them to image_size",
        at_least=1,
        at_most=4096,
    )
    eval_split: str | None = setting(
        None, "test split: its accuracy is measured once, at the end", at_most=LONGEST_NAME
    )
    eval_dataset_name: str | None = setting(
        None,
        "dataset of eval_split, as org/name[@revision] or folder; dataset_name by default",
        pinned=True,
    )
    group_column: str | None = setting(
        None,
        "column of eval_split (Waterbirds: place): report the accuracy of each (label, group), "
        "and the worst",
        at_most=LONGEST_NAME,
    )
    validation_split: str | None = setting(
        None,
        "split to choose the best weights on; without one the last weights are kept",
        at_most=LONGEST_NAME,
    )
    validation_share: float = setting(
        0.0,
        "instead of validation_split: share of each class's training images to hold out, drawn "
        "with subset_seed",
        at_least=0,
        below=1,
    )
    eval_steps: int | None = setting(
        None,
        "optimizer steps between validations; one epoch if not given",
        at_least=1,
        at_most=10**9,
    )
    synthetic: str | None = setting(
        None,
        "augmented dataset, as org/name[@revision], or the repo folder of a generation",
        pinned=True,
    )
    synthetic_config_name: str = setting(
        "default", "configuration of the augmented dataset", at_most=LONGEST_NAME
    )
    synthetic_mode: Literal["replace", "add"] = setting(
        "replace",
        "replace real images with synthetic_probability, or add all synthetic images to every "
        "epoch, which makes it longer",
    )
    synthetic_probability: float = setting(
        0.1,
        "probability of replacing a real image with one of its synthetic ones",
        at_least=0,
        at_most=1,
    )
    synthetic_weighting: Literal["source", "class-balanced", "inverse-frequency"] = setting(
        "source",
        "what replaces a real image: a synthetic image made from it; or one of any class, all "
        "classes equally often, or rare ones more often (Diff-Mix: 1 / (real images + 1))",
    )
    synthetic_gamma: float | None = setting(
        None,
        "Diff-Mix's soft labels: strength ** gamma for the synthetic image's class, the rest for "
        "the source's; hard labels if not given",
        above=0,
        at_most=100,
    )
    augmentation: Literal["crops", "randaugment", "resized-crops"] = setting(
        "crops",
        "random crops and flips; randaugment: RandAugment too; resized-crops: crops of 8 to 100 "
        "% of the image, and colour jitter",
    )
    mixup_alpha: float = setting(
        0.0,
        "mixup's alpha; 0 is off; with cutmix_alpha too, every batch gets one of the two",
        at_least=0,
        at_most=1000,
    )
    cutmix_alpha: float = setting(0.0, "CutMix's alpha; 0 is off", at_least=0, at_most=1000)
    sampling: Literal["shuffle", "balanced"] = setting(
        "shuffle", "show every image once per epoch, or every class equally often"
    )
    loss: Literal["cross-entropy", "balanced-softmax"] = setting(
        "cross-entropy", "balanced-softmax adds the log class counts to the logits"
    )
    many_shot: int = setting(
        100,
        "classes with more training images than this count as many-shot",
        at_least=0,
        at_most=10**7,
    )
    few_shot: int = setting(
        20,
        "classes with fewer training images than this count as few-shot",
        at_least=0,
        at_most=10**7,
    )
    num_train_epochs: float = setting(
        120.0, "number of passes over the training images", above=0, at_most=10**6
    )
    learning_rate: float = setting(0.01, "peak learning rate", above=0, at_most=1000)
    optim: Literal["sgd", "adamw_torch"] = setting("sgd", "optimizer; sgd has momentum 0.9")
    weight_decay: float = setting(5e-4, "weight decay", at_least=0, at_most=1000)
    warmup_ratio: float = setting(
        0.1,
        "share of the optimizer steps with linear warm-up; cosine decay follows",
        at_least=0,
        at_most=1,
    )
    label_smoothing_factor: float = setting(0.1, "label smoothing", at_least=0, at_most=1)

    def validate(self) -> None:
        super().validate()
        if self.few_shot > self.many_shot + 1:
            raise UserError(
                f"few_shot {self.few_shot} and many_shot {self.many_shot} overlap: give a few_shot "
                "of at most many_shot + 1"
            )
        self._validate_validation()
        if self.synthetic_weighting != "source" and self.synthetic_mode == "add":
            raise UserError(
                f"synthetic_weighting {self.synthetic_weighting} needs synthetic_mode replace: add "
                "shows every synthetic image; --sampling balanced shows all classes equally often"
            )
        for name in ("eval_dataset_name", "group_column"):
            if self.eval_split is None and getattr(self, name) is not None:
                raise UserError(f"{name} needs --eval_split")

    def _validate_validation(self) -> None:
        split = self.validation_split
        if split is None:
            if self.eval_steps is not None and self.validation_share == 0:
                raise UserError("eval_steps needs --validation_split or --validation_share")
            return
        if self.validation_share > 0:
            raise UserError("validation_split and validation_share exclude each other: give one")
        if split == self.dataset_split:
            raise UserError(
                f"validation_split {split} is the training split: give another split, or "
                "validation_share"
            )
        if split == self.eval_split and self.eval_dataset_name is None:
            raise UserError(
                f"validation_split {split} is eval_split too: weights must not be chosen on the "
                "test images"
            )


def recorded(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that change the result, without the inputs, which are recorded as pins."""
    names = names_where(type(settings), changes="result", pinned=False)
    return {name: getattr(settings, name) for name in names}
