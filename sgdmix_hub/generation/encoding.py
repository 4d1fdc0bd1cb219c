"""Encodes images in worker processes: Pillow's PNG encoder gains nothing from threads.

A worker is a separate program that loads only this module, not torch and the like. It talks to its
parent through standard input and output, and they share no lock: if a worker is killed, its parent
reads an end of file and never hangs.

    request    height, width and length of the XMP packet, uint32; the pixels; the packet
    answer     whether they were encoded, bool; the length, uint64; the file's bytes, or the error
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
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, PngImagePlugin

from sgdmix_hub.errors import EncoderDied
from sgdmix_hub.runtime.parent_death import signal_with_parent

QUALITY = 95  # of jpeg and webp, if the settings name none
# JPEG keeps colour at full resolution (4:4:4): 4:2:0 loses 2 to 6 dB at this quality
ENCODER_OPTIONS = {"png": {}, "jpeg": {"subsampling": 0, "optimize": True}, "webp": {"method": 4}}
HAS_QUALITY = ("jpeg", "webp")
SIZE, ANSWER = struct.Struct("<III"), struct.Struct("<?Q")
# blocked in workers, which end when their parent does
FOR_THE_PROGRAM = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from sgdmix_hub.generation.encoding import work; work(*sys.argv[2:])"
)


def encode_image(
    pixels: np.ndarray, image_format: str, quality: int | None = None, xmp: bytes = b""
) -> bytes:
    """Encodes uint8 (h, w, 3) as an image file: the same bytes for the same arguments.

    `quality`: 1 to 100, of jpeg and webp; `QUALITY` by default. `xmp`: a packet to store in the
    file; none if empty.
    """
    options = dict(ENCODER_OPTIONS[image_format])
    if image_format in HAS_QUALITY:
        options["quality"] = QUALITY if quality is None else quality
    if xmp and image_format == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp:
        options["xmp"] = xmp
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format.upper(), **options)
    return buffer.getvalue()


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
        """Encodes uint8 (h, w, 3), as `encode_image` does.

        The future raises `EncoderDied` if the worker was killed.
        """
        return self._threads.submit(self._encode, pixels, xmp)

    def _encode(self, pixels: np.ndarray, xmp: bytes) -> bytes:
        worker = self._idle.get()
        try:
            worker.requests.write(SIZE.pack(*pixels.shape[:2], len(xmp)))
            worker.requests.write(np.ascontiguousarray(pixels).data)
            worker.requests.write(xmp)
            worker.requests.flush()
            encoded, length = ANSWER.unpack(_read(worker.answers, ANSWER.size))
            content = _read(worker.answers, length)
        except (BrokenPipeError, EOFError):
            raise EncoderDied(f"encoding process {worker.process.pid} died") from None
        finally:
            self._idle.put(worker)
        if not encoded:
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


def work(parent: str, image_format: str, quality: str) -> None:
    """The main loop of a worker, which ends with its parent."""
    if not signal_with_parent(signal.SIGKILL, int(parent)):
        return
    while header := sys.stdin.buffer.read(SIZE.size):
        height, width, xmp_length = SIZE.unpack(header)
        pixels = np.frombuffer(_read(sys.stdin.buffer, height * width * 3), np.uint8).reshape(
            height, width, 3
        )
        xmp = _read(sys.stdin.buffer, xmp_length)
        try:
            encoded, content = True, encode_image(pixels, image_format, int(quality), xmp)
        except Exception as error:
            encoded, content = False, f"{type(error).__name__}: {error}".encode(errors="replace")
        sys.stdout.buffer.write(ANSWER.pack(encoded, len(content)) + content)
        sys.stdout.buffer.flush()


def _read(stream: IO[bytes], length: int) -> bytes:
    """Exactly `length` bytes. Raises `EOFError` if the stream ends before."""
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content
