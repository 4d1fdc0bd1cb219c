"""Text in pictures: a font that has its letters, escapes for those that no font here has, and what
fits into a width.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

LONGEST_DRAWN = 1000  # characters: no picture has room for more


@lru_cache
def _dejavu() -> tuple[str, frozenset[str]]:
    """The file of the DejaVu Sans that comes with matplotlib, and the characters that it has."""
    import matplotlib  # half a second of the start of a program that draws nothing
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return str(path), frozenset(map(chr, FT2Font(str(path)).get_charmap()))


@lru_cache
def font_for(is_ascii: bool, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which has the letters of ASCII alone, or one with those of Latin, Greek,
    Cyrillic and more.
    """
    return ImageFont.load_default(size) if is_ascii else ImageFont.truetype(_dejavu()[0], size)


def drawable(text: str) -> str:
    """The text with an escape, as in Python, for each character that would be drawn as an empty
    box, or not at all.
    """
    text = text[:LONGEST_DRAWN]
    if text.isascii() and text.isprintable():
        return text
    known = _dejavu()[1]
    return "".join(
        c if c.isprintable() and c in known else c.encode("unicode_escape").decode() for c in text
    )


def fitted(text: str, size: int, room: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """A line of text, or as much of its beginning as fits into `room` pixels with an ellipsis, and
    the font to draw it with.
    """
    text = drawable(text)
    font = font_for(text.isascii(), size)
    return shortened(text, font, room), font


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, or as much of its beginning as fits into `room` pixels with an ellipsis: a text
    that is longer is wider.
    """
    if font.getlength(text) <= room:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        length = (fits + too_long) // 2
        if font.getlength(text[:length].rstrip() + "…") <= room:
            fits = length
        else:
            too_long = length
    return text[:fits].rstrip() + "…"
