"""The chunks by which the formats' benchmark counts shared bytes, and the tables it writes."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import balance
import formats
from formats import LARGEST_CHUNK, SMALLEST_CHUNK, chunks, new_bytes


def content(seed: int, size: int = 2_000_000) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def test_chunks_cover_a_file_and_have_about_64_kilobytes():
    lengths = [length for _, length in chunks(content(0, 8_000_000))]
    assert sum(lengths) == 8_000_000 and max(lengths) <= LARGEST_CHUNK
    assert min(lengths[:-1]) >= SMALLEST_CHUNK and 40_000 < np.mean(lengths) < 80_000


@pytest.mark.slow
def test_an_insertion_makes_only_the_chunks_around_it_new():
    whole = content(0)
    longer = whole[:700_000] + content(1, 1234) + whole[700_000:]
    assert new_bytes(whole, whole) == 0
    assert 1234 <= new_bytes(whole, longer) <= 3 * LARGEST_CHUNK
    assert new_bytes(whole, content(2)) == 2_000_000
    repeated = whole + whole  # the same chunk is stored once
    assert new_bytes(b"", repeated) < 2_000_000 + 2 * LARGEST_CHUNK


def test_the_tables_have_a_row_for_every_format_and_layout():
    of_format = {
        name: {"kilobytes": 2.0, "milliseconds": 1.0, "psnr": None} for name in formats.FORMATS
    }
    of_layout = {
        name: {"megabytes": 3.0, "new_megabytes": 1.0, "shared": 2 / 3} for name in formats.LAYOUTS
    }
    text = formats.summary(
        {
            "facts": {"machine": "m", "pillow": "1", "pyarrow": "2"},
            "formats": {"birds": of_format},
            "shared": {"ten rows": of_layout},
        }
    )
    for name in (*formats.FORMATS, *formats.LAYOUTS):
        assert f"| {name} |" in text
    assert "66.7%" in text


def test_an_arm_is_compared_over_the_seeds_that_it_shares():
    def run(accuracy):
        return {"accuracy": accuracy, "rare": 0.5, "real": [40, 2], "synthetic": [1, 2]}

    first, second, *rest = balance.ARMS
    text = balance.summary(
        {
            "1": {first: run(0.5), second: run(0.7)},
            "2": {first: run(0.6), second: run(0.9)},
            "3": {first: run(0.1)},
        }
    )
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {second} |")]
    assert "| 2 | 0.800" in line and "+0.250" in line
    assert all(f"| {name} | not run |" in text for name in rest)
