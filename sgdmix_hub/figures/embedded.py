"""Pictures inside a page, as addresses that hold the picture itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

QUALITY = 85  # of JPEG


def data_uri(image: Image.Image | np.ndarray, size: int, quality: int = QUALITY) -> str:
    """A JPEG of at most size x size pixels as the address of an `<img>`.

    `image`: of PIL, or uint8 (h, w, 3).
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture = picture.convert("RGB")
    picture.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
