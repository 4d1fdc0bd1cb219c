"""Image formats and Parquet layouts side by side.

    python benchmarks/formats.py

Sizes, encode times and losses of image formats, on scikit-image's photographs at 512 pixels and on
drawn birds at 64, in turns in one process. Then the bytes that two versions of a dataset share if
ten rows differ, with and without content-defined chunking. Writes formats.json and formats.md.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from skimage import data

from sgdmix_hub.demo.domain import make_dataset
from sgdmix_hub.files import write_json
from sgdmix_hub.generation.encoding import encode_image
from sgdmix_hub.publishing.layout import shard_features
from sgdmix_hub.publishing.parquet import CHUNKING, write_parquet

SIZE, BIRDS, TURNS = 512, 48, 7
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
ROWS, CHANGED, SHARD = 384, 10, 128
LARGEST_CHUNK, SMALLEST_CHUNK = 128 * 1024, 8 * 1024  # of Xet, the Hub's storage; 64 KB on average
TOP_BITS = np.uint32(0xFFFF0000)


def saved(pixels: np.ndarray, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


FORMATS = {
    "png (`image_format: png`)": lambda pixels: encode_image(pixels, "png"),
    "webp, lossless": lambda pixels: saved(pixels, "WEBP", lossless=True),
    "webp, quality 95 (`image_format: webp`)": lambda pixels: encode_image(pixels, "webp"),
    "jpeg, quality 95, 4:2:0 (Pillow's default)": lambda pixels: saved(pixels, "JPEG", quality=95),
    "jpeg, quality 95, 4:4:4 (`image_format: jpeg`)": lambda pixels: encode_image(pixels, "jpeg"),
}


def photographs() -> list[np.ndarray]:
    """Photographs that ship with scikit-image, their middle at 512 x 512."""
    loaded = [getattr(data, name)() for name in PHOTOGRAPHS]
    pixels = [one[0] if isinstance(one, tuple) else one for one in loaded]  # a stereo pair
    squares = [one.crop(_middle(one.size)) for one in map(Image.fromarray, pixels)]
    return [np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for image in squares]


def _middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def birds() -> list[np.ndarray]:
    """Drawn birds as the demo draws them, 64 x 64."""
    rows = make_dataset(6, BIRDS // 6, 1, 1, seed=0, tie=0.0)["train"]
    return [np.asarray(row["image"].convert("RGB")) for row in rows]


def encoded(images: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean size, encode time and PSNR by format. The time of an image is the best of its turns."""
    figures = {}
    seconds = {name: np.full(len(images), np.inf) for name in FORMATS}
    for _ in range(TURNS):
        for name, encode in FORMATS.items():
            for place, pixels in enumerate(images):
                started = time.process_time()
                encode(pixels)
                seconds[name][place] = min(seconds[name][place], time.process_time() - started)
    for name, encode in FORMATS.items():
        contents = [encode(pixels) for pixels in images]
        errors = [error(*pair) for pair in zip(contents, images, strict=True)]
        figures[name] = {
            "kilobytes": float(np.mean([len(content) for content in contents])) / 1e3,
            "milliseconds": float(seconds[name].mean()) * 1e3,
            "psnr": None if max(errors) == 0 else float(np.mean(decibels(errors))),
        }
    return figures


def error(content: bytes, pixels: np.ndarray) -> float:
    """Mean square error of an encoded image."""
    decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64)
    return float(np.mean(np.square(decoded - pixels)))


def decibels(errors: list[float]) -> np.ndarray:
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-12))


def rows_of(images: list[np.ndarray], seed: int) -> list[dict]:
    """Published rows whose images are random crops of the photographs."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(ROWS):
        side = int(rng.integers(160, SIZE))
        left, top = rng.integers(0, SIZE - side, 2)
        image = Image.fromarray(images[int(rng.integers(len(images)))])
        pixels = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE))
        content = encode_image(np.asarray(pixels), "jpeg")
        rows.append(
            {
                "image": {"bytes": content, "path": f"{number:08d}-0.jpeg"},
                "prompt": "a photo of a <class_0> bird",
                "saliency_distance": float(rng.random()),
                "source_index": number,
            }
        )
    return rows


def table_of(rows: list[dict]) -> pa.Table:
    schema = shard_features([str(number) for number in range(10)]).arrow_schema
    columns = {name: [row.get(name, 0) for row in rows] for name in schema.names}
    return pa.table(columns, schema=schema)


def plain(path: Path, tables: list[pa.Table]) -> None:
    """pyarrow's defaults."""
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def chunked(path: Path, tables: list[pa.Table]) -> None:
    """As `datasets` writes: content-defined chunking, otherwise pyarrow's defaults."""
    with pq.ParquetWriter(
        path, tables[0].schema, use_content_defined_chunking=CHUNKING, write_page_index=True
    ) as writer:
        for table in tables:
            writer.write_table(table)


LAYOUTS = {
    "pyarrow's defaults": plain,
    "content-defined chunking, as `datasets`": chunked,
    "as published: content-defined chunking, images neither compressed nor in dictionaries": (
        lambda path, tables: write_parquet(path, tables, tables[0].schema)
    ),
}


