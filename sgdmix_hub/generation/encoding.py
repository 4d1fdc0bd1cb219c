"""Encodes images in worker processes: Pillow's PNG encoder gains nothing from threads.

A worker is a separate program (`encoding_process`) that loads Pillow, not torch and the like.
"""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

from sgdmix_hub.errors import EncoderDied

from .encoding_process import ANSWER, SIZE, read_exactly
from .image_files import QUALITY, encoded

# blocked in workers, which end when their parent does
FOR_THE_PROGRAM = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from sgdmix_hub.generation.encoding_process import work; work(*sys.argv[2:])"
)


def encode_image(
    pixels: np.ndarray, image_format: str, quality: int | None = None, xmp: bytes = b""
) -> bytes:
    """Encodes uint8 (h, w, 3) as an image file: the same bytes for the same arguments. A mask, bool
    (h, w), becomes a PNG of one bit a pixel, whatever the format.

    `quality`: 1 to 100, of jpeg and webp; `QUALITY` by default. `xmp`: a packet to store in the
    file; none if empty.
    """
    if pixels.dtype == bool:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return buffer.getvalue()
    return encoded(Image.fromarray(pixels), image_format, quality, xmp)


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: IO[bytes]


class Encoders:
    """Processes that encode images. They end with their parent, even if it is killed."""

    def __init__(self, num_workers: int, image_format: str, quality: int | None = None):
        quality = QUALITY if quality is None else quality
        self._workers = [_start_worker(image_format, quality) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, "encode")  # each waits for one worker

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *failure) -> None:
        for worker in self._workers:
            worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            # closes the pipes and waits for the end of the process
            with suppress(BrokenPipeError), worker.process:
                pass

    def encode(self, pixels: np.ndarray, xmp: bytes = b"") -> Future[bytes]:
        """Encodes an image or mask as `encode_image` does.

        The future raises `EncoderDied` if the worker was killed.
        """
        if pixels.dtype == bool:  # a millisecond, in this process
            return self._threads.submit(encode_image, pixels, "png")
        return self._threads.submit(self._encode, pixels, xmp)

    def _encode(self, pixels: np.ndarray, xmp: bytes) -> bytes:
        worker = self._idle.get()
        try:
            worker.requests.write(SIZE.pack(*pixels.shape[:2], len(xmp)))
            worker.requests.write(np.ascontiguousarray(pixels).data)
            worker.requests.write(xmp)
            worker.requests.flush()
            is_encoded, length = ANSWER.unpack(read_exactly(worker.answers, ANSWER.size))
            content = read_exactly(worker.answers, length)
        except (BrokenPipeError, EOFError):
            raise EncoderDied(f"encoding process {worker.process.pid} died") from None
        finally:
            self._idle.put(worker)
        if not is_encoded:
            raise ValueError(content.decode())
        return content


def _start_worker(image_format: str, quality: int) -> _Worker:
    """Starts a worker. Must be called on the main thread: for the worker, the death of the thread
    that started it counts as its parent's death (Linux).
    """
    arguments = [json.dumps(sys.path), str(os.getpid()), image_format, str(quality)]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PROGRAM)  # the worker inherits it
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    return _Worker(process, process.stdin, process.stdout)
