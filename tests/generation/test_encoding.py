"""The files that images are published as: their mark, read by parsers of the formats' own
structure, and what they lose.
"""

import io
import shutil
import struct
import zlib
from functools import partial
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from huggingface_hub import DatasetCard
from PIL import Image
from skimage import data

from sgdmix_hub import augment
from sgdmix_hub._version import FORMAT, LISTS_FORMAT
from sgdmix_hub.errors import UserError
from sgdmix_hub.files import DamagedFile, read_sealed, write_sealed
from sgdmix_hub.generation import published_files
from sgdmix_hub.generation.encoding import encode_image
from sgdmix_hub.generation.plan import PlanRow
from sgdmix_hub.generation.provenance import provenance_mark
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.shards import Shards
from sgdmix_hub.hub.manifests import read_manifest
from sgdmix_hub.publishing.card_merge import merge_cards, read_card
from sgdmix_hub.publishing.parquet import files_of
from sgdmix_hub.publishing.read import load_published
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


# ---- in a generation ----


def marks_of(repo) -> set[tuple[str, ...]]:
    paths = sorted((repo / "data").glob("*.parquet"))
    cells = [cell for path in paths for cell in pq.read_table(path)["image"].to_pylist()]
    return {tuple(source_types(cell["bytes"], "png")) for cell in cells}


def test_published_images_say_whether_a_model_painted_on_them(first_version, finished_generation):
    """Those of a generation at S = 0 and of one at S = 0.6; both cards say what the mark is."""
    vocabulary = "http://cv.iptc.org/newscodes/digitalsourcetype/"
    for folder, concept in (
        (first_version, "composite"),
        (finished_generation, "compositeWithTrainedAlgorithmicMedia"),
    ):
        assert marks_of(folder / "repo") == {(vocabulary + concept,)}
        assert f"`{concept}`" in (folder / "repo" / "README.md").read_text()


@pytest.mark.parametrize(
    "strength, inpainting, target, painted",
    [
        (0.0, "opencv", 1, b"composite"),
        (0.0, "diffusion", 1, b"compositeWithTrainedAlgorithmicMedia"),
        (0.5, "opencv", 1, b"compositeWithTrainedAlgorithmicMedia"),
        (0.0, "opencv", 0, None),
    ],
)
def test_a_source_that_is_not_mixed_carries_no_mark(strength, inpainting, target, painted):
    maker = SimpleNamespace(settings=SimpleNamespace(inpainting_method=inpainting))
    mark = RowMaker.mark(maker, PlanRow(0, 0, target, 1, strength, 0.0, 0, None))
    assert (painted is None) == (mark == b"")
    assert painted is None or b'digitalsourcetype/%b"' % painted in mark


def test_sizes_of_the_sources_are_columns(first_version, evil_source):
    (path, *_) = sorted((first_version / "repo" / "data").glob("*.parquet"))
    split = load_dataset(str(evil_source), split="train")
    for row in pq.read_table(path).to_pylist():
        size = split[row["source_index"]]["image"].size
        assert (row["source_width"], row["source_height"]) == size


# ---- published files of several shards ----


