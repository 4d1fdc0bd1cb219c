"""Image classifiers of transformers: the one way to load them and to prepare their images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from sgdmix_hub._compat import LOADING
from sgdmix_hub.errors import UserError, first_line, one_line
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS, read_classifier_facts
from sgdmix_hub.hub.pins import MODEL_FILES, Pin, local_folder

from .preprocessing import (
    Preprocessing,
    apply,
    measured_preprocessing,
    recorded_preprocessing,
    stock_processor,
    timm_configuration,
)

PEFT_FILE = "adapter_config.json"
BATCH = 32
NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # unset, transformers asks on the terminal


class Classifier:
    """A trained classifier with frozen weights, and the preprocessing of its images.

    `transform`: RGB PIL image -> float32 (3, size, size), as in its training and evaluation; for a
    classifier from elsewhere, its own image processor. `preprocessing` describes the transform.
    """

    def __init__(self, pin: Pin, device: torch.device, role: str = "classifier"):
        """`role`: its name in errors. Raises `UserError` if it cannot be loaded or used."""
        self.pin, self.device, self.role = pin, device, role
        self.folder = local_folder(pin, MODEL_FILES)
        self.model = (
            load_network(self.folder, f"{role} {pin.name}").to(device).eval().requires_grad_(False)
        )
        recorded = self.facts.get("preprocessing")
        if recorded is not None:
            self.preprocessing = recorded_preprocessing(recorded, pin.name)
            self.transform = self.preprocessing.evaluation()
        else:
            processor = load_processor(self.folder, f"{role} {pin.name}")
            self.preprocessing = measured_preprocessing(processor)
            self.transform = partial(apply, processor)

    @cached_property
    def facts(self) -> dict:
        """Its classifier.json; empty for a classifier from elsewhere. Raises `UserError`."""
        return read_classifier_facts(Path(self.folder) / CLASSIFIER_FACTS)

    @property
    def class_names(self) -> list[str]:
        names = self.model.config.id2label
        return [names[label] for label in sorted(names)]

    @property
    def size(self) -> int:
        """Side of the square inputs that `transform` makes."""
        return self.preprocessing.size

    @cached_property
    def whole_size(self) -> int:
        """Side of an input with the whole image, uncropped, at the scale of `transform`.

        It is `size` if the classifier takes inputs of this size only.
        """
        side = self.preprocessing.resize_size
        return side if self.refusal(side) is None else self.size

    def refusal(self, side: int, images: int = 1) -> str | None:
        """Why it takes no inputs (images, 3, side, side); None if it takes them."""
        return refusal(self.model, side, images)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """float32 (n, classes) on the CPU, of inputs (n, 3, side, side), in batches."""
        with torch.no_grad():
            return torch.cat(
                [
                    self.model(pixel_values=batch.to(self.device)).logits.float().cpu()
                    for batch in inputs.split(BATCH)
                ]
            )

    def probabilities(self, images: Sequence[Image.Image | np.ndarray] | np.ndarray) -> np.ndarray:
        """float32 (n, classes) of RGB images of any size, PIL or uint8 (h, w, 3).

        The last bits depend on the batch size.
        """
        probabilities = [torch.empty(0, self.model.config.num_labels)]
        for start in range(0, len(images), BATCH):
            batch = [
                image if isinstance(image, Image.Image) else Image.fromarray(image)
                for image in images[start : start + BATCH]
            ]
            inputs = torch.stack([self.transform(image) for image in batch])
            probabilities.append(self.logits(inputs).softmax(-1))
        return torch.cat(probabilities).numpy()

    def predict(self, images: Sequence[Image.Image | np.ndarray] | np.ndarray) -> np.ndarray:
        """Predicted labels, int64 (n,), of images as for `probabilities`."""
        return self.probabilities(images).argmax(-1)


def load_network(
    folder: str, called: str, class_names: list[str] | None = None, from_scratch: bool = False
) -> Any:
    """Loads the network in a folder, with a new head if `class_names` are given.

    Raises `UserError`. Code in the folder is never run.
    """
    try:
        config = _load_config(folder, class_names)
        if from_scratch:
            return AutoModelForImageClassification.from_config(config, **NO_CODE)
        if (Path(folder) / PEFT_FILE).exists():
            # transformers would load the weights of the model that this file names
            raise ValueError(
                f"{PEFT_FILE} makes it an adapter of another model, merge the two first"
            )
        with LOADING:
            network, loading = AutoModelForImageClassification.from_pretrained(
                folder,
                config=config,
                ignore_mismatched_sizes=class_names is not None,
                use_safetensors=True,
                output_loading_info=True,
                **NO_CODE,
            )
        missing = sorted(loading["missing_keys"])
        if missing and class_names is None:
            others = " and others" * (len(missing) > 1)
            raise ValueError(
                f"its weights lack {missing[0]}{others}, which would be drawn at random"
            )
        return network
    except Exception as error:  # fetched files can make the libraries raise anything
        raise _cannot_load(called, error) from error


def _load_config(folder: str, class_names: list[str] | None) -> Any:
    """The network's configuration, with `class_names` in place of its own if they are given."""
    names: dict[str, Any] = {}
    if class_names is not None:
        names = {
            "id2label": dict(enumerate(class_names)),
            "label2id": {name: label for label, name in enumerate(class_names)},
            "num_labels": len(class_names),
        }
    config = AutoConfig.from_pretrained(folder, **NO_CODE, **names)
    # timm's wrapper would save the old names, and fails where its own trainer stored num_classes
    if class_names is not None and hasattr(config, "label_names"):
        config.label_names = class_names
    if getattr(config, "model_args", None):
        config.model_args = {
            name: value for name, value in config.model_args.items() if name != "num_classes"
        }
    return config


