"""The photographs that the base is trained on: those of the packages that no test image shows.

Every background of benchmarks/cutouts.py is a test background of some seed of
benchmarks/photograph_shift.py, so none of them, and no other picture of their places, is among
these. Picked by eye.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from cutouts import LOMIRI, MATE, PLASMA
from PIL import Image

LARGEST, SMALLEST = 700, 128  # pixels: of the longer side, and of the shorter one
HELD_OUT_OF = 8  # one photograph in so many is held out
PALAPELI, GCOMPRIS = "usr/share/palapeli/collection/", "usr/share/gcompris-qt/rcc/"
FREESPACE, AITZOL = ("0B", "1A"), ("aitzgorri", "friends", "life")
NATURE = ("Aqua", "Blinds", "FreshFlower", "Garden", "LadyBird", "RainDrops", "TwoWings")
KDE = ("ColdRipple", "ColorfulCups", "Kite", "OneStandsOut", "Volna")
FILES = [
    *(f"{LOMIRI}Picture_{number}_by_freespace.jpg" for number in FREESPACE),
    *(f"{LOMIRI}{name}_by_Aitzol_Berasategi.jpg" for name in AITZOL),
    LOMIRI + "Kleiber_by_Lukas_Baubkus.jpg",
    LOMIRI + "greentock_by_Peter_Nerlich.jpg",
    LOMIRI + "seeding_by_Clements_Engelhardt.jpg",
    *(f"{MATE}{name}.jpg" for name in (*NATURE, "YellowFlower")),
    *(f"{PLASMA}{name}/contents/images/*.jpg" for name in KDE),
    PALAPELI + "*.jpg",
]
# Resource file -> those of its pictures that are photographs, as a regular expression.
RESOURCES = {
    "erase": "resource/[a-z_]+",
    "explore_farm_animals": "animals/[a-z_]+",
    "explore_world_animals": "animals/[a-z_]+",
    "explore_monuments": "resource/[a-z]+/[A-Za-z]+",
    "categorization": "images/(fishes|renewable)/[a-z]+[0-9]*",
}
NAMED = ("erase", "explore_farm_animals", "explore_world_animals")  # a file is called what it shows


def resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of the uncompressed files in a Qt resource file (`rcc --binary`)."""
    content = path.read_bytes()
    magic, version, tree, data, names = struct.unpack(">4s4I", content[:20])
    if magic != b"qres":
        raise ValueError(f"{path} is no Qt resource file")
    size = 14 if version < 2 else 22

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        start = tree + node * size
        name_at, flags = struct.unpack(">IH", content[start : start + 6])
        name_at += names
        (length,) = struct.unpack(">H", content[name_at : name_at + 2])
        name = content[name_at + 6 : name_at + 6 + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", content[start + 6 : start + 14])
            for child in range(first, first + count):
                yield from walk(child, f"{folder}{name}/" if node else "")
        elif not flags:
            (at,) = struct.unpack(">I", content[start + 10 : start + 14])
            at += data
            (length,) = struct.unpack(">I", content[at : at + 4])
            yield folder + name, content[at + 4 : at + 4 + length]

    yield from walk(0, "")


def reduced(file: Path | io.BytesIO) -> np.ndarray | None:
    """The picture, uint8 (h, w, 3), at most `LARGEST`; None if it is too small."""
    image = Image.open(file)
    image.draft("RGB", (LARGEST, LARGEST))
    pixels = np.asarray(image.convert("RGB"))
    if min(pixels.shape[:2]) < SMALLEST:
        return None
    scale = LARGEST / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def photographs(root: Path) -> dict[str, tuple[np.ndarray, str]]:
    """Name -> photograph and what it shows, which may be "", of all packages below `root`/deb."""
    found: dict[str, tuple[np.ndarray, str]] = {}
    for pattern in FILES:
        path = min((root / "deb").glob(f"*/{pattern}"))
        paths = [path] if not pattern.startswith(PALAPELI) else sorted(path.parent.glob("*.jpg"))
        for path in paths:
            name = path.parts[-4] if pattern.startswith(PLASMA) else path.stem
            pixels = reduced(path)
            if pixels is not None:
                found[name] = pixels, ""
    for stem, pattern in RESOURCES.items():
        (path,) = (root / "deb").glob(f"*/{GCOMPRIS}{stem}.rcc")
        for name, content in resources(path):
            if re.search(f"/{pattern}\\.webp$", name):
                pixels = reduced(io.BytesIO(content))
                if pixels is not None:
                    name = Path(name).stem
                    found[f"{stem}/{name}"] = pixels, words(name) if stem in NAMED else ""
    return found


def words(name: str) -> str:
    """A file's name as lower-case words."""
    return " ".join(re.findall("[a-z]+", name.lower()))


def held_out(name: str) -> bool:
    """Whether the photograph of this name is kept from the training."""
    return zlib.crc32(name.encode()) % HELD_OUT_OF == 0
