"""Images of known pixels, and cells of a dataset that hold them."""

import io

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 40


def known_rgb():
    """A picture without symmetries: gradients, and a bright block in one corner."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack(
        [x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), 128 + 0 * x], axis=-1
    ).astype(np.uint8)
    picture[2:8, 4:14] = (250, 240, 20)
    return Image.fromarray(picture)


def cell(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}