def load_processor(folder: str, called: str) -> Any:
    """Loads the image processor in a folder. Raises `UserError`. Code in it is never run."""
    try:
        return AutoImageProcessor.from_pretrained(folder, **NO_CODE)
    except Exception as error:
        raise _cannot_load(called, error) from error


def _cannot_load(called: str, error: Exception) -> UserError:
    if "trust_remote_code" in str(error):
        return UserError(
            f"cannot load the {called}: it needs its own code (auto_map), "
            "and fetched code is never run"
        )
    return UserError(one_line(f"cannot load the {called}: {first_line(error)}"))


def build_for_training(
    model: Pin,
    class_names: list[str],
    image_size: int | None,
    resize_size: int | None,
    from_scratch: bool,
) -> tuple[Any, Preprocessing]:
    """The network with a head for these classes, and its preprocessing in training and evaluation.

    Values and channels are those of its own image processor, and so is the size unless `image_size`
    is given; inputs are cropped from `resize_size`, if given. Raises `UserError` if the classifier
    cannot be loaded, or takes no inputs of this size.
    """
    folder = local_folder(model, MODEL_FILES)
    called = f"classifier {model.name}"
    measured = measured_preprocessing(load_processor(folder, called))
    size = image_size or measured.size
    if resize_size is not None and resize_size < size:
        raise UserError(
            f"resize_size {resize_size} is smaller than the crop of {size}: "
            "give a larger one, or another image_size"
        )
    preprocessing = Preprocessing(
        size, resize_size or size, "bilinear", measured.mean, measured.std, measured.channels
    )
    stock_processor(preprocessing)  # fails now, not at the end, if it could not be saved
    network = load_network(folder, called, class_names, from_scratch)
    error = refusal(network, size)
    if error is not None:
        raise UserError(
            one_line(
                f"the classifier takes no images of {size} x {size}, "
                f"give another --image_size: {error}"
            )
        )
    return network, preprocessing


def refusal(network: torch.nn.Module, side: int, images: int = 1) -> str | None:
    """Why a network takes no inputs of side x side; None if it takes them.

    A ViT, for example, takes the size of its position embeddings only.
    """
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            network.eval()(pixel_values=torch.zeros(images, 3, side, side, device=device))
    except Exception as error:  # any network, any of torch's errors
        return first_line(error)
    return None


def save_classifier(network: Any, preprocessing: Preprocessing, folder: Path) -> None:
    """Saves weights and image processor for stock transformers."""
    if network.config.model_type == "timm_wrapper":
        before = getattr(network.config, "pretrained_cfg", {})
        network.config.pretrained_cfg = before | timm_configuration(preprocessing)
    else:
        stock_processor(preprocessing).save_pretrained(folder)
    network.save_pretrained(folder)


class Judge(Classifier):
    """A classifier that says which class generated images show."""

    def __init__(self, pin: Pin, class_names: list[str], device: torch.device, role: str = "judge"):
        """Raises `UserError` if the classifier cannot be loaded, or has other classes."""
        super().__init__(pin, device, role)
        if self.class_names != class_names:
            raise UserError(
                f"the {role} {pin.name} has other classes than the dataset: "
                "give a classifier that was trained on these"
            )

    @property
    def accuracy(self) -> float | None:
        """Its accuracy on real images, from its training; None if that is unknown."""
        return self.facts.get("metrics", {}).get("accuracy")

    def look(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities, float32 (n, classes), and features, float32 (n, d), of inputs.

        `inputs`: (n, 3, size, size). The features are the input of the last linear layer. Raises
        `UserError` if the classifier does not end in one.
        """
        heads = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)]
        if not heads or heads[-1].out_features != self.model.config.num_labels:
            raise UserError(
                f"the {self.role} {self.pin.name} does not end in a linear layer, "
                "so its features are unknown: give another one"
            )
        seen: list[torch.Tensor] = []
        handle = heads[-1].register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].flatten(1))
        )
        try:
            probabilities = self.logits(inputs).softmax(-1)
        finally:
            handle.remove()
        return probabilities.numpy(), torch.cat(seen).float().cpu().numpy()
