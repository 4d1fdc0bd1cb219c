"""Time and memory of target selection for 50,000 images, and how they grow.

    python benchmarks/selection.py

Random float16 maps in a temporary file that is mapped as a run's maps are. One thread. Targets are
compared with those of a loop that takes every difference in float64, and so is the CPU time, which
other programs disturb less than the clock's. Memory is anonymous memory (RssAnon) of a fresh
process: pages of the mapped file are the page cache's. Linux only. Writes one JSON and one Markdown
table.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # NumPy's BLAS reads it when it is imported

import argparse
import multiprocessing
import platform
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from sgdmix_hub.files import write_json
from sgdmix_hub.generation.plan import SOURCES_AT_ONCE
from sgdmix_hub.method.targets import TargetSelection
from sgdmix_hub.seeds import RandomStream, generator
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

ROWS, CLASSES = 50_000, 200
SOURCES = (12_500, 25_000, 50_000)
CANDIDATES = (25, 50, 100, 200)
WHOLE_SPLIT_SOURCES = 1000
SECONDS_BETWEEN_SAMPLES = 0.005


def write_maps(path: Path) -> None:
    """float16 (ROWS, 64, 64)"""
    rng = np.random.default_rng(0)
    maps = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(ROWS, 64, 64))
    for start in range(0, ROWS, 1000):
        maps[start : start + 1000] = rng.random((1000, 64, 64), dtype=np.float32)
    maps.flush()


def read_data(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, maps (mapped, their pages read once) and backgrounds float32 (ROWS, 64)."""
    maps = np.load(path, mmap_mode="r")
    for start in range(0, ROWS, 1000):
        maps[start : start + 1000].view(np.uint16).max()
    labels = np.random.default_rng(1).integers(0, CLASSES, ROWS)
    return labels, maps, np.random.default_rng(2).random((ROWS, 64), dtype=np.float32)


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


class PeakMemory:
    """Peak anonymous memory of this process inside the `with` block, and its memory before."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_SAMPLES):
            self.peak = max(self.peak, anonymous_bytes())

    def __exit__(self, *error) -> None:
        self._ended.set()
        self._thread.join()


def choices(
    num_candidates: int, method: str = "l2", classes: str = "any", max_reuse: int | None = None
) -> AugmentSettings:
    return apply_preset(
        AugmentSettings(
            dataset_name="random",
            output_dir="nowhere",
            preset="paper",
            num_candidates=num_candidates,
            selection_method=method,
            target_classes=classes,
            max_target_reuse=max_reuse,
        )
    )


def measure(path: Path, sources: int, settings: AugmentSettings) -> dict:
    """Runs `measure_here` in a new process: memory left by earlier measurements does not count."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        figures = pool.apply(measure_here, (path, sources, settings))
    print(
        {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in figures.items()
        },
        flush=True,
    )
    return figures


def measure_here(path: Path, sources: int, settings: AugmentSettings) -> dict:
    """Figures of one selection, for the first `sources` of all rows."""
    torch.set_num_threads(1)
    labels, maps, backgrounds = read_data(path)
    rows = np.arange(ROWS)
    with PeakMemory() as memory:
        wall, cpu = time.monotonic(), time.process_time()
        selection = TargetSelection(rows, labels, maps, settings, backgrounds)
        targets, distances = chosen(selection, rows[:sources])
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {
        "sources": sources,
        "num_candidates": settings.num_candidates,
        "selection_method": settings.selection_method,
        "target_classes": settings.target_classes,
        "max_target_reuse": settings.max_target_reuse,
        "seconds": wall,
        "cpu_seconds": cpu,
        "anonymous_mb_before": memory.before / 1e6,
        "anonymous_mb_peak": memory.peak / 1e6,
        "rms_mean": float(np.mean(distances)),
        "most_used": int(np.bincount(targets).max()),
    }