def chunks(content: bytes) -> list[tuple[bytes, int]]:
    """Digest and length of every chunk of a file, cut where a gear hash of the bytes says so."""
    if not content:
        return []
    gear = np.random.default_rng(0).integers(0, 2**32, 256, np.uint32)
    values, found, block = np.frombuffer(content, np.uint8), [], 2**22
    for start in range(0, len(values), block):
        before = min(start, 31)
        own = gear[values[start - before : start + block]]
        hashes = np.zeros(len(own), np.uint32)
        for lag in range(32):
            hashes[lag:] += own[: len(own) - lag] << np.uint32(lag)
        found.append(np.flatnonzero((hashes[before:] & TOP_BITS) == 0) + start + 1)
    cuts, begin, made = np.concatenate(found), 0, []
    while begin < len(content):
        place = int(np.searchsorted(cuts, begin + SMALLEST_CHUNK))
        end = int(cuts[place]) if place < len(cuts) else len(content)
        end = min(end, begin + LARGEST_CHUNK, len(content))
        made.append((hashlib.sha256(content[begin:end]).digest(), end - begin))
        begin = end
    return made


def new_bytes(before: bytes, after: bytes) -> int:
    """Bytes of `after` in chunks that `before` does not have: what would be stored and sent."""
    known = {digest for digest, _ in chunks(before)}
    return sum(length for digest, length in dict(chunks(after)).items() if digest not in known)


def versions(images: list[np.ndarray]) -> dict[str, list[list[list[dict]]]]:
    """Pairs of versions: the shards before and after. A row never changes its shard."""
    rows, others = rows_of(images, 0), rows_of(images, 1)
    places = np.linspace(5, ROWS - 6, CHANGED).astype(int).tolist()
    numbers = [range(start, min(start + SHARD, ROWS)) for start in range(0, ROWS, SHARD)]
    before = [[rows[n] for n in shard] for shard in numbers]
    changed = [[others[n] if n in places else rows[n] for n in shard] for shard in numbers]
    dropped = [[rows[n] for n in shard if n not in places] for shard in numbers]
    return {
        "ten rows have other images": [before, changed],
        "ten rows are gone": [before, dropped],
    }


def shared(images: list[np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """New bytes of the second version by difference and layout, in one file of several shards."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for difference, pair in versions(images).items():
            for layout, write in LAYOUTS.items():
                contents = []
                for shards in pair:
                    path = Path(folder) / "file.parquet"
                    write(path, [table_of(rows) for rows in shards])
                    contents.append(path.read_bytes())
                fresh = new_bytes(*contents)
                figures.setdefault(difference, {})[layout] = {
                    "megabytes": len(contents[1]) / 1e6,
                    "new_megabytes": fresh / 1e6,
                    "shared": 1 - fresh / len(contents[1]),
                }
    return figures


def summary(figures: dict) -> str:
    """The figures as Markdown."""
    facts = figures["facts"]
    lines = [
        "# Image formats and Parquet layouts",
        "",
        f"`python benchmarks/formats.py` on {facts['machine']}, one core; Pillow "
        f"{facts['pillow']}, pyarrow {facts['pyarrow']}. Times are CPU time, the best of {TURNS} "
        "turns of every image.",
    ]
    for domain, of_format in figures["formats"].items():
        largest = of_format[next(iter(FORMATS))]["kilobytes"]
        lines += [
            "",
            f"## {domain}",
            "",
            "| Format | kB an image | of PNG's | ms to encode | PSNR, dB |",
            "|---|---|---|---|---|",
        ]
        for name, values in of_format.items():
            psnr = "lossless" if values["psnr"] is None else f"{values['psnr']:.1f}"
            lines.append(
                f"| {name} | {values['kilobytes']:.1f} | {values['kilobytes'] / largest:.2f} | "
                f"{values['milliseconds']:.1f} | {psnr} |"
            )
    lines += [
        "",
        "## Two versions of a dataset that differ in ten rows",
        "",
        f"{ROWS} rows with JPEG images, in one file of shards of {SHARD} rows. New bytes: those in "
        "chunks that the first version does not have; chunks are cut by a gear hash, 64 KB on "
        "average, 8 to 128 KB, as in the Hub's storage.",
    ]
    for difference, of_layout in figures["shared"].items():
        lines += ["", f"| {difference} | MB | new MB | shared |", "|---|---|---|---|"]
        for layout, values in of_layout.items():
            lines.append(
                f"| {layout} | {values['megabytes']:.1f} | {values['new_megabytes']:.2f} | "
                f"{values['shared']:.1%} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    images = photographs()
    figures = {
        "facts": {
            "machine": f"{platform.machine()}, {platform.system()}",
            "pillow": PIL.__version__,
            "pyarrow": pa.__version__,
        },
        "formats": {
            f"{len(images)} photographs at {SIZE} x {SIZE}": encoded(images),
            f"{BIRDS} drawn birds at 64 x 64": encoded(birds()),
        },
        "shared": shared(images),
    }
    write_json(arguments.results / "formats.json", figures)
    (arguments.results / "formats.md").write_text(summary(figures), encoding="utf-8")
    print(summary(figures))


if __name__ == "__main__":
    main()
