"""The sheet of a base: samples with captions, reconstructions and img2img of held-out birds."""

from __future__ import annotations

import textwrap

import numpy as np
from diffusers import StableDiffusionPipeline
from parts.tiny_base.samples import make_samples, through_vae, translate
from parts.tiny_base.scenes import Scenes
from PIL import Image, ImageDraw, ImageFont

OPENING = "a photo of a "
# Two for every background; between them they name every kind of wing, tail, beak and crest, first
# one part, then more.
CAPTIONS = [
    "red bird with white head in a forest",
    "blue bird with barred yellow wings at the sea",
    "white bird with forked black tail in the sky",
    "yellow bird with long red beak on a meadow",
    "purple bird with spiky orange crest in the desert",
    "black bird with spotted white wings in the snow",
    "green bird with fanned pink tail on a cliff",
    "orange bird with hooked gray beak in a marsh",
    "teal bird with swept red crest in autumn leaves",
    "pink bird with tipped blue wings at night",
    "brown bird with yellow head, long blue tail in a forest",
    "gray bird with red head, plain orange wings at the sea",
    "red bird with round white crest, hooked yellow beak in the sky",
    "white bird with blue head, barred black wings, short red tail on a meadow",
    "teal bird with purple head, spiky yellow crest, long black beak in the desert",
    "orange bird with black head, fanned blue tail, short red beak in the snow",
    "yellow bird with green head, spotted purple wings, swept pink crest on a cliff",
    "blue bird with white head, long orange beak, forked yellow tail in a marsh",
    "black bird with pink head, tipped teal wings, round red crest, short gray beak, long white "
    "tail in autumn leaves",
    "green bird with orange head, plain red wings, fanned yellow tail, hooked white beak, spiky "
    "blue crest at night",
]
EACH = 2  # samples for a caption
STRENGTHS = (0.3, 0.5, 0.7)
COLUMNS = 4  # captions in a line
PANEL, GAP, MARGIN = 128, 2, 14
FONT_SIZE, LINE_HEIGHT, CAPTION_LINES, LETTERS = 13, 16, 3, 40
CELL = EACH * (PANEL + GAP) - GAP
WIDTH = MARGIN + COLUMNS * (CELL + MARGIN)
BIRDS = (WIDTH - MARGIN + GAP) // (PANEL + GAP)  # held-out birds in a line


def enlarged(image: np.ndarray) -> Image.Image:
    """uint8 (64, 64, 3) -> a panel."""
    return Image.fromarray(image).resize((PANEL, PANEL), Image.Resampling.LANCZOS)


def paste_line(sheet: Image.Image, images: np.ndarray, left: int, top: int) -> None:
    """Images (N, 64, 64, 3) side by side."""
    for column, image in enumerate(images):
        sheet.paste(enlarged(image), (left + column * (PANEL + GAP), top))


def blank(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (WIDTH, height), "white")
    canvas = ImageDraw.Draw(sheet)
    canvas.font = ImageFont.load_default(FONT_SIZE)
    return sheet, canvas


def samples_block(samples: np.ndarray) -> Image.Image:
    """Samples (captions, EACH, 64, 64, 3): one row per caption, the caption under it."""
    cell_height = PANEL + CAPTION_LINES * LINE_HEIGHT + MARGIN
    sheet, canvas = blank(MARGIN + -(-len(samples) // COLUMNS) * cell_height)
    for number, (images, caption) in enumerate(zip(samples, CAPTIONS, strict=True)):
        left, top = (
            MARGIN + number % COLUMNS * (CELL + MARGIN),
            MARGIN + number // COLUMNS * cell_height,
        )
        paste_line(sheet, images, left, top)
        for line, words in enumerate(textwrap.wrap(caption, LETTERS)):
            canvas.text((left, top + PANEL + 2 + line * LINE_HEIGHT), words, fill="black")
    return sheet


def rows_block(rows: dict[str, np.ndarray]) -> Image.Image:
    """Label -> images (N, 64, 64, 3), a line each with its label above it."""
    row_height = LINE_HEIGHT + PANEL + 4
    sheet, canvas = blank(len(rows) * row_height + MARGIN)
    for number, (label, images) in enumerate(rows.items()):
        top = number * row_height
        canvas.text((MARGIN, top), label, fill="black")
        paste_line(sheet, images, MARGIN, top + LINE_HEIGHT)
    return sheet


def make_sheet(pipeline: StableDiffusionPipeline, scenes: Scenes) -> Image.Image:
    """Unselected samples for `CAPTIONS`, and img2img of the first of `scenes`."""
    captions = [OPENING + caption for caption in CAPTIONS for _ in range(EACH)]
    samples = make_samples(pipeline, captions, list(range(len(captions))))
    birds, told = scenes.images[:BIRDS], scenes.captions[:BIRDS]
    rows = {"held-out birds": birds, "through the autoencoder": through_vae(pipeline.vae, birds)}
    for strength in STRENGTHS:
        rows[f"img2img with their captions, S = {strength}"] = translate(
            pipeline, birds, told, strength
        )
    blocks = [
        samples_block(samples.reshape(len(CAPTIONS), EACH, *samples.shape[1:])),
        rows_block(rows),
    ]
    return Image.fromarray(np.concatenate([np.asarray(block) for block in blocks]))
