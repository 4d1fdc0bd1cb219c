"""The files that images are published as: their mark, read by parsers of the formats' own
structure, and what they lose.
"""

import io
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.encoding import encode_image
from sgdmix_hub.generation.provenance import provenance_mark
from sgdmix_hub.settings.generation import AugmentSettings

FORMATS = ("png", "jpeg", "webp")
SOURCE_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"


def xmp_of_jpeg(content: bytes) -> list[bytes]:
    """Walks the segments up to the scan (ISO 10918-1); XMP is an APP1 with Adobe's name."""
    assert content[:2] == b"\xff\xd8"
    found, place, name = [], 2, b"http://ns.adobe.com/xap/1.0/\x00"
    while content[place + 1] != 0xDA:
        assert content[place] == 0xFF
        (length,) = struct.unpack(">H", content[place + 2 : place + 4])
        segment = content[place + 4 : place + 2 + length]
        if content[place + 1] == 0xE1 and segment.startswith(name):
            found.append(segment.removeprefix(name))
        place += 2 + length
    return found


def xmp_of_png(content: bytes) -> list[bytes]:
    """Walks the chunks (ISO 15948); XMP is an uncompressed iTXt with Adobe's keyword."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = [], 8
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunk = content[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack(">I", content[place + 8 + length : place + 12 + length])
        assert checksum == zlib.crc32(kind + chunk)
        keyword, _, rest = chunk.partition(b"\x00")
        if kind == b"iTXt" and keyword == b"XML:com.adobe.xmp":
            assert rest[:2] == b"\x00\x00"  # not compressed
            found.append(rest[2:].split(b"\x00", 2)[2])
        place += 12 + length
    return found


def xmp_of_webp(content: bytes) -> list[bytes]:
    """Walks the RIFF chunks; the flag of VP8X announces XMP."""
    assert content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    found, place = [], 12
    assert content[12:16] != b"VP8X" or content[20] & 0b100
    while place < len(content):
        kind, length = struct.unpack("<4sI", content[place : place + 8])
        if kind == b"XMP ":
            found.append(content[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    return found


XMP_OF = {"jpeg": xmp_of_jpeg, "png": xmp_of_png, "webp": xmp_of_webp}


def source_types(content: bytes, image_format: str) -> list[str]:
    """The values of DigitalSourceType in all XMP packets of a file."""
    packets = XMP_OF[image_format](content)
    found = [
        description.get(SOURCE_TYPE)
        for packet in packets
        for description in ElementTree.fromstring(packet.decode("utf-8")).iter(RDF)
    ]
    return [value for value in found if value is not None]


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return np.asarray(Image.fromarray(data.astronaut()).crop((90, 0, 346, 192)))


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_mark_is_read_by_a_parser_of_the_format(photograph, image_format):
    for is_painted, concept in (
        (True, "compositeWithTrainedAlgorithmicMedia"),
        (False, "composite"),
    ):
        content = encode_image(photograph, image_format, None, provenance_mark(is_painted))
        assert source_types(content, image_format) == [
            f"http://cv.iptc.org/newscodes/digitalsourcetype/{concept}"
        ]
        with Image.open(io.BytesIO(content)) as image:  # and Pillow finds the same packet
            stored = image.info["xmp"]
            assert (stored if isinstance(stored, bytes) else stored.encode()) == provenance_mark(
                is_painted
            )
    assert XMP_OF[image_format](encode_image(photograph, image_format)) == []


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_mark_changes_no_pixel_and_bytes_are_the_same_again(photograph, image_format):
    marked, plain = (
        encode_image(photograph, image_format, None, mark) for mark in (provenance_mark(True), b"")
    )
    assert marked == encode_image(photograph.copy(), image_format, None, provenance_mark(True))
    decoded = [
        np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in (marked, plain)
    ]
    assert np.array_equal(*decoded) and len(marked) - len(plain) < 600
    assert image_format != "png" or np.array_equal(decoded[0], photograph)


def psnr(content: bytes, pixels: np.ndarray) -> float:
    decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64)
    return float(10 * np.log10(255**2 / np.mean((decoded - pixels) ** 2)))


def test_jpeg_keeps_colour_at_full_resolution(photograph):
    content = encode_image(photograph, "jpeg")
    image = Image.open(io.BytesIO(content))
    assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # sampling factors: 4:4:4
    buffer = io.BytesIO()
    Image.fromarray(photograph).save(buffer, "JPEG", quality=95)
    assert psnr(content, photograph) > psnr(buffer.getvalue(), photograph) + 1
    assert len(content) < len(encode_image(photograph, "png")) / 2


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_quality_trades_size_for_loss(photograph, image_format):
    low, high = (encode_image(photograph, image_format, quality) for quality in (50, 98))
    assert len(low) < len(high) and psnr(low, photograph) < psnr(high, photograph)
    assert encode_image(photograph, image_format, 95) == encode_image(photograph, image_format)


def test_a_quality_of_png_is_refused():
    settings = AugmentSettings(
        dataset_name="a/b", output_dir="o", strength=0.0, image_format="png", image_quality=90
    )
    with pytest.raises(UserError, match="image_quality is for jpeg and webp"):
        settings.validate()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"license": "mit", "license_name": "x"}, "license_name needs --license other"),
        ({"license_link": "https://a.b/c"}, "license_link needs --license other"),
        ({"license": "other", "license_link": "file:///etc/passwd"}, "https:// address"),
        ({"license": "other", "license_link": "https://a b"}, "https:// address"),
    ],
)
def test_a_license_of_ones_own_is_other_and_has_an_address(values, message):
    settings = AugmentSettings(dataset_name="a/b", output_dir="o", strength=0.0, **values)
    with pytest.raises(UserError, match=message):
        settings.validate()
