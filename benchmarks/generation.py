"""How fast a generation is, where its time goes, how it scales and what memory it takes.

    python benchmarks/generation.py                       # all parts that this machine can run
    python benchmarks/generation.py --parts speed time    # some; the others' figures stay as they were

- `speed`: rows a second beside a sampler written the way the peers write theirs (generation_workers.py), in turns;
- `time`: where each second of it goes;
- `scaling`: two processes against one, in interleaved pairs, beside a plain convolution, because the cores may be shared;
- `memory`: peak anonymous memory of whole runs over small and large datasets;
- `size`: a run over 50,000 images at S = 0, and the same command again;
- `gpu`: speed and achieved FLOP/s with weights in the shape of Stable Diffusion 1.5, random ones (weights do not change speed).

Every measurement is a process of its own. Figures go to results/generation.json and, as a table, to results/generation.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
from pathlib import Path

import torch
from generation_data import make_patterns, prepare
from generation_runs import measured_run, together, worker
from generation_tables import render

from sgdmix_hub.processes import read_json, write_json

RESULTS = Path(__file__).parent / "results"
PARTS = ("speed", "time", "scaling", "memory", "size", "gpu")


def speed(args: argparse.Namespace) -> dict:
    """Ratios turn by turn, with everything on one core and with all cores."""
    found = {}
    for place in ("one core", "all cores"):
        turns = []
        for _ in range(args.turns):
            rates = {kind: worker(args, kind, rows=args.rows, pinned=place == "one core")["rate"] for kind in ("ours", "reference")}
            turns.append(rates | {"ratio": rates["ours"] / rates["reference"]})
        found[place] = {"turns": turns, "ratio": statistics.median(turn["ratio"] for turn in turns)}
    return found | {"rows": args.rows}


def time_shares(args: argparse.Namespace) -> dict:
    """Shares of the wall time of the process's main thread."""
    return {
        f"{preset}, {place}": worker(args, "ours", rows=args.rows, pinned=place == "one core", preset=preset, timed=True)["shares"]
        for preset in ("paper", "recommended")
        for place in ("one core", "all cores")
    }


def scaling(args: argparse.Namespace) -> dict:
    """Throughput of two processes over one; each process on a core of its own."""
    pairs = []
    for _ in range(args.pairs):
        rates = {f"{kind} {count}": together(args, kind, count, rows=args.rows) for kind in ("convolution", "ours") for count in (1, 2)}
        pairs.append(rates | {kind: rates[f"{kind} 2"] / rates[f"{kind} 1"] for kind in ("convolution", "ours")})
    medians = {kind: statistics.median(pair[kind] for pair in pairs) for kind in ("convolution", "ours")}
    return {"pairs": pairs, "medians": medians, "ratio": medians["ours"] / medians["convolution"]}


def memory(args: argparse.Namespace) -> dict:
    """Peak anonymous memory of small and large runs, in MB."""
    mixing, step = ["--strength", "0", "--resolution", "32"], diffusion_step(args)
    found = {}
    for title, sizes, words in (("S = 0", (1_000, 20_000), mixing), ("one diffusion step", (200, 2_000), step)):
        peaks = {rows: measured_run(args, make_patterns(args.work_dir, rows), words)["peak_mb"] for rows in sizes}
        found[title] = {"peaks": peaks, "ratio": peaks[sizes[1]] / peaks[sizes[0]]}
    return found


def diffusion_step(args: argparse.Namespace) -> list[str]:
    inputs = prepare(args.work_dir)
    words = ["--strength", "1", "--num_inference_steps", "1", "--guidance_scale", "1", "--resolution", "64", "--allow_other_subset"]
    return [*words, "--adapter", str(inputs.patterns_adapter), "--pretrained_model_name_or_path", str(inputs.base)]


def size(args: argparse.Namespace) -> dict:
    """A large run and its repetition, in one process."""
    return measured_run(args, make_patterns(args.work_dir, 50_000), ["--strength", "0", "--resolution", "32"], again=True)


def gpu(args: argparse.Namespace) -> dict | None:
    """Speed against the reference, and FLOP/s, for batches and compiled or not; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    reference = worker(args, "reference", rows=16, shape="sd15")
    found = {"device": torch.cuda.get_device_name(), "reference": reference, "ours": []}
    for batch_size in (8, 16, 32):
        for compiled in (False, True):
            ours = worker(args, "ours", rows=8 * batch_size, shape="sd15", batch_size=batch_size, compiled=compiled, timed=True)
            found["ours"].append(ours | {"batch_size": batch_size, "compiled": compiled, "ratio": ours["rate"] / reference["rate"]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/benchmarks/generation"), help="data, models and runs")
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--rows", type=int, default=96, help="rows made by a worker of `speed`, `time` and `scaling`")
    parser.add_argument("--turns", type=int, default=5, help="of `speed`")
    parser.add_argument("--pairs", type=int, default=5, help="of `scaling`")
    args = parser.parse_args()
    functions = {"speed": speed, "time": time_shares, "scaling": scaling, "memory": memory, "size": size, "gpu": gpu}
    path = args.results_dir / "generation.json"
    figures = read_json(path) if path.exists() else {}
    measured_on = f"{os.cpu_count()} {platform.machine()} CPU cores, torch {torch.__version__}, {datetime.date.today()}"
    for part in args.parts:
        found = functions[part](args)
        if found is not None:
            figures[part] = {"measured_on": measured_on, "figures": found}
            write_json(path, figures)
    (args.results_dir / "generation.md").write_text(render(read_json(path)), encoding="utf-8")
    print(render(read_json(path)))


if __name__ == "__main__":
    main()
