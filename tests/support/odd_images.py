"""Odd, damaged and hostile image files, as third-party datasets contain them; seeded."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "ICO", "JPEG2000", "AVIF")
SIDE = 96


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A coloured ellipse on a texture."""
    rng = np.random.default_rng(seed)
    texture = Image.fromarray(rng.integers(60, 200, (6, 9, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.array(texture)
    y, x = np.mgrid[:height, :width]
    inside = ((x - width * rng.uniform(0.3, 0.7)) / width) ** 2 + (
        (y - height * rng.uniform(0.3, 0.7)) / height
    ) ** 2 < 0.04
    pixels[inside] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def pattern(name: str, period: int, seed: int, side: int = 256) -> Image.Image:
    """A pattern without a foreground: dots, jittered dots, stripes, checks or scales."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    colours = rng.integers(0, 256, (2, 3), dtype=np.uint8)
    if name == "jittered":
        shown = np.zeros((side, side), bool)
        for top in range(0, side, period):
            for left in range(0, side, period):
                a, b = rng.integers(0, max(1, period // 2), 2)
                shown[
                    top + a : top + a + period // 3 + 1, left + b : left + b + period // 3 + 1
                ] = True
    else:
        shown = {
            "dots": (x % period - period // 2) ** 2 + (y % period - period // 2) ** 2
            < max(1, period**2 // 10),
            "stripes": x % period < period // 2,
            "checks": (x // period + y // period) % 2 == 0,
            "scales": np.sin(x * 2 * np.pi / period) * np.sin(y * 2 * np.pi / period) > 0.2,
        }[name]
    return Image.fromarray(np.where(shown[..., None], colours[0], colours[1]).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(side: int, *chunks: bytes) -> bytes:
    """A grey PNG whose header claims side x side pixels but which holds 8 x 8, after `chunks`."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress((b"\0" + bytes(range(8))) * 8))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def odd_images() -> Iterator[tuple[str, bytes]]:
    """Over 500 pairs of a description and the bytes of a file."""
    yield from damaged()
    yield from patterns()
    yield from shapes()
    yield from values()
    yield from impostors()


def damaged() -> Iterator[tuple[str, bytes]]:
    for file_format in FORMATS:
        rng = np.random.default_rng(len(file_format))
        whole = encoded(picture(3), file_format)
        for cut in (1, 12, len(whole) // 3, len(whole) // 2, len(whole) - 2):
            yield f"{file_format} cut to {cut} bytes", whole[:cut]
        for trial in range(25):
            flipped = bytearray(whole)
            for position in rng.integers(
                0, len(whole) if trial % 2 else min(200, len(whole)), 1 + trial % 6
            ):
                flipped[position] ^= 1 << int(rng.integers(8))
            yield f"{file_format} with flipped bits {trial}", bytes(flipped)


def patterns() -> Iterator[tuple[str, bytes]]:
    for name in ("dots", "jittered", "stripes", "checks", "scales"):
        for period in (4, 6, 8, 12, 16, 24, 32, 64):
            for seed in range(2):
                yield (
                    f"{name} every {period} pixels, {seed}",
                    encoded(pattern(name, period, seed), "PNG"),
                )


def shapes() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    for width, height in (
        (1, 1),
        (1, 2),
        (2, 1),
        (3, 3),
        (1, 1000),
        (1000, 1),
        (64, 1),
        (1, 64),
        (2, 500),
        (4000, 20),
    ):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for name, image in {
            "noise": Image.fromarray(noise),
            "a picture": picture(5, width, height),
            "white": Image.new("RGB", (width, height), "white"),
        }.items():
            yield f"{name} of {width}x{height}", encoded(image, "PNG")
    for name in ("white", "black", "red"):
        yield f"all {name}", encoded(Image.new("RGB", (SIDE, SIDE), name), "PNG")
    for seed in range(10):
        coarse = np.kron(
            np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8),
            np.ones((8, 8, 1), np.uint8),
        )
        yield f"coarse noise {seed}", encoded(Image.fromarray(coarse), "PNG")


def values() -> Iterator[tuple[str, bytes]]:
    grey = np.asarray(picture(7).convert("L"), np.float32)
    for name, pixels in {
        "not a number": np.full_like(grey, np.nan),
        "some not numbers": np.where(grey > 120, np.nan, grey),
        "infinite": np.where(grey > 120, np.inf, grey),
        "minus infinite": np.where(grey > 120, -np.inf, grey),
        "negative": -grey,
        "huge": grey * 1e30,
    }.items():
        yield f"float TIFF, {name}", encoded(Image.fromarray(pixels), "TIFF")
    yield "16 bits", encoded(Image.fromarray((grey * 257).astype(np.uint16)), "PNG")
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"):
        for file_format in ("PNG", "TIFF", "JPEG", "GIF"):
            try:
                yield (
                    f"{mode} as {file_format}",
                    encoded(picture(8).convert("RGB").convert(mode), file_format),
                )
            except (OSError, ValueError):
                continue
    for frames in (2, 5):
        images = [picture(seed, 40, 30) for seed in range(frames)]
        for file_format in ("GIF", "PNG", "TIFF", "WEBP", "MPO"):
            yield (
                f"{file_format} of {frames} frames",
                encoded(images[0], file_format, save_all=True, append_images=images[1:]),
            )
    for number, block in enumerate(
        (
            b"",
            b"Exif\0\0",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0MM\0*" + b"\xff" * 40,
            b"\xff" * 100,
        )
    ):
        yield f"EXIF garbage {number}", encoded(picture(9), "JPEG", exif=block)
    yield "a broken colour profile", encoded(picture(9), "PNG", icc_profile=b"no profile")


def impostors() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "HTML", b"<html><body>404 Not Found</body></html>"
    yield "a pickle", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    yield (
        "PostScript",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    )
    yield "PDF", b"%PDF-1.4\n1 0 obj <<>> endobj\n"
    yield "PSD", b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x08\0\0\0\x08\0\x08\0\3" + bytes(200)
    yield (
        "a git-lfs pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"b" * 64 + b"\nsize 14694\n",
    )
    yield "HEIC", b"\0\0\0\x18ftypheic" + bytes(60)
    bomb = zlib.compress(bytes(60_000_000), 9)
    yield "a text chunk that is a bomb", png_of(8, chunk(b"zTXt", b"Comment\0\0" + bomb))
    yield "a profile that is a bomb", png_of(8, chunk(b"iCCP", b"profile\0\0" + bomb))
    for side in (0, 2000, 14_000, 60_000, 0x7FFFFFFF, 0xFFFFFFFF):
        yield f"a PNG of {side} pixels a side without the data for it", png_of(side)
    for seed in range(8):
        noise = np.random.default_rng(seed).bytes(400)
        for start in (
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff\xe0",
            b"GIF89a",
            b"II*\0",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"BM",
        ):
            yield f"noise {seed} behind {start[:4]!r}", start + noise
