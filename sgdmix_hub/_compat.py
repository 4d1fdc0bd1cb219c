"""Private and undocumented APIs of other libraries: the only place that may use them.

Each function says what it stands in for and which versions it was checked against: the oldest that
pyproject.toml allows, and the locked one. Imports are lazy, so light programs stay light.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from pytorch_grad_cam.base_cam import BaseCAM

# Held while a network is loaded. transformers replaces methods of its classes meanwhile and puts
# back what it found: two threads that load at once leave `tie_weights` replaced for good, and tied
# weights of every later network are random. Seen with 5.23; no version says that it may be done.
LOADING = threading.RLock()


def hub_client_factory() -> Callable[[], Any]:
    """What builds the Hub client's HTTP client: the missing getter for `set_client_factory`.

    Checked against huggingface_hub 1.3.0 and 2.4.0.
    """
    from huggingface_hub.utils import _http

    return _http._GLOBAL_CLIENT_FACTORY


def forget_mixed_precision() -> None:
    """Resets accelerate's global mixed precision: the next `Accelerator` may choose another.

    No public call does it. Ranks and process group stay. Checked against accelerate 1.5.0 and
    1.15.0.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()


def dataset_fingerprint(dataset: Dataset) -> str:
    """The hash by which datasets caches what is computed from a dataset: it has no public getter.

    Checked against datasets 4.4.0 and 5.2.0.
    """
    return dataset._fingerprint


def remove_cam_hooks(cam: BaseCAM) -> None:
    """Removes a CAM's hooks from its model, as leaving its context does.

    The context itself cannot be used: it swallows an `IndexError`. Checked against grad-cam 1.5.7.
    """
    cam.activations_and_grads.release()