def chosen(selection: TargetSelection, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A target of each source and their distances, as many sources at a time as a plan takes."""
    parts = [
        selection.targets(block, np.ones(len(block), np.int64))
        for block in np.split(sources, range(SOURCES_AT_ONCE, len(sources), SOURCES_AT_ONCE))
    ]
    targets, distances = map(np.concatenate, zip(*parts, strict=True))
    return targets, distances


def naive_target(source: int, settings: AugmentSettings, maps: np.ndarray) -> int:
    """Eq. 7 as written, over an explicit pool: every candidate's difference in float64."""
    rows = np.arange(ROWS)
    pool = rows[rows != source]
    rng = generator(RandomStream.CANDIDATES, settings.seed, source, 0)
    drawn = rng.choice(pool, min(settings.num_candidates, len(pool)), replace=False)
    own = maps[source].astype(np.float64)
    return min(
        (float(np.sqrt(np.mean((own - maps[row].astype(np.float64)) ** 2))), int(row))
        for row in drawn
    )[1]


def compare(path: Path, sources: np.ndarray, settings: AugmentSettings, per_source: float) -> dict:
    """The naive loop on a sample, against `per_source` CPU seconds.

    Raises `AssertionError` if a target differs.
    """
    labels, maps, _ = read_data(path)
    started = time.process_time()
    naive = [naive_target(int(source), settings, maps) for source in sources]
    naive_per_source = (time.process_time() - started) / len(sources)
    selection = TargetSelection(np.arange(ROWS), labels, maps, settings)
    assert chosen(selection, sources)[0].tolist() == naive
    figures = {
        "num_candidates": settings.num_candidates,
        "sources": len(sources),
        "naive_ms_per_source": naive_per_source * 1e3,
        "ms_per_source": per_source * 1e3,
        "ratio": naive_per_source / per_source,
        "equal_targets": len(sources),
    }
    print(figures, flush=True)
    return figures


def row(figures: dict) -> str:
    sources, candidates = figures["sources"], figures["num_candidates"]
    cells = [
        f"{figures['selection_method']}, {figures['target_classes']}",
        str(figures["max_target_reuse"] or "no limit"),
        f"{sources:,}",
        f"{candidates:,}",
        f"{figures['seconds']:.1f}",
        f"{figures['cpu_seconds']:.1f}",
        f"{figures['cpu_seconds'] / sources * 1e6:,.0f}",
        f"{figures['cpu_seconds'] / sources / candidates * 1e6:.2f}",
        f"{figures['anonymous_mb_before']:.0f} + "
        f"{figures['anonymous_mb_peak'] - figures['anonymous_mb_before']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(results: dict) -> str:
    """The figures as Markdown."""
    header = [
        "| rule, classes | max reuse | sources | N | seconds | CPU seconds | CPU µs a source | a "
        "candidate | anonymous MB: before + more |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines = [
        f"Target selection among {ROWS:,} rows, random float16 maps of 64x64 "
        f"({ROWS * 8192 / 1e6:.0f} MB, mapped); {results['machine']}.",
        "",
        "Sources, at N = 50:",
        "",
        *header,
        *map(row, results["sources"]),
        "",
        f"N, for {results['num_candidates'][0]['sources']:,} sources, and N = the whole split:",
        "",
        *header,
        *map(row, results["num_candidates"]),
        row(results["whole_split"]),
        "",
        "Straight line through the four: "
        "{us_a_source:.0f} µs a source + {us_a_candidate:.2f} µs x N.".format(**results["line"]),
        "",
        "The other rules:",
        "",
        *header,
        *map(row, results["rules"]),
        "",
        "A loop that takes every difference in float64, on a sample of the sources (every target "
        "is the same):",
        "",
        "| N | sources | naive, CPU ms a source | here | ratio |",
        "|---|---|---|---|---|",
    ]
    for figures in results["naive"]:
        here, naive = figures["ms_per_source"], figures["naive_ms_per_source"]
        lines.append(
            f"| {figures['num_candidates']:,} | {figures['sources']} | {naive:.2f} | {here:.2f} | "
            f"{figures['ratio']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def line(measured: list[dict]) -> dict:
    """Least squares: CPU time a source = constant + slope * N."""
    times = [figures["cpu_seconds"] / figures["sources"] * 1e6 for figures in measured]
    slope, constant = np.polyfit([figures["num_candidates"] for figures in measured], times, 1)
    return {"us_a_source": float(constant), "us_a_candidate": float(slope)}


def run(path: Path) -> dict:
    """All figures; `path` is where the maps are put."""
    write_maps(path)
    by_sources = [measure(path, sources, choices(50)) for sources in SOURCES]
    by_candidates = [measure(path, SOURCES[0], choices(candidates)) for candidates in CANDIDATES]
    whole = measure(path, WHOLE_SPLIT_SOURCES, choices(ROWS))
    rules = [
        measure(path, ROWS, choices(50, classes="other")),
        measure(path, ROWS, choices(50, classes="same")),
        measure(path, ROWS, choices(50, max_reuse=1)),
        measure(path, ROWS, choices(50, "dissimilar")),
        measure(path, ROWS, choices(50, "novel-background")),
        measure(path, ROWS, choices(50, "random")),
    ]
    sample = np.arange(0, ROWS, ROWS // 250)
    naive = [
        compare(path, sample, choices(50), by_sources[-1]["cpu_seconds"] / ROWS),
        compare(path, sample[:5], choices(ROWS), whole["cpu_seconds"] / WHOLE_SPLIT_SOURCES),
    ]
    return {
        "machine": f"{platform.machine()}, one thread",
        "rows": ROWS,
        "sources": by_sources,
        "num_candidates": by_candidates,
        "line": line(by_candidates),
        "whole_split": whole,
        "rules": rules,
        "naive": naive,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--results",
        default="benchmarks/results/selection",
        help="path of the .json and .md, without suffix",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder) / "maps.npy")
    path = Path(arguments.results)
    write_json(path.with_suffix(".json"), results)
    path.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
