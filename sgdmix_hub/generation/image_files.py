"""An image as the bytes of a file.

Encoding workers load this module and Pillow alone: nothing here imports numpy.
"""

from __future__ import annotations

import io

from PIL import Image, PngImagePlugin

QUALITY = 95  # of jpeg and webp, if the settings name none
# JPEG keeps colour at full resolution (4:4:4): 4:2:0 loses 2 to 6 dB at this quality
ENCODER_OPTIONS = {"png": {}, "jpeg": {"subsampling": 0, "optimize": True}, "webp": {"method": 4}}
HAS_QUALITY = ("jpeg", "webp")


def encoded(image: Image.Image, image_format: str, quality: int | None, xmp: bytes) -> bytes:
    """The file of an RGB image: the same bytes for the same arguments.

    `quality`: 1 to 100, of jpeg and webp; `QUALITY` if None. `xmp`: a packet to store in the file;
    none if empty.
    """
    buffer = io.BytesIO()
    options = dict(ENCODER_OPTIONS[image_format])
    if image_format in HAS_QUALITY:
        options["quality"] = QUALITY if quality is None else quality
    if xmp and image_format == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp:
        options["xmp"] = xmp
    image.save(buffer, format=image_format.upper(), **options)
    return buffer.getvalue()
