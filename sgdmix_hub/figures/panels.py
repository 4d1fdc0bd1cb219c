"""Sheets of pictures: one row per image, its panels side by side under their titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.errors import Unusable
from sgdmix_hub.method.mixer import MaskedImage

from .lettering import fitted, font_for, wrapped

TITLES = ("source", "saliency", "mask", "target", "target's mask", "mixed", "refined")
PANEL = 160
GAP = 6
TITLE_HEIGHT = 26
CAPTION_HEIGHT = 22
FONT_SIZE = 15
GROUP_GAP = 22
GROUP_HEIGHT = 28
GROUP_COLOUR = "#e4e9f2"
BLANK_COLOUR = "#f2f2f2"
CAPTION_COLOUR = "#333333"
OUTLINE_COLOUR = (255, 64, 220)
FRAME_COLOUR, FRAME = (220, 30, 30), 5


@dataclass(frozen=True)
class SheetRow:
    """One row: panels in the order of the titles, uint8 (h, w, 3), and the line above them."""

    panels: list[np.ndarray]
    caption: str


@dataclass(frozen=True)
class Panel:
    """One picture, uint8 (h, w, 3), and the text above it.

    If there is no picture, `pixels` is the reason, which is drawn in its place.
    """

    pixels: np.ndarray | Unusable
    caption: str = ""


@dataclass(frozen=True)
class Group:
    """Neighbouring columns: a common title, and one for each, which may have several lines."""

    title: str
    columns: list[str]


def saliency_panel(saliency_map: np.ndarray, size: int) -> np.ndarray:
    """A (64, 64) map in [0, 1] in false colours, uint8 (size, size, 3)."""
    grey = np.clip(np.asarray(saliency_map, np.float32) * 255, 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return cv2.resize(np.ascontiguousarray(colours), (size, size), interpolation=cv2.INTER_LINEAR)


def mask_panel(image: MaskedImage) -> np.ndarray:
    """The image with everything outside its mask dimmed."""
    dimmed = (image.pixels * 0.2).astype(np.uint8)
    return np.where(image.mask[..., None], image.pixels, dimmed)


def outlined_panel(image: MaskedImage, size: int) -> np.ndarray:
    """As `mask_panel`, at size x size and with an outline, because dark images hide the dimming."""
    mask = resize_mask(image.mask, size)
    pixels = cv2.resize(mask_panel(image), (size, size), interpolation=cv2.INTER_AREA)
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return np.where(outline[..., None] > 0, np.array(OUTLINE_COLOUR, np.uint8), pixels)


def framed_panel(pixels: np.ndarray) -> np.ndarray:
    """The picture, uint8 (h, w, 3), in a red frame."""
    framed = np.empty_like(pixels)
    framed[:] = FRAME_COLOUR
    inside = np.s_[FRAME:-FRAME, FRAME:-FRAME]
    framed[inside] = pixels[inside]
    return framed


def draw_contact_sheet(rows: list[SheetRow], titles: Sequence[str] = TITLES) -> Image.Image:
    """All rows as one RGB picture with panels of 160 x 160 pixels."""
    captioned = [
        [Panel(panel, "" if column else row.caption) for column, panel in enumerate(row.panels)]
        for row in rows
    ]
    return draw_panels([Group("", list(titles))], captioned, PANEL, FONT_SIZE)


def draw_panels(
    groups: list[Group], rows: list[list[Panel]], size: int, font_size: int
) -> Image.Image:
    """Rows of panels under groups of columns as one RGB picture; panels fit size x size.

    A long caption extends over the following panels that have none, and is shortened to that room.
    """
    titles = [title for group in groups for title in group.columns]
    lines = max(title.count("\n") for title in titles) + 1
    head = GROUP_HEIGHT * any(group.title for group in groups)
    rows_top = head + TITLE_HEIGHT + (lines - 1) * font_size
    lefts, spans = _places(groups, size)
    sheet = Image.new(
        "RGB", (spans[-1][1] + GAP, rows_top + len(rows) * (CAPTION_HEIGHT + size + GAP)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for group, (left, right) in zip(groups, spans, strict=True):
        if group.title:
            draw.rectangle((left, 2, right - 1, head - 2), fill=GROUP_COLOUR)
            draw.text(
                ((left + right) / 2, head / 2),
                group.title,
                fill="black",
                font=font_for(True, font_size),
                anchor="mm",
            )
    for left, title in zip(lefts, titles, strict=True):
        middle = (left + size / 2, (head + rows_top) / 2)
        written = [fitted(line, font_size, size + GAP) for line in title.splitlines()]
        text = "\n".join(line for line, _ in written)
        font = font_for(all(line.isascii() for line in title.splitlines()), font_size)
        draw.text(middle, text, fill="black", font=font, anchor="mm", align="center", spacing=1)
    for number, row in enumerate(rows):
        top = rows_top + number * (CAPTION_HEIGHT + size + GAP)
        ends = [
            next((n for n in range(c + 1, len(row)) if row[n].caption), None)
            for c in range(len(row))
        ]
        for panel, left, end in zip(row, lefts, ends, strict=True):
            room = (sheet.width if end is None else lefts[end]) - GAP - left
            text, font = fitted(panel.caption, font_size, room)
            draw.text(
                (left, top + CAPTION_HEIGHT / 2), text, fill=CAPTION_COLOUR, font=font, anchor="lm"
            )
            _draw_panel(sheet, draw, panel.pixels, (left, top + CAPTION_HEIGHT), size, font_size)
    return sheet


def _places(groups: list[Group], size: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The left edge of every column, and the left and right edge of every group."""
    lefts, spans, left = [], [], GAP
    for group in groups:
        lefts += [left + column * (size + GAP) for column in range(len(group.columns))]
        spans.append((left, lefts[-1] + size))
        left = lefts[-1] + size + GROUP_GAP
    return lefts, spans


