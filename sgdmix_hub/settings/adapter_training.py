"""Settings of an adapter's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError

from .fields import (
    LONGEST_NAME,
    LONGEST_PROMPT,
    required,
    same,
    setting,
)
from .prompts import MOST_VECTORS
from .training import TrainingSettings

WeightingScheme = Literal["none", "logit_normal", "mode", "cosmap", "sigma_sqrt"]


@dataclass(kw_only=True)
class AdapterSettings(TrainingSettings):
    """Trains an adapter: DreamBooth, LoRA and textual inversion, jointly.

    Rank, learning rates and batch size are those of Diff-Mix (CVPR 2024), and so are the epochs:
    it trains on 280,000 samples, which are 47 epochs of CUB.
    """

    metaclass: str = required(
        "common name of all classes, a word that the text encoder knows: bird, car, flower ...",
        at_most=LONGEST_NAME,
    )
    pretrained_model_name_or_path: str = setting(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "base model, as org/name[@revision] or folder",
        pinned=True,
    )
    allow_license: str | None = setting(
        None,
        "reason to push with a license that the base's licence does not allow; the card states it",
        changes="nothing",
        at_most=LONGEST_PROMPT,
    )
    prompt_template: str = setting(
        "a photo of a {token} {metaclass}",
        "prompt, with {token} and {metaclass}",
        at_most=LONGEST_PROMPT,
    )
    num_vectors: int = setting(
        1,
        "learned tokens per class; 0 trains the LoRA alone, with the classes' names as {token}",
        at_least=0,
        at_most=MOST_VECTORS,
    )
    token_place: Literal["output"] | None = setting(
        None,
        "where tokens are learned. output: in the text encoder's output, so that the training "
        "keeps no encoder in memory, for bases with a language model; by default in its input",
    )
    rank: int = setting(
        10, "LoRA rank, on the attention of the UNet or transformer", at_least=1, at_most=4096
    )
    lora_alpha: int = setting(10, "LoRA alpha", at_least=1, at_most=10**6)
    lora_dropout: float = setting(0.0, "LoRA dropout", at_least=0, below=1)
    learning_rate: float = setting(5e-5, "learning rate of the LoRA weights", above=0, at_most=1000)
    token_learning_rate: float = setting(
        5e-5,
        "learning rate of the learned tokens; with token_place output it is multiplied by how many "
        "times larger an output's rows are than an input's",
        above=0,
        at_most=1000,
    )
    total_batch_size: int = same(TrainingSettings, "total_batch_size", default=8)
    num_train_epochs: float = setting(
        50.0, "number of passes over the training images", above=0, at_most=10**6
    )
    num_train_samples: int | None = setting(
        None,
        "instead of num_train_epochs: number of samples to train on, rounded up to whole steps",
        at_least=1,
        at_most=10**12,
    )
    lr_scheduler: Literal["constant", "cosine", "linear"] = setting(
        "constant", "learning rate schedule"
    )
    lr_warmup_steps: int = setting(0, "warm-up steps", at_least=0, at_most=10**9)
    adam_weight_decay: float = setting(
        1e-2,
        "AdamW's weight decay of the LoRA weights; the tokens have none",
        at_least=0,
        at_most=1000,
    )
    max_grad_norm: float = setting(1.0, "gradient clipping", above=0, at_most=10**6)
    snr_gamma: float | None = setting(
        None,
        "gamma of min-SNR loss weighting (usually 5.0); uniform weights if not given",
        above=0,
        at_most=10**6,
    )
    weighting_scheme: WeightingScheme | None = setting(
        None,
        "for bases trained by flow matching: density of the time steps and weights of the loss, as "
        "in diffusers' training scripts (default: that of the base's own script)",
    )
    with_prior_preservation: bool = setting(
        False, "also train on images of the bare metaclass, which the base model generates first"
    )
    prior_loss_weight: float = setting(
        1.0, "weight of the prior-preservation loss", at_least=0, at_most=1000
    )
    num_class_images: int = setting(
        100, "number of images of the bare metaclass", at_least=1, at_most=10**6
    )
    random_flip: bool = setting(True, "flip images horizontally at random")
    cache_latents: bool = setting(
        False,
        "encode every image once, before training, and keep the latents on disk, in state/",
        changes="nothing",
    )
    gradient_checkpointing: bool = setting(
        False, "recompute activations: less memory, slower", changes="nothing"
    )
    resolution: int = setting(
        512,
        "width and height of the training images, in pixels",
        at_least=8,
        at_most=4096,
        multiple_of=8,
    )
    resize: Literal["stretch", "aspect-buckets", "center-crop"] = setting(
        "stretch",
        "how images are resized: to a square, stretched or cropped, or to their own aspect ratio, "
        "in steps of 64 pixels, each optimizer step with images of one shape",
    )
    guidance_scale: float = setting(
        7.5,
        "classifier-free guidance scale of all generated images: samples, judged, prior",
        at_least=0,
        at_most=100,
    )
    num_inference_steps: int = setting(
        25, "number of diffusion steps of all generated images", at_least=1, at_most=1000
    )
    validation_steps: int | None = setting(
        None,
        "optimizer steps between sample sheets; only one at the end if not given",
        changes="nothing",
        at_least=1,
        at_most=10**9,
    )
    judge: str | None = setting(
        None,
        "classifier trained on real images that judges generated ones, as org/name[@revision] or "
        "folder",
        changes="nothing",
    )
    num_judged_images: int = setting(
        5, "images to judge per class", changes="nothing", at_least=1, at_most=10**6
    )
    judged_strength: float = setting(
        0.7, "S of the mixed images to judge", changes="nothing", at_least=0, at_most=1
    )

    def validate(self) -> None:
        super().validate()
        if int(self.num_inference_steps * self.judged_strength) == 0:
            raise UserError(
                f"judged_strength {self.judged_strength} at {self.num_inference_steps} steps "
                "runs no diffusion step: give a larger one"
            )
        if self.token_place is not None and self.num_vectors == 0:
            raise UserError(
                "token_place says where learned tokens are, and num_vectors is 0: leave it out, or "
                "raise num_vectors"
            )
        if self.resize == "aspect-buckets" and self.with_prior_preservation:
            raise UserError(
                "with_prior_preservation draws squares: leave it out, or resize aspect-buckets"
            )
        for place in ("{token}", "{metaclass}"):
            if self.prompt_template.count(place) != 1:
                raise UserError(
                    f"prompt_template must contain {place} exactly once: {self.prompt_template!r}"
                )
