"""Image classifiers of transformers: loaded in one way, and shown images in one way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

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
NO_CODE = {"trust_remote_code": False}  # or transformers would ask on the terminal


class Classifier:
    """A trained classifier and what images go through before it sees them. Its weights are frozen.

    `transform`: RGB PIL image -> float32 (3, size, size), what it was trained and measured with: of
    a classifier from elsewhere its own image processor. `preprocessing` describes it.
    """

    def __init__(self, pin: Pin, device: torch.device, role: str = "classifier"):
        """`role` is what errors call it. Raises `UserError` when it cannot be read, or needs images
        that cannot be made.
        """
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
        """What its training wrote down of it; nothing for a classifier from elsewhere. Raises
        `UserError`.
        """
        return read_classifier_facts(Path(self.folder) / CLASSIFIER_FACTS)

    @property
    def class_names(self) -> list[str]:
        names = self.model.config.id2label
        return [names[label] for label in sorted(names)]

    @property
    def size(self) -> int:
        """Side of the input that `transform` makes."""
        return self.preprocessing.size

    @cached_property
    def whole_size(self) -> int:
        """Side of an input that shows the whole image at the scale of `transform`; `size` where the
        classifier takes no other.
        """
        side = self.preprocessing.resize_size
        return side if self.refusal(side) is None else self.size

    def refusal(self, side: int, images: int = 1) -> str | None:
        """Why it takes no inputs (images, 3, side, side), None where it does."""
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

    def probabilities(self, images: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
        """float32 (n, classes) of RGB images of any size, PIL or uint8 (h, w, 3). The last bits
        depend on the size of a batch.
        """
        found = [torch.empty(0, self.model.config.num_labels)]
        for start in range(0, len(images), BATCH):
            shown = [
                image if isinstance(image, Image.Image) else Image.fromarray(image)
                for image in images[start : start + BATCH]
            ]
            found.append(
                self.logits(torch.stack([self.transform(image) for image in shown])).softmax(-1)
            )
        return torch.cat(found).numpy()

    def predict(self, images: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
        """Predicted labels, int64 (n,), of images as for `probabilities`."""
        return self.probabilities(images).argmax(-1)


def load_network(
    folder: str, called: str, class_names: list[str] | None = None, from_scratch: bool = False
):
    """The network in a folder, with a head for `class_names` where they are given. Raises
    `UserError`; runs no code of the folder's.
    """
    try:
        names = {}
        if class_names is not None:
            names = {
                "id2label": dict(enumerate(class_names)),
                "label2id": {name: label for label, name in enumerate(class_names)},
            }
            names["num_labels"] = len(class_names)
        config = AutoConfig.from_pretrained(folder, **NO_CODE, **names)
        if class_names is not None and hasattr(
            config, "label_names"
        ):  # of timm, which would save the old names
            config.label_names = class_names
        if getattr(
            config, "model_args", None
        ):  # of timm: its own trainer repeats the number of classes, which its wrapper sets too
            config.model_args = {
                name: value for name, value in config.model_args.items() if name != "num_classes"
            }
        if from_scratch:
            return AutoModelForImageClassification.from_config(config, **NO_CODE)
        if (
            Path(folder) / PEFT_FILE
        ).exists():  # transformers would take the weights of the model that it names
            raise ValueError(
                f"{PEFT_FILE} makes it an adapter of another model, merge the two first"
            )
        options = {
            "ignore_mismatched_sizes": class_names is not None,
            "use_safetensors": True,
            "output_loading_info": True,
        }
        network, found = AutoModelForImageClassification.from_pretrained(
            folder, config=config, **options, **NO_CODE
        )
        missing = sorted(found["missing_keys"])
        if missing and class_names is None:
            raise ValueError(
                f"its weights lack {missing[0]}{' and others' * (len(missing) > 1)}, which would be drawn at random"
            )
        return network
    except Exception as error:  # whatever transformers, timm and safetensors raise on what anybody may have written
        raise _cannot_load(called, error) from error


def load_processor(folder: str, called: str):
    """The image processor in a folder. Raises `UserError`; runs no code of the folder's."""
    try:
        return AutoImageProcessor.from_pretrained(folder, **NO_CODE)
    except Exception as error:
        raise _cannot_load(called, error) from error


def _cannot_load(called: str, error: Exception) -> UserError:
    if "trust_remote_code" in str(error):
        return UserError(
            f"cannot load the {called}: it needs code of its own (auto_map), and code that was fetched is never run"
        )
    return UserError(one_line(f"cannot load the {called}: {first_line(error)}"))


def build_for_training(
    model: Pin,
    class_names: list[str],
    image_size: int | None,
    resize_size: int | None,
    from_scratch: bool,
):
    """The network with a head for these classes, and the transform that it is trained and measured
    with: values and channels as its own image processor has them, at `image_size` (that of the
    processor when not given), cropped from `resize_size` where that is given.

    Raises `UserError` when the classifier cannot be loaded, or cannot be trained at this size.
    """
    folder = local_folder(model, MODEL_FILES)
    called = f"classifier {model.name}"
    found = measured_preprocessing(load_processor(folder, called))
    size = image_size or found.size
    if resize_size is not None and resize_size < size:
        raise UserError(
            f"resize_size {resize_size} is smaller than the crop of {size}: give a larger one, or another image_size"
        )
    preprocessing = Preprocessing(
        size, resize_size or size, "bilinear", found.mean, found.std, found.channels
    )
    stock_processor(preprocessing)  # one that could not be saved is refused before the training
    network = load_network(folder, called, class_names, from_scratch)
    error = refusal(network, size)
    if error is not None:
        raise UserError(
            one_line(
                f"the classifier takes no images of {size} x {size}, give another --image_size: {error}"
            )
        )
    return network, preprocessing


def refusal(network, side: int, images: int = 1) -> str | None:
    """Why a network takes no images of side x side, None where it does: a ViT takes those of its
    position embeddings alone.
    """
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            network.eval()(pixel_values=torch.zeros(images, 3, side, side, device=device))
    except Exception as error:  # whatever the network's own code and torch raise
        return first_line(error)
    return None


def save_classifier(network, preprocessing: Preprocessing, folder: Path) -> None:
    """Weights and image processor, as stock transformers reads them."""
    if network.config.model_type == "timm_wrapper":
        network.config.pretrained_cfg = getattr(
            network.config, "pretrained_cfg", {}
        ) | timm_configuration(preprocessing)
    else:
        stock_processor(preprocessing).save_pretrained(folder)
    network.save_pretrained(folder)


class Judge(Classifier):
    """A classifier that says what images show."""

    def __init__(self, pin: Pin, class_names: list[str], device: torch.device):
        """Raises `UserError` when the classifier cannot be read, or has other classes."""
        super().__init__(pin, device, role="judge")
        if self.class_names != class_names:
            raise UserError(
                f"the judge {pin.name} has other classes than the dataset: give a classifier that was trained on them"
            )

    @property
    def accuracy(self) -> float | None:
        """On real images, as its training measured it; None where it did not."""
        return self.facts.get("metrics", {}).get("accuracy")

    def look(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities, float32 (n, classes), and the features that the last linear layer
        gets, float32 (n, d), of inputs (n, 3, size, size), in batches. Raises `UserError` for a
        classifier without such a layer.
        """
        heads = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)]
        if not heads or heads[-1].out_features != self.model.config.num_labels:
            raise UserError(
                f"the judge {self.pin.name} does not end in a linear layer, so its features are not known: give another one"
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
