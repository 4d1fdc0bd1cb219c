"""Loading the networks of a generation, for programs and pipelines alike.

The libraries of networks take seconds to import; each function imports what it loads, so mixing
alone starts without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import Pin

if TYPE_CHECKING:
    from .classifier import Classifier


def load_classifier(pin: Pin, class_names: list[str] | None, device: torch.device) -> Classifier:
    """The classifier of a saliency source; `class_names`: of the dataset, or None if unknown.

    Raises `UserError` if the classifier cannot be read or has other classes.
    """
    from .classifier import Classifier

    classifier = Classifier(pin, device)
    if class_names is not None and classifier.class_names != class_names:
        raise UserError(
            f"the classifier's {len(classifier.class_names)} classes are not the dataset's "
            f"{len(class_names)}: train one with sgdmix train-classifier"
        )
    return classifier
