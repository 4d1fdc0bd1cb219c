"""Images -> the bytes of image files, in worker processes: Pillow's PNG encoder gains nothing from threads.

The workers import this module alone, not the libraries of the program that starts them.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from concurrent.futures import Future

import numpy as np
from loky import ProcessPoolExecutor
from PIL import Image

from .orphans import signal_with_parent
from .shared_memory import ENCODERS_BYTES, check_shared_memory

ENCODER_OPTIONS = {"png": {}, "jpeg": {"quality": 95}, "webp": {"quality": 95}}


def encode_image(pixels: np.ndarray, image_format: str) -> bytes:
    """uint8 (h, w, 3) as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format.upper(), **ENCODER_OPTIONS[image_format])
    return buffer.getvalue()


class Encoders:
    """Processes that encode images; they end with the process that started them, however that ends. Raises `UserError` where shared memory
    has no room for their queues."""

    def __init__(self, num_workers: int, image_format: str):
        check_shared_memory(ENCODERS_BYTES, "the processes that encode images", "free some, or give it ")
        self.image_format = image_format
        self._pool = ProcessPoolExecutor(num_workers, initializer=_end_with_parent, initargs=(os.getpid(),))
        self._pool.submit(int)  # the processes start now, not with the first image

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *failure) -> None:
        self._pool.shutdown(kill_workers=True)

    def encode(self, pixels: np.ndarray) -> Future:
        """The bytes to come of uint8 (h, w, 3)."""
        return self._pool.submit(encode_image, pixels, self.image_format)


def _end_with_parent(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program to handle
    if not signal_with_parent(signal.SIGKILL, parent):
        sys.exit()
