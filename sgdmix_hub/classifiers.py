"""Image classifiers of transformers: loaded with a head for these classes, and what images go through before them."""

from __future__ import annotations

import torch
from torchvision.transforms import v2
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from .errors import UserError, first_line
from .pins import MODEL_FILES, Pin, local_folder


def training_transform(processor, size: int, augmentation: str, resize_size: int | None = None) -> v2.Compose:
    """Random crops and flips, with `augmentation` randaugment that too (torchvision's defaults), and the processor's normalisation.

    Crops are of random scale, or with `resize_size` of the image stretched to resize_size x resize_size.
    """
    if resize_size is None:
        crop = [v2.RandomResizedCrop(size, scale=(0.6, 1.0), antialias=True)]
    else:
        crop = [v2.Resize((resize_size, resize_size), antialias=True), v2.RandomCrop(size)]
    more = [v2.RandAugment()] if augmentation == "randaugment" else []
    return v2.Compose([*crop, v2.RandomHorizontalFlip(), *more, *_to_input(processor)])


def evaluation_transform(processor, size: int, resize_size: int | None = None) -> v2.Compose:
    """The whole image at the input size, or its middle at that size, of the image stretched to resize_size x resize_size."""
    whole = resize_size or size
    return v2.Compose([v2.Resize((whole, whole), antialias=True), v2.CenterCrop(size), *_to_input(processor)])


def _to_input(processor) -> list:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(processor.image_mean, processor.image_std)]


def build_model(model: Pin, class_names: list[str], from_scratch: bool):
    """The classifier with a head for these classes, and its image processor. Raises `UserError` when it cannot be loaded."""
    names = {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}
    try:
        folder = local_folder(model, MODEL_FILES)
        processor = AutoImageProcessor.from_pretrained(folder)
        if from_scratch:
            config = AutoConfig.from_pretrained(folder, num_labels=len(class_names), **names)
            return AutoModelForImageClassification.from_config(config), processor
        network = AutoModelForImageClassification.from_pretrained(
            folder, num_labels=len(class_names), ignore_mismatched_sizes=True, use_safetensors=True, **names
        )
        return network, processor
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the classifier {model.name}: {first_line(error)}") from error


def check_takes(network, size: int) -> None:
    """Raises `UserError` when the classifier takes no images of size x size: a ViT takes those of its position embeddings alone."""
    try:
        with torch.inference_mode():
            network.eval()(pixel_values=torch.zeros(1, 3, size, size))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the classifier takes no images of {size} x {size}, give another --image_size: {first_line(error)}") from error


def with_size(processor, size: int):
    """The image processor at the size that was trained with."""
    processor.size = {"shortest_edge": size} if "shortest_edge" in processor.size else {"height": size, "width": size}
    if getattr(processor, "crop_size", None):
        processor.crop_size = {"height": size, "width": size}
    return processor
