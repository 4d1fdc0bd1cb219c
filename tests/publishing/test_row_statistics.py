"""What is counted in the shards, and its picture."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sgdmix_hub.figures.plots import draw_statistics
from sgdmix_hub.publishing.statistics import FINE_BINS, MOST_BARS, Distribution, count_rows


def write_shards(folder, labels, distances, areas, size=7):
    paths = []
    for start in range(0, max(len(labels), 1), size):
        part = slice(start, start + size)
        columns = {
            "label": pa.array(labels[part], pa.int64()),
            "saliency_distance": distances[part],
            "foreground_area": areas[part],
        }
        paths.append(folder / f"{start}.parquet")
        pq.write_table(pa.table(columns), paths[-1])
    return paths


def test_counts_are_those_of_all_rows(tmp_path):
    rng = np.random.default_rng(0)
    labels, distances, areas = (
        rng.integers(0, 3, 50),
        rng.uniform(0, 0.4, 50),
        rng.uniform(0, 1, 50),
    )
    areas[:2] = 0.0, 1.0
    found = count_rows(write_shards(tmp_path, labels, distances, areas), 5)
    assert found.rows_by_label == np.bincount(labels, minlength=5).tolist()
    assert found.distance.mean == pytest.approx(distances.mean())
    assert found.area.mean == pytest.approx(areas.mean())
    for values, distribution in ((distances, found.distance), (areas, found.area)):
        counts, edges = distribution.bars()
        assert len(counts) <= MOST_BARS and len(edges) == len(counts) + 1 and counts.sum() == 50
        rounded = values * FINE_BINS // 1 / FINE_BINS
        expected, _ = np.histogram(rounded, edges + [*([-1e-9] * len(counts)), 1e-9])
        assert counts.tolist() == expected.tolist()


def test_a_generation_without_rows_is_drawn_too(tmp_path):
    empty = count_rows(write_shards(tmp_path, np.zeros(0, np.int64), np.zeros(0), np.zeros(0)), 2)
    assert empty.rows_by_label == [0, 0] and empty.distance.mean == 0
    draw_statistics(empty, tmp_path / "assets" / "empty.png")
    Image.open(tmp_path / "assets" / "empty.png").verify()


@pytest.mark.parametrize("place", [0, 1, 500, 999])
def test_one_value_is_one_bar(place):
    counts = np.zeros(FINE_BINS, np.int64)
    counts[place] = 4
    bars, edges = Distribution(counts, 4 * place / FINE_BINS).bars()
    assert bars.tolist() == [4] and edges.tolist() == [place / FINE_BINS, (place + 1) / FINE_BINS]


def test_the_picture_is_the_same_bytes_every_time(tmp_path):
    statistics = count_rows(
        write_shards(
            tmp_path, np.arange(9) % 3, np.linspace(0.1, 0.2, 9), np.linspace(0.3, 0.9, 9)
        ),
        3,
    )
    for name in ("a.png", "b.png"):
        draw_statistics(statistics, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