def _draw_panel(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    pixels: np.ndarray | Unusable,
    place: tuple[int, int],
    size: int,
    font_size: int,
) -> None:
    if isinstance(pixels, Unusable):
        left, top = place
        draw.rectangle((left, top, left + size - 1, top + size - 1), fill=BLANK_COLOUR)
        middle = (left + size / 2, top + size / 2)
        text, font = wrapped(pixels.reason, font_size, size - GAP, max(1, size // (2 * font_size)))
        draw.text(middle, text, fill=CAPTION_COLOUR, font=font, anchor="mm", align="center")
    else:
        picture = ImageOps.contain(Image.fromarray(pixels), (size, size), Image.Resampling.LANCZOS)
        left, top = place
        middle = left + (size - picture.width) // 2, top + (size - picture.height) // 2
        sheet.paste(picture, middle)


def stacked(parts: list[Image.Image | list[str]], font_size: int) -> Image.Image:
    """Pictures and lines of text, from top to bottom, as one RGB picture."""
    line_height = round(font_size * 1.5)
    heights = [
        part.height if isinstance(part, Image.Image) else len(part) * line_height + GAP
        for part in parts
    ]
    page = Image.new(
        "RGB",
        (max(part.width for part in parts if isinstance(part, Image.Image)), sum(heights)),
        "white",
    )
    draw, top = ImageDraw.Draw(page), 0
    for part, height in zip(parts, heights, strict=True):
        if isinstance(part, Image.Image):
            page.paste(part, (0, top))
        else:
            for number, line in enumerate(part):
                middle = top + GAP + (number + 0.5) * line_height
                text, font = fitted(line, font_size, page.width - 2 * GAP)
                draw.text((GAP, middle), text, fill="black", font=font, anchor="lm")
        top += height
    return page


def in_few_colours(picture: Image.Image) -> Image.Image:
    """The picture in 256 dithered colours: half the bytes as PNG, with hardly a visible change."""
    palette = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
