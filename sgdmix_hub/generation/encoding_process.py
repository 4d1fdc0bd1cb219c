"""The program of an encoding worker, which starts in a tenth of a second.

It talks to its parent through standard input and output, and they share no lock: if a worker is
killed, its parent reads an end of file and never hangs.

    request    height, width and length of the XMP packet, uint32; the pixels; the packet
    answer     whether they were encoded, bool; the length, uint64; the file's bytes, or the error
"""

from __future__ import annotations

import signal
import struct
import sys
from typing import IO

from PIL import Image

from sgdmix_hub.runtime.parent_death import signal_with_parent

from .image_files import encoded

SIZE, ANSWER = struct.Struct("<III"), struct.Struct("<?Q")


def work(parent: str, image_format: str, quality: str) -> None:
    """The main loop of a worker, which ends with its parent."""
    if not signal_with_parent(signal.SIGKILL, int(parent)):
        return
    while header := sys.stdin.buffer.read(SIZE.size):
        height, width, xmp_length = SIZE.unpack(header)
        pixels = read_exactly(sys.stdin.buffer, height * width * 3)
        xmp = read_exactly(sys.stdin.buffer, xmp_length)
        try:
            image = Image.frombytes("RGB", (width, height), pixels)
            is_encoded, content = True, encoded(image, image_format, int(quality), xmp)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            is_encoded, content = False, text.encode(errors="replace")
        sys.stdout.buffer.write(ANSWER.pack(is_encoded, len(content)) + content)
        sys.stdout.buffer.flush()


def read_exactly(stream: IO[bytes], length: int) -> bytes:
    """Exactly `length` bytes. Raises `EOFError` if the stream ends before."""
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content
