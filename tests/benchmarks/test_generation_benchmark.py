"""The generation's benchmark at its smallest: what it measures with, and its program, whose table
says what its JSON says.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from forking import start_server

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import parts.generation.data as data
from parts import large_bases
from parts.generation import samplers
from parts.generation.clock import Clock
from parts.generation.flops import kind_of
from parts.generation.samplers import SAMPLERS, Task
from parts.generation.tables import MODEL, NOT_MEASURED, outside, render
from parts.large_bases import build_denoiser

from sgdmix_hub.demo.domain import make_dataset, save_dataset

ROOT = Path(__file__).parents[2]


def test_clock_counts_every_moment_once_under_the_innermost_name():
    clock = Clock()
    inner = clock.timed("inner", lambda: time.sleep(0.02))

    def both():
        time.sleep(0.01)
        inner()

    outer = clock.timed("outer", both)
    outer()  # before it runs, nothing counts
    started = time.perf_counter()
    with clock.running("rest"):
        outer()
        assert list(clock.waited_for("waiting", (time.sleep(0.01) or n for n in range(3)))) == [
            0,
            1,
            2,
        ]
    assert sum(clock.seconds.values()) == pytest.approx(time.perf_counter() - started, abs=0.002)
    assert clock.calls == {"outer": 1, "inner": 1, "waiting": 4}
    assert clock.seconds["inner"] >= 0.02
    assert clock.seconds["outer"] >= 0.01
    assert clock.seconds["waiting"] >= 0.03
    assert sum(clock.cpu_seconds.values()) < sum(clock.seconds.values())


def test_kernels_have_kinds():
    product = kind_of("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_nhwc")
    other = kind_of("void at::native::vectorized_elementwise_kernel")
    assert product == kind_of("nvjet_hsh_128x128_64x4") != other
    assert (
        kind_of("pytorch_flash::flash_fwd_kernel") == kind_of("fmha_cutlassF_bf16") == "attention"
    )
    assert (
        kind_of("triton_red_fused_native_group_norm_0")
        == kind_of("triton_poi_fused_convolution_3")
        == other
    )


def test_nothing_measured_reads_not_measured():
    assert render({}).count(NOT_MEASURED) == 11 + 10


@pytest.mark.slow
def test_program_measures_and_the_table_quotes_the_json(tmp_path, monkeypatch):
    results = tmp_path / "generation.json"
    results.write_text(json.dumps({"scaling": {"machine": MACHINE, "figures": SCALING}}))
    small = [
        "--rows",
        2,
        "--turns",
        1,
        "--places",
        "one core",
        "--work_dir",
        tmp_path / "work",
        "--results",
        tmp_path / "generation",
    ]
    birds = tmp_path / "work" / f"birds-{data.BIRD_CLASSES * data.BIRDS_OF_A_CLASS}"
    save_dataset(make_dataset(data.BIRD_CLASSES, 1, 1, 1, seed=0), birds)  # the program takes it
    start_server()  # the program's workers are forks of it, too
    program = importlib.import_module("generation")
    words = ["generation.py", "--parts", "speed", "time", *small]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    program.main()
    figures = json.loads(results.read_text())
    assert set(figures) == {"scaling", "speed", "time"}
    (place,) = figures["speed"]["figures"]["places"]
    ours, reference = (place["turns"][0][kind] for kind in ("ours", "reference"))
    assert ours["rows"] == reference["rows"] == 2
    # Both generate the same rows.
    assert ours["mean_pixel"] == pytest.approx(reference["mean_pixel"], abs=0.1)
    assert place["ratio"] == pytest.approx(reference["seconds"] / ours["seconds"])
    runs = figures["time"]["figures"]["runs"]
    assert [run["preset"] for run in runs] == ["paper", "recommended"]
    for run in runs:
        assert sum(run["wall"].values()) == pytest.approx(run["seconds"], rel=0.05)
        assert min(run["wall"].values()) >= 0
        assert 0 < outside(run) < 1
    text = (tmp_path / "generation.md").read_text()
    assert text == render(figures)
    assert f"**{place['ratio']:.2f}**" in text
    assert f"**{SCALING['ratio']:.2f}**" in text
    assert text.count(NOT_MEASURED) == 8 + 7


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sdxl-tiny", "z-image-tiny"])
def test_large_layouts_are_measured_as_they_would_be_on_a_gpu(shape, tmp_path, monkeypatch):
    """At sizes for a CPU: both samplers make the same rows of the same images."""
    monkeypatch.setattr(samplers, "STEPS", 8)
    birds = tmp_path / f"birds-{data.BIRD_CLASSES * data.BIRDS_OF_A_CLASS}"
    save_dataset(make_dataset(data.BIRD_CLASSES, 1, 1, 1, seed=0), birds)
    task = Task(tmp_path, 2, shape=shape, batch_size=2)
    data.birds_adapter(tmp_path, shape)
    means, device = {}, torch.device("cpu")
    for kind in ("ours", "reference"):
        (tmp_path / kind).mkdir()
        sampler = SAMPLERS[kind](task, device, tmp_path / kind)
        assert sampler.run() == 2
        means[kind] = sampler.mean_pixel()
    assert means["ours"] == pytest.approx(means["reference"], abs=0.5)


@pytest.mark.parametrize("name", ["sdxl", "z-image"])
def test_the_layouts_have_the_size_of_the_bases(name):
    """In billions of weights, as their cards have them; the tensors have shapes and no values."""
    with torch.device("meta"):
        denoiser = build_denoiser(large_bases.SHAPES[name])
    weights = sum(value.numel() for value in denoiser.parameters()) / 1e9
    assert weights == pytest.approx({"sdxl": 2.567, "z-image": 6.155}[name], abs=0.005)


def test_a_measured_gpu_part_tells_speed_and_memory_of_both():
    turn = {
        "ours": {"rows": 24, "seconds": 6.0, "peak_gb": 31.4},
        "reference": {"rows": 8, "seconds": 8.0, "peak_gb": 27.5},
    }
    found = {"device": "a GPU", "resolution": 1024, "batch_size": 4, "dtype": "bfloat16"}
    found |= {
        "reference_dtype": "float16",
        "steps": 17,
        "scheduler": "dpmsolver++",
        "loading_seconds": 60.0,
        "ratio": 4.0,
    }
    found |= {"turns": [turn] * 3, "timed": {"wall": dict.fromkeys((*MODEL, "rest"), 1.0)}}
    text = render({"gpu-sdxl": {"machine": MACHINE, "figures": found}})
    assert "| ours | 4.00 | 68.0 | 31.4 | **4.00** | 4.00, 4.00, 4.00 | 25.0% |" in text
    assert "| reference | 1.00 | 17.0 | 27.5 |  |  |  |" in text
    assert text.count(NOT_MEASURED) == 10 + 9


MACHINE = {"cores": 2, "processor": "x86_64", "torch": "2", "date": "2026-01-01", "load": 0.5}
SCALING = {
    "rows": 4,
    "pairs": [{"convolution": 1.8, "ours": 1.7}],
    "medians": {"convolution": 1.8, "ours": 1.7},
    "ratio": 1.7 / 1.8,
}
