"""Images -> the bytes of image files, in worker processes: Pillow's PNG encoder gains nothing from
threads.

A worker is a program of its own that loads this module alone, not the libraries of the program that
starts it, and is spoken to through its standard input and output. They share no lock and no
semaphore: one that is killed, at whatever moment, is an end of file to its parent, never a wait.

    to a worker     height and width, uint32; the pixels
    from it         whether they were encoded, bool; the length, uint64; the file's bytes, or why not
"""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import struct
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from PIL import Image

from sgdmix_hub.errors import EncoderDied
from sgdmix_hub.runtime.parent_death import signal_with_parent

ENCODER_OPTIONS = {"png": {}, "jpeg": {"quality": 95}, "webp": {"quality": 95}}
SIZE, ANSWER = struct.Struct("<II"), struct.Struct("<?Q")
FOR_THE_PROGRAM = {
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTERM,
}  # a worker ends when its program does
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from sgdmix_hub.generation.encoding import work; work(*sys.argv[2:])"


def encode_image(pixels: np.ndarray, image_format: str) -> bytes:
    """uint8 (h, w, 3) as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, format=image_format.upper(), **ENCODER_OPTIONS[image_format]
    )
    return buffer.getvalue()


class Encoders:
    """Processes that encode images; they end with the process that started them, however that ends."""

    def __init__(self, num_workers: int, image_format: str):
        self._workers = [_start_worker(image_format) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, "encode")  # each waits for one worker

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *failure) -> None:
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            with suppress(BrokenPipeError), worker:  # closes its pipes and waits for its end
                pass

    def encode(self, pixels: np.ndarray) -> Future:
        """The bytes to come of uint8 (h, w, 3). The future raises `EncoderDied`."""
        return self._threads.submit(self._encode, pixels)

    def _encode(self, pixels: np.ndarray) -> bytes:
        worker = self._idle.get()
        try:
            worker.stdin.write(SIZE.pack(*pixels.shape[:2]))
            worker.stdin.write(np.ascontiguousarray(pixels).data)
            worker.stdin.flush()
            encoded, length = ANSWER.unpack(_read(worker.stdout, ANSWER.size))
            content = _read(worker.stdout, length)
        except (BrokenPipeError, EOFError):
            raise EncoderDied(f"encoding process {worker.pid} died") from None
        finally:
            self._idle.put(worker)
        if not encoded:
            raise ValueError(content.decode())
        return content


def _start_worker(image_format: str) -> subprocess.Popen:
    """Called on the main thread: Linux takes the death of the thread that starts a process for its
    parent's.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PROGRAM)  # which the worker inherits
    try:
        command = [
            sys.executable,
            "-c",
            START,
            json.dumps(sys.path),
            str(os.getpid()),
            image_format,
        ]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(parent: str, image_format: str) -> None:
    """What a worker does until its program ends."""
    if not signal_with_parent(signal.SIGKILL, int(parent)):
        return
    while header := sys.stdin.buffer.read(SIZE.size):
        height, width = SIZE.unpack(header)
        pixels = np.frombuffer(_read(sys.stdin.buffer, height * width * 3), np.uint8).reshape(
            height, width, 3
        )
        try:
            encoded, content = True, encode_image(pixels, image_format)
        except Exception as error:
            encoded, content = False, f"{type(error).__name__}: {error}".encode(errors="replace")
        sys.stdout.buffer.write(ANSWER.pack(encoded, len(content)) + content)
        sys.stdout.buffer.flush()


def _read(stream: io.BufferedIOBase, length: int) -> bytes:
    """Exactly so many bytes. Raises `EOFError`."""
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content
