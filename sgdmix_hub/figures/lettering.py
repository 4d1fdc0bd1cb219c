"""Text in pictures: a font with the needed letters, escapes for missing ones, and shortening."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

LONGEST_DRAWN = 1000  # characters; no picture has room for more


@lru_cache
def _dejavu() -> tuple[str, frozenset[str]]:
    """The path of matplotlib's DejaVu Sans and the characters in it."""
    import matplotlib  # takes half a second, which a program that draws nothing saves
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return str(path), frozenset(map(chr, FT2Font(str(path)).get_charmap()))


@lru_cache
def font_for(is_ascii: bool, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's font for ASCII text; DejaVu Sans for Latin, Greek, Cyrillic and more."""
    font = ImageFont.load_default(size) if is_ascii else ImageFont.truetype(_dejavu()[0], size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels are built with FreeType
    return font


def drawable(text: str) -> str:
    """The text with a Python escape for every character that the fonts cannot draw."""
    text = text[:LONGEST_DRAWN]
    if text.isascii() and text.isprintable():
        return text
    known = _dejavu()[1]
    return "".join(
        c if c.isprintable() and c in known else c.encode("unicode_escape").decode() for c in text
    )


def fitted(text: str, size: int, room: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """A line of text, shortened to `room` pixels, and the font to draw it with."""
    text = drawable(text)
    font = font_for(text.isascii(), size)
    return shortened(text, font, room), font


def wrapped(text: str, size: int, room: float, most: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text in at most `most` lines of `room` pixels, the last shortened, and its font."""
    text = drawable(text)
    font = font_for(text.isascii(), size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (len(lines) == most or font.getlength(longer) <= room):
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(shortened(line, font, room) for line in lines), font


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text or, if it is wider than `room` pixels, the longest beginning that fits with "…"."""
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
