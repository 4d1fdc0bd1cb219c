"""Settings of the trainings: the classifier that a CAM looks through or that shows whether a
dataset helps, and the adapter.

What decides the result is recorded beside it, and a training that goes on, or is found finished,
must have it unchanged. `NOT_RECORDED` holds the rest: places, speed, pushes, and what only looks at
a training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError

from .data import DataSettings
from .fields import LONGEST_NAME, LONGEST_PROMPT, required, setting

NOT_RECORDED = frozenset(
    {
        "output_dir",
        "num_threads",
        "dataloader_num_workers",
        "cache_latents",
        "gradient_checkpointing",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "resume_from_checkpoint",
        "logging_steps",
        "report_to",
        "validation_steps",
        "judge",
        "num_judged_images",
        "judged_strength",
        "license",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
    }
)

# Recorded as pins, not as names.
PINNED_INPUTS = frozenset(
    {"dataset_name", "eval_dataset_name", "pretrained_model_name_or_path", "model", "synthetic"}
)


@dataclass(kw_only=True)
class TrainingSettings(DataSettings):
    """What every training can do besides training: stop and go on, report, and be pushed."""

    # There is no setting for the token: `accelerate launch` prints the whole command line of a
    # program that fails.

    dataloader_num_workers: int = setting(
        0, "processes that decode images", at_least=0, at_most=256
    )
    checkpointing_steps: int = setting(
        500, "optimizer steps from one checkpoint to the next", at_least=1, at_most=10**9
    )
    checkpoints_total_limit: int = setting(
        2, "checkpoints that are kept, the newest ones", at_least=1, at_most=10**6
    )
    resume_from_checkpoint: str = setting(
        "latest", "latest, none (start over), or the folder of a checkpoint"
    )
    logging_steps: int = setting(
        10, "optimizer steps whose mean loss is one point of the curve", at_least=1, at_most=10**9
    )
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = setting(
        "none", "tracker that is told losses and rates"
    )
    license: str | None = setting(
        None, "licence of what is trained; pushing without one is refused", at_most=LONGEST_NAME
    )
    push_to_hub: bool = setting(
        False, "push the finished model to the Hub, with the token of `hf auth login` or HF_TOKEN"
    )
    hub_model_id: str | None = setting(
        None, "repository that is pushed to, as org/name", at_most=LONGEST_NAME
    )
    hub_private_repo: bool = setting(False, "make the repository private when it is created")

    def validate(self) -> None:
        super().validate()
        if self.push_to_hub and self.hub_model_id is None:
            raise UserError("push_to_hub needs --hub_model_id org/name")
        if self.push_to_hub and self.license is None:
            raise UserError(
                "push_to_hub needs --license: say under which one others may use the model"
            )


@dataclass(kw_only=True)
class ClassifierSettings(TrainingSettings):
    """Image classification: the classifier that saliency looks through, and the downstream
    classifier.
    """

    model: str = setting(
        "microsoft/resnet-50", "Hub model as org/name[@revision], or a local folder"
    )
    from_scratch: bool = setting(False, "use the model's config.json with fresh weights")
    image_size: int | None = setting(
        None, "input size; the image processor's when not given", at_least=1, at_most=4096
    )
    resize_size: int | None = setting(
        None,
        "size that images are stretched to before they are cropped to image_size",
        at_least=1,
        at_most=4096,
    )
    eval_split: str | None = setting(
        None, "split whose accuracy is measured once, at the end", at_most=LONGEST_NAME
    )
    eval_dataset_name: str | None = setting(
        None, "dataset that eval_split is of, as org/name[@revision] or folder; the same by default"
    )
    group_column: str | None = setting(
        None,
        "column of eval_split (Waterbirds: place): accuracy by (label, group) and of the worst",
        at_most=LONGEST_NAME,
    )
    validation_split: str | None = setting(
        None,
        "split on which the weights that are kept are chosen; the last ones when there is none",
        at_most=LONGEST_NAME,
    )
    validation_share: float = setting(
        0.0,
        "share of each class's training images that is held out for that instead, by subset_seed",
        at_least=0,
        below=1,
    )
    eval_steps: int | None = setting(
        None,
        "optimizer steps from one validation to the next; an epoch when not given",
        at_least=1,
        at_most=10**9,
    )
    synthetic: str | None = setting(
        None, "augmented dataset as org/name[@revision], or a run's local repo folder"
    )
    synthetic_config_name: str = setting(
        "default", "configuration of the augmented dataset", at_most=LONGEST_NAME
    )
    synthetic_mode: Literal["replace", "add"] = setting(
        "replace",
        "replace real images with synthetic_probability, or add all synthetic ones to every epoch, which makes it longer",
    )
    synthetic_probability: float = setting(
        0.1,
        "probability that a real image is replaced by one of its synthetic ones",
        at_least=0,
        at_most=1,
    )
    synthetic_gamma: float | None = setting(
        None,
        "Diff-Mix's soft labels: strength ** gamma of the shown class; hard when not given",
        above=0,
        at_most=100,
    )
    augmentation: Literal["crops", "randaugment"] = setting(
        "crops", "random crops and flips; with randaugment that too"
    )
    mixup_alpha: float = setting(
        0.0,
        "mixup: both parameters of its beta distribution; 0 is off; with cutmix, one of the two a batch",
        at_least=0,
        at_most=1000,
    )
    cutmix_alpha: float = setting(
        0.0, "cutmix: both parameters of its beta distribution; 0 is off", at_least=0, at_most=1000
    )
    sampling: Literal["shuffle", "balanced"] = setting(
        "shuffle", "every image once an epoch, or every class equally often"
    )
    loss: Literal["cross-entropy", "balanced-softmax"] = setting(
        "cross-entropy", "balanced-softmax adds log class counts to the logits"
    )
    many_shot: int = setting(
        100,
        "classes with more training images have many, when accuracy is told by that",
        at_least=0,
        at_most=10**7,
    )
    few_shot: int = setting(
        20, "classes with fewer training images have few", at_least=0, at_most=10**7
    )
    num_train_epochs: float = setting(
        120.0, "passes over the training images", above=0, at_most=10**6
    )
    per_device_train_batch_size: int = setting(
        32, "batch size per process", at_least=1, at_most=10**5
    )
    learning_rate: float = setting(0.01, "peak learning rate", above=0, at_most=1000)
    optim: Literal["sgd", "adamw_torch"] = setting("sgd", "optimizer (sgd: momentum 0.9)")
    weight_decay: float = setting(5e-4, "weight decay", at_least=0, at_most=1000)
    warmup_ratio: float = setting(
        0.1, "share of the updates that warm up; cosine decay afterwards", at_least=0, at_most=1
    )
    label_smoothing_factor: float = setting(0.1, "label smoothing", at_least=0, at_most=1)

    def validate(self) -> None:
        super().validate()
        if self.few_shot > self.many_shot + 1:
            raise UserError(
                f"few_shot {self.few_shot} and many_shot {self.many_shot} overlap: give a few_shot of at most many_shot + 1"
            )
        self._validate_evaluation()

    def _validate_evaluation(self) -> None:
        if self.validation_split is not None and self.validation_share > 0:
            raise UserError(
                "validation_split and validation_share name two sets of validation images: give one"
            )
        if self.validation_split is not None and self.validation_split == self.dataset_split:
            raise UserError(
                f"validation_split {self.validation_split} is the split that is trained on: give another, or validation_share"
            )
        if (
            self.validation_split is not None
            and self.validation_split == self.eval_split
            and self.eval_dataset_name is None
        ):
            raise UserError(
                f"validation_split {self.validation_split} is eval_split too: weights must not be chosen on the test images"
            )
        if (
            self.eval_steps is not None
            and self.validation_split is None
            and self.validation_share == 0
        ):
            raise UserError(
                "eval_steps needs validation images: give --validation_split or --validation_share"
            )
        for name in ("eval_dataset_name", "group_column"):
            if self.eval_split is None and getattr(self, name) is not None:
                raise UserError(f"{name} needs --eval_split, the split that is measured")


@dataclass(kw_only=True)
class AdapterSettings(TrainingSettings):
    """DreamBooth + LoRA + textual inversion, trained jointly. Rank, rates and batch are borrowed
    from Diff-Mix (CVPR 2024).
    """

    metaclass: str = required(
        "what all classes are, in one word the text encoder knows: bird, car, flower ...",
        at_most=LONGEST_NAME,
    )
    pretrained_model_name_or_path: str = setting(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "base model"
    )
    prompt_template: str = setting(
        "a photo of a {token} {metaclass}",
        "prompt with {token} and {metaclass}",
        at_most=LONGEST_PROMPT,
    )
    num_vectors: int = setting(1, "learned tokens of each class", at_least=1, at_most=64)
    rank: int = setting(10, "LoRA rank on the UNet's attention", at_least=1, at_most=4096)
    lora_alpha: int = setting(10, "LoRA alpha", at_least=1, at_most=10**6)
    lora_dropout: float = setting(0.0, "dropout in front of the LoRA weights", at_least=0, below=1)
    learning_rate: float = setting(5e-5, "learning rate of the LoRA weights", above=0, at_most=1000)
    token_learning_rate: float = setting(
        5e-5, "learning rate of the learned tokens", above=0, at_most=1000
    )
    max_train_steps: int = setting(35_000, "optimizer steps", at_least=1, at_most=10**9)
    train_batch_size: int = setting(2, "batch size per process", at_least=1, at_most=10**5)
    gradient_accumulation_steps: int = setting(
        1, "batches per optimizer step", at_least=1, at_most=10**5
    )
    lr_scheduler: Literal["constant", "cosine", "linear"] = setting(
        "constant", "learning rate schedule"
    )
    lr_warmup_steps: int = setting(0, "warm-up steps", at_least=0, at_most=10**9)
    adam_weight_decay: float = setting(
        1e-2,
        "AdamW's weight decay on the LoRA weights; the tokens have none",
        at_least=0,
        at_most=1000,
    )
    max_grad_norm: float = setting(1.0, "gradient clipping", above=0, at_most=10**6)
    snr_gamma: float | None = setting(
        None,
        "min-SNR loss weighting (5.0 is usual); uniform when not given",
        above=0,
        at_most=10**6,
    )
    with_prior_preservation: bool = setting(
        False, "train on images of the bare metaclass as well, which the base draws first"
    )
    prior_loss_weight: float = setting(
        1.0, "what these count beside the domain's images", at_least=0, at_most=1000
    )
    num_class_images: int = setting(100, "images of the bare metaclass", at_least=1, at_most=10**6)
    random_flip: bool = setting(True, "mirror images at random")
    cache_latents: bool = setting(
        False, "encode every image once, before the first step, and keep its latents in memory"
    )
    gradient_checkpointing: bool = setting(
        False, "compute activations again instead of keeping them: less memory, slower"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = setting("no", "precision of the forward pass")
    resolution: int = setting(
        512,
        "images are trained at resolution x resolution",
        at_least=8,
        at_most=4096,
        multiple_of=8,
    )
    resize: Literal["stretch", "center-crop"] = setting("stretch", "how an image becomes square")
    guidance_scale: float = setting(
        7.5,
        "classifier-free guidance of the images that are drawn to look at, to judge, or as a prior",
        at_least=0,
        at_most=100,
    )
    num_inference_steps: int = setting(25, "their diffusion steps", at_least=1, at_most=1000)
    validation_steps: int | None = setting(
        None,
        "optimizer steps between sheets of images; only the finished adapter's when not given",
        at_least=1,
        at_most=10**9,
    )
    judge: str | None = setting(
        None,
        "classifier trained on real images that judges generated ones, as org/name[@revision] or folder",
    )
    num_judged_images: int = setting(
        5, "images of each class that are judged", at_least=1, at_most=10**6
    )
    judged_strength: float = setting(
        0.7, "S at which mixed images are refined to be judged", at_least=0, at_most=1
    )

    def validate(self) -> None:
        super().validate()
        if int(self.num_inference_steps * self.judged_strength) == 0:
            raise UserError(
                f"judged_strength {self.judged_strength} at {self.num_inference_steps} steps runs no diffusion step"
            )
        for place in ("{token}", "{metaclass}"):
            if self.prompt_template.count(place) != 1:
                raise UserError(
                    f"prompt_template must hold {place} exactly once: {self.prompt_template!r}"
                )


def recorded(settings: TrainingSettings) -> dict:
    """The settings that decide the result, pinned inputs left out: they are recorded as pins."""
    return {
        name: value
        for name, value in dataclasses.asdict(settings).items()
        if name not in NOT_RECORDED | PINNED_INPUTS
    }


def deviations(settings_class: type[TrainingSettings], values: dict) -> dict:
    """Those of the recorded `values` that are not the defaults, by name."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(settings_class)
        if field.default is not dataclasses.MISSING
    }
    return {
        name: value
        for name, value in values.items()
        if name in defaults and value != defaults[name]
    }
