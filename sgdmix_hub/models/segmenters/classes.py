"""Models with a fixed list of classes, asked by class name: Mask2Former, MaskFormer, EoMT and
OneFormer, which give instances, and SegFormer and UPerNet, which give one map a class.
"""

from __future__ import annotations

import torch

from sgdmix_hub.errors import UserError, shown

from .frames import Framed
from .instances import Instances, mean_inside
from .loading import IMAGENET, Family, Loaded, load_tokenizer

# Found from: the default of `post_process_panoptic_segmentation`.
INSTANCE_FAMILIES = {
    "mask2former": Family("Mask2FormerForUniversalSegmentation", 1024, IMAGENET, padded=True),
    "maskformer": Family("MaskFormerForInstanceSegmentation", 1024, IMAGENET, padded=True),
    "eomt": Family("EomtForUniversalSegmentation", 640, IMAGENET, True, 0.8),
    "eomt_dinov3": Family("EomtDinov3ForUniversalSegmentation", 640, IMAGENET, True, 0.8),
    "oneformer": Family("OneFormerForUniversalSegmentation", 1024, IMAGENET, padded=True),
}
# Their masks are what is above one half, and so are the means inside them: none is left out.
MAP_FAMILIES = {
    "segformer": Family("SegformerForSemanticSegmentation", 512, IMAGENET, padded=False),
    "upernet": Family("UperNetForSemanticSegmentation", 512, IMAGENET, padded=False),
}
CLASSES_SHOWN = 12


def named_classes(model: Loaded, words: tuple[str, ...]) -> list[int]:
    """The model's classes that any of the words names, whatever its case; a class may have several
    names, divided by commas or semicolons. Raises `UserError` where none does.
    """
    names = {int(label): str(name) for label, name in model.network.config.id2label.items()}
    asked = {word.casefold() for word in words}
    labels = [
        label
        for label, name in names.items()
        if asked & {part.strip().casefold() for part in name.replace(";", ",").split(",")}
    ]
    if not labels:
        known = ", ".join(list(names.values())[:CLASSES_SHOWN])
        raise UserError(
            f"the {model.called} has no class {shown(', '.join(words))}: give --segmenter_prompt "
            f"one of its {len(names)} classes ({shown(known)} ...)"
        )
    return labels


class ClassInstances:
    """Queries with class and mask logits. A score is the class's probability times the mean of the
    mask's probability inside it, as these models' own post-processing has it.
    """

    def __init__(self, model: Loaded, words: tuple[str, ...], device: torch.device):
        self.network, self.labels = model.network.to(device), named_classes(model, words)
        self.task = None
        if model.family == "oneformer":
            tokens = load_tokenizer(model)(
                ["the task is instance"],
                padding="max_length",
                max_length=self.network.config.task_seq_len,
                truncation=True,
                return_tensors="pt",
            )
            self.task = (tokens.input_ids * tokens.attention_mask).to(device)

    def find(self, pixel_values: torch.Tensor, images: list[Framed]) -> list[Instances]:
        """The queries as instances of the named classes, for pixel values (n, 3, side, side)."""
        task = {} if self.task is None else {"task_inputs": self.task.expand(len(images), -1)}
        outputs = self.network(pixel_values=pixel_values, **task)
        classes = outputs.class_queries_logits.float().softmax(-1)
        logits = outputs.masks_queries_logits
        scores = classes[..., self.labels].sum(-1) * mean_inside(logits)
        return [Instances(*found) for found in zip(logits, scores, strict=True)]


class ClassMaps:
    """One map of logits a class. The score is the mean probability of the named classes inside
    their mask.
    """

    def __init__(self, model: Loaded, words: tuple[str, ...], device: torch.device):
        self.network, labels = model.network.to(device), named_classes(model, words)
        self.named = torch.zeros(
            len(model.network.config.id2label), dtype=torch.bool, device=device
        )
        self.named[labels] = True
        if self.named.all():
            raise UserError(f"the {model.called} has no class beside the ones that were named")

    def find(self, pixel_values: torch.Tensor, images: list[Framed]) -> list[Instances]:
        """One instance an image, for pixel values (n, 3, side, side)."""
        logits = self.network(pixel_values=pixel_values).logits.float()
        odds = logits[:, self.named].logsumexp(1, True) - logits[:, ~self.named].logsumexp(1, True)
        return [Instances(*found) for found in zip(odds, mean_inside(odds), strict=True)]