@pytest.mark.slow
def test_shards_share_a_file_when_the_dataset_is_large(mixing, tmp_path, monkeypatch):
    """The rows are the same, in the same order; the manifest lists the files, and a rerun of the
    finished generation finds it complete.
    """
    settings = mixing | {"rows_per_shard": 5, "license": "mit"}
    settings["dataset_name"] = str(settings["dataset_name"])
    folders = [tmp_path / name for name in ("apart", "together")]
    for folder in folders:
        if folder.name == "together":
            sizes = [path.stat().st_size for path in (tmp_path / "apart/repo/data").iterdir()]
            limit = 2 * max(sizes) + 1
            monkeypatch.setattr(published_files, "files_of", partial(files_of, file_bytes=limit))
        augment.main(AugmentSettings(output_dir=str(folder), **settings))
    apart, together = (load_dataset(str(folder / "repo"), split="train") for folder in folders)
    assert apart.data.table.equals(together.data.table)
    names = [sorted(path.name for path in (folder / "repo/data").iterdir()) for folder in folders]
    assert len(names[1]) == -(-len(names[0]) // 2) > 1
    assert len(load_published(str(folders[1] / "repo")).labels) == len(apart)
    augment.main(AugmentSettings(output_dir=str(folders[1]), verify=True, **settings))


def test_a_damaged_shard_never_gets_into_a_shared_file(first_version, tmp_path):
    state = first_version / "state"
    shutil.copytree(state / "shards", tmp_path / "shards")
    shards = Shards(tmp_path / "shards", state / "plan.parquet", 5)
    shards.publish(range(0, 2), tmp_path / "whole.parquet")
    assert pq.read_table(tmp_path / "whole.parquet").num_rows == 10
    content = bytearray(shards.path(1).read_bytes())
    content[100] ^= 1
    shards.path(1).write_bytes(content)
    with pytest.raises(DamagedFile, match="shard-00001"):
        shards.publish(range(0, 2), tmp_path / "damaged.parquet")


# ---- the format ----


def test_a_manifest_of_a_newer_format_is_refused_in_one_line(first_version, tmp_path):
    shutil.copytree(first_version / "repo", tmp_path / "repo")
    path = tmp_path / "repo" / "sgdmix" / "default" / "manifest.json"
    manifest = read_manifest(path)
    assert manifest["format"] == FORMAT
    write_sealed(path, manifest | {"format": LISTS_FORMAT + 1, "unheard-of": [1]})
    with pytest.raises(
        UserError, match=f"has format {LISTS_FORMAT + 1}.*install a newer version"
    ) as told:
        load_published(str(tmp_path / "repo"))
    assert "\n" not in str(told.value)
    manifest.pop("format")
    write_sealed(path, manifest)
    assert read_manifest(path)["rows"] == 12  # format 1 stated none


@pytest.mark.slow
def test_a_run_of_an_older_format_is_not_resumed(mixing, tmp_path):
    """Its finished shards lack columns and marks that the others would have."""
    settings = mixing | {"dataset_name": str(mixing["dataset_name"])}
    folder = tmp_path / "run"
    augment.main(AugmentSettings(output_dir=str(folder), **settings))
    for path in (folder / "state/run.json", folder / "state/plan.json"):
        record = read_sealed(path)
        run = record.get("run", record)
        assert run.pop("format") == FORMAT
        write_sealed(path, record)
    with pytest.raises(UserError, match=f"in format 1, not {FORMAT}"):
        augment.main(AugmentSettings(output_dir=str(folder), **settings))


@pytest.mark.slow
def test_a_license_of_ones_own_is_on_the_card(mixing, tmp_path):
    own = {"license": "other", "license_name": "cub-terms", "license_link": "https://a.b/terms"}
    settings = mixing | own | {"dataset_name": str(mixing["dataset_name"])}
    augment.main(AugmentSettings(output_dir=str(tmp_path / "run"), **settings))
    card = DatasetCard.load(tmp_path / "run" / "repo" / "README.md")
    assert {name: card.data[name] for name in own} == own
    merged = read_card(merge_cards(None, str(card), "default", "org/name", "v1.0.0"))
    assert {name: merged.data[name] for name in own} == own
    with pytest.raises(UserError, match="has another license_link"):
        augment.main(
            AugmentSettings(
                output_dir=str(tmp_path / "run"), **(settings | {"license_link": "https://c.d"})
            )
        )


@pytest.mark.slow
def test_the_default_is_jpeg_and_the_card_says_what_that_loses(mixing, tmp_path):
    settings = {name: value for name, value in mixing.items() if name != "image_format"}
    settings["dataset_name"] = str(mixing["dataset_name"])
    augment.main(AugmentSettings(output_dir=str(tmp_path / "run"), **settings))
    rows = load_dataset(str(tmp_path / "run" / "repo"), split="train")
    cells = rows.cast_column("image", ImageFeature(decode=False))
    assert all(cell["bytes"][:2] == b"\xff\xd8" for cell in cells["image"])
    assert all(cell["path"].endswith(".jpeg") for cell in cells["image"])
    card = (tmp_path / "run" / "repo" / "README.md").read_text()
    assert "JPEG, quality 95" in card and "encoded with losses" in card
