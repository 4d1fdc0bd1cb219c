"""The picture that shows what happened to each image: one row an image, its stages from left to right."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .pipeline import MaskedImage

TITLES = ("source", "saliency", "mask", "target", "target's mask", "mixed", "refined")
PANEL = 160
GAP = 6
TITLE_HEIGHT = 26
CAPTION_HEIGHT = 22
FONT_SIZE = 15


@dataclass(frozen=True)
class SheetRow:
    """One row: `panels` in the order of `TITLES`, uint8 (h, w, 3) each, and the line of text above them."""

    panels: list[np.ndarray]
    caption: str


def saliency_panel(saliency_map: np.ndarray, size: int) -> np.ndarray:
    """A (64, 64) map in [0, 1] in false colours, uint8 (size, size, 3)."""
    grey = np.clip(np.asarray(saliency_map, np.float32) * 255, 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return cv2.resize(np.ascontiguousarray(colours), (size, size), interpolation=cv2.INTER_LINEAR)


def mask_panel(image: MaskedImage) -> np.ndarray:
    """The image with everything outside its mask dimmed: one sees at once what the mask keeps."""
    dimmed = (image.pixels * 0.2).astype(np.uint8)
    return np.where(image.mask[..., None], image.pixels, dimmed)


def draw_contact_sheet(rows: list[SheetRow]) -> Image.Image:
    """All rows as one RGB picture, panels enlarged to 160 pixels."""
    font = ImageFont.load_default(FONT_SIZE)
    width = GAP + len(TITLES) * (PANEL + GAP)
    height = TITLE_HEIGHT + len(rows) * (CAPTION_HEIGHT + PANEL + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(TITLES):
        draw.text((GAP + column * (PANEL + GAP) + PANEL / 2, TITLE_HEIGHT / 2), title, fill="black", font=font, anchor="mm")
    for number, row in enumerate(rows):
        top = TITLE_HEIGHT + number * (CAPTION_HEIGHT + PANEL + GAP)
        draw.text((GAP, top + CAPTION_HEIGHT / 2), row.caption, fill="#333333", font=font, anchor="lm")
        for column, panel in enumerate(row.panels):
            enlarged = Image.fromarray(panel).resize((PANEL, PANEL), Image.Resampling.LANCZOS)
            sheet.paste(enlarged, (GAP + column * (PANEL + GAP), top + CAPTION_HEIGHT))
    return sheet
