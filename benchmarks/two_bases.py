"""Measures whether adapters learn classes on a base trained by flow matching as on the UNet.

    python benchmarks/tiny_flow_base.py --compile
    python benchmarks/two_bases.py --bases unet=sgdmix_hub/demo/tiny_base
    z-image=outputs/tiny_flow_base

Ten species of procedural birds, fifty training images each, and the judge of
`benchmarks/adapter.py`. For every base, adapters are trained with the same settings: one with LoRA
alone, whose prompts hold names that the base does not know, one with LoRA and learned tokens, and,
where the base takes them, one with learned tokens in the text encoder's output (`token_place:
output`). The judge says which species generated images show: from noise, and from mixed images at
several strengths. All arms draw from the same noise. Every adapter is trained once for each of
`--seeds`, which choose its samples, noise and first LoRA; mixed images are refined with the first
one's.

What decides, written down before anything ran:

- Classes count as learned in an arm if the images from noise show them above chance: the lower end
  of the 95 % Wilson interval over the images of all classes and seeds is above 1 / 10.
- Output tokens are compared with the tokens in the input on one figure, the share of images from
  noise that show their class; the seeds are the pairs. The difference, output minus input, has a
  t-interval at 95 %. They learn *as well* if it lies above -.05, *worse* if it lies below 0 and not
  above -.05, and else the question stays open. It is open, too, with fewer than two seeds, or where
  the tokens in the input are not learned themselves.

A first run had two such arms, at the recipe's rate and ten times it, and the outputs' rows, 200
times larger, learned nothing at either (.070 and .070 from noise). Since then the rate grows with
the rows.

Finished cells are kept in `work_dir`, so the same command continues, also with more seeds or bases.
Writes one JSON and one Markdown file, and a picture.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from adapter import (
    BATCH,
    DRAWING,
    NOISE,
    RECIPE,
    SPECIES,
    TRAIN,
    make_birds,
    shown,
    train_judge,
)
from datasets import load_dataset
from scipy import stats
from tiny_base import named_folder

from sgdmix_hub import train_adapter
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.evaluation.adapter import class_scores, mixed_sources
from sgdmix_hub.figures.panels import SheetRow, draw_contact_sheet
from sgdmix_hub.files import read_json, write_atomically
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, load_into, read_adapter
from sgdmix_hub.models.bases.loading import LoadedBase, load_base
from sgdmix_hub.models.bases.supported import check_supported
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.models.prompts import bare_prompt
from sgdmix_hub.models.sampling import draw_images
from sgdmix_hub.runtime.ranks import start_processes
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.parsing import as_arguments, parse_settings, read_yaml

INPUT = "LoRA + tokens"
ARMS = {"LoRA alone": {"num_vectors": 0}, INPUT: {}}
OUTPUT = "LoRA + output tokens"
MARGIN = 0.05  # by which output tokens may be worse and still learn as well
STRENGTHS = (0.5, 0.7, 0.9)
COLUMNS = (NOISE, *STRENGTHS)
SHOWN = 6  # images of an arm in the picture


def arms_of(base: Path) -> dict[str, dict]:
    """arm -> what its adapter's settings change, for the arms that the base takes."""
    family = check_supported(resolve(str(base)))
    if not all(encoder.outputs for encoder in family.encoders):
        return ARMS
    return ARMS | {OUTPUT: {"token_place": "output"}}


def values_of(folder: Path, birds: Path, base: Path, samples: int, more: dict) -> dict:
    """Settings of a training: the demo's, but for a weighting of the loss that a family has not."""
    values = read_yaml(RECIPE / "adapter.yaml") | DRAWING | {"metaclass": "bird"}
    if check_supported(resolve(str(base))).denoiser == "transformer":
        del values["snr_gamma"]
    places = {
        "dataset_name": str(birds),
        "output_dir": str(folder),
        "pretrained_model_name_or_path": str(base),
    }
    return values | places | {"num_train_samples": samples} | more


def loaded_arm(base: Path, adapter_folder: Path | None) -> tuple[LoadedBase, list[str]]:
    """A base, with an adapter if there is one, and the classes' prompts."""
    loaded = load_base(resolve(str(base)), torch.float32, "text_to_image")
    loaded.use_scheduler()
    if adapter_folder is None:
        return loaded, [bare_prompt("bird", "a photo of a {token} {metaclass}")] * SPECIES
    adapter = read_adapter(resolve(str(adapter_folder)))
    load_into(loaded, adapter)
    return loaded, [adapter.prompt(label) for label in range(SPECIES)]


def run(
    bases: list[tuple[str, Path]],
    work_dir: Path,
    per_class: int,
    samples: int,
    seeds: list[int],
) -> tuple[dict, dict[str, np.ndarray]]:
    """All figures, and the first images from noise of every arm; what is there is kept."""
    start_processes(num_threads=1)
    birds = work_dir / "birds"
    make_birds(birds)
    train_judge(work_dir / "judge", birds)
    split = load_split(
        DataSettings(dataset_name=str(birds), output_dir="unused"),
        resolve(str(birds), repo_type="dataset"),
    )
    judge = Judge(resolve(str(work_dir / "judge")), split.class_names, torch.device("cpu"))
    first = values_of(work_dir / "unused", birds, bases[0][1], samples, {})
    sources = mixed_sources(
        parse_settings(AdapterSettings, as_arguments(first)), split, work_dir / "mixed", per_class
    )
    figures = {
        "judge": judge.accuracy,
        "mixed": class_scores(judge.predict(sources.images).tolist(), sources.labels),
        "samples": samples,
        "seeds": seeds,
        "torch": torch.__version__.partition("+")[0],
        "bases": {},
    }
    pictures = {}
    for name, base in bases:
        revision = resolve(str(base)).revision
        assert revision is not None
        folder = work_dir / f"{name}-{revision.removeprefix('sha256-')[:12]}-{samples}"
        arms = {}
        for arm, more in {"base": None, **arms_of(base)}.items():
            trained = None if more is None else values_of(Path(), birds, base, samples, more)
            of_arm = folder / arm.replace(" ", "-")
            arms[arm], pictures[f"{name}, {arm}"] = figures_of(
                base, trained, seeds, sources, judge, of_arm
            )
        figures["bases"][name] = {"revision": revision, "arms": arms}
    return figures, pictures


def figures_of(
    base: Path, training: dict | None, seeds: list[int], sources, judge: Judge, folder: Path
) -> tuple[dict, np.ndarray]:
    """One arm's losses and scores, and the first seed's images from noise.

    `training`: the settings of its adapters; None for the base alone.
    """
    found: dict = {"losses": {}, "cells": {}, "noise": {}}
    drawn, first = [], np.empty(0)
    for seed in seeds if training is not None else seeds[:1]:
        adapter, of_seed = None, folder
        if training is not None:
            of_seed = folder / str(seed)
            adapter = of_seed / "adapter"
            values = training | {"output_dir": str(adapter), "seed": seed}
            train_adapter.main(parse_settings(AdapterSettings, as_arguments(values)))
            found["losses"][str(seed)] = read_json(adapter / FACTS_FILE)["loss_curve"]
        columns = COLUMNS if seed == seeds[0] else (NOISE,)
        images = images_of(base, adapter, sources, of_seed, columns)
        seen = {column: judge.predict(images[column]).tolist() for column in columns}
        scores = {column: class_scores(seen[column], sources.labels) for column in columns}
        found["noise"][str(seed)] = scores.pop(NOISE)
        found["cells"] |= {str(strength): cell for strength, cell in scores.items()}
        drawn += seen[NOISE]
        first = images[NOISE] if seed == seeds[0] else first
    labels = sources.labels * (len(drawn) // len(sources.labels))
    found["cells"][NOISE] = class_scores(drawn, labels)
    return found, first


def images_of(base: Path, adapter: Path | None, sources, folder: Path, columns: tuple) -> dict:
    """strength or `NOISE` -> an image for each of the sources' labels, uint8 (n, 64, 64, 3)."""
    found, loaded = {}, None
    for column in columns:
        path = folder / f"{column} {len(sources.labels)}.npy"
        if not path.exists():
            if loaded is None:
                loaded, prompts = loaded_arm(base, adapter)
            options = {} if column == NOISE else {"images": sources.images, "strength": column}
            images = draw_images(
                loaded,
                [prompts[label] for label in sources.labels],
                sources.seeds,
                batch_size=BATCH,
                desc=f"{folder}, {column}",
                **DRAWING,
                **options,
            )
            write_atomically(path, partial(save_array, images))
        found[column] = np.load(path)
    return found


def save_array(images: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # given a name, np.save appends .npy
        np.save(file, images)


def is_learned(cell: dict) -> bool:
    return cell["interval"][0] > 1 / SPECIES


def difference(arms: dict) -> tuple[np.ndarray, float]:
    """Output minus input tokens, float64 (seeds,), and half of the interval of their mean; nan for
    one seed.
    """
    ours, other = (arms[each]["noise"] for each in (OUTPUT, INPUT))
    values = np.array([ours[seed]["accuracy"] - other[seed]["accuracy"] for seed in ours])
    if len(values) < 2:
        return values, float("nan")
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return values, float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def verdict(arms: dict) -> str:
    """What the docstring's rule says of output tokens."""
    values, half = difference(arms)
    low, high = values.mean() - half, values.mean() + half
    if not is_learned(arms[INPUT]["cells"][NOISE]) or np.isnan(half):
        return "open"
    if low > -MARGIN:
        return "as well"
    return "worse" if high < 0 else "open"


def table(figures: dict) -> str:
    lines = [
        f"{SPECIES} species of procedural birds, {TRAIN} training images each; adapters of "
        f"{figures['samples']} samples at the demo's settings, trained with "
        f"{len(figures['seeds'])} seeds; {figures['mixed']['images']} images a cell, from noise "
        "that many for each seed, "
        f"{DRAWING['num_inference_steps']} steps, the sampler of a training's own images, "
        f"guidance {DRAWING['guidance_scale']:g}; 95 % Wilson intervals over images; "
        f"chance {1 / SPECIES:g}. The judge is right on {figures['judge']:.3f} of real test "
        f"images, and sees the source's species in {shown(figures['mixed'])} of the mixed images "
        "before "
        f"refinement. torch {figures['torch']}, CPU.",
        "",
        "| Base | Adapter | classes learned | from noise | "
        + " | ".join(f"S = {strength}" for strength in STRENGTHS)
        + " |",
        "|---|---|---|---|" + "---|" * len(STRENGTHS),
    ]
    for name, base in figures["bases"].items():
        for arm, found in base["arms"].items():
            cells = found["cells"]
            learned = "yes" if is_learned(cells[NOISE]) else "no"
            values = " | ".join(shown(cells[str(column)]) for column in COLUMNS)
            lines.append(f"| {name} | {arm} | {learned} | {values} |")
    for name, base in figures["bases"].items():
        if OUTPUT in base["arms"]:
            values, half = difference(base["arms"])
            lines += [
                "",
                f"{name}, {OUTPUT} minus {INPUT}, from noise: {values.mean():+.3f} ± {half:.3f} "
                f"(95 % t-interval over {len(values)} seeds: "
                f"{', '.join(f'{value:+.3f}' for value in values)}). Verdict: "
                f"{verdict(base['arms'])}.",
            ]
    return "\n".join(lines) + "\n"


def picture(pictures: dict[str, np.ndarray], real: list[np.ndarray], path: Path) -> None:
    """One row an arm: images from noise of the first species; real birds of it on top."""
    rows = [SheetRow(list(real), "real")]
    rows += [SheetRow(list(images[:SHOWN]), arm) for arm, images in pictures.items()]
    draw_contact_sheet(rows, [""] * SHOWN).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bases", type=named_folder, nargs="+", required=True)
    parser.add_argument(
        "--images_per_class", type=int, default=20, help="mixed images of a species"
    )
    parser.add_argument(
        "--num_train_samples", type=int, default=1600, help="samples of each adapter's training"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the adapters' trainings"
    )
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/benchmarks/two_bases"),
        help="folder of the runs",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results/two_bases"),
        help="path of the .json and .md, without suffix",
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the picture")
    arguments = parser.parse_args()
    figures, pictures = run(
        arguments.bases,
        arguments.work_dir,
        arguments.images_per_class,
        arguments.num_train_samples,
        arguments.seeds,
    )
    arguments.results.with_suffix(".json").write_text(
        json.dumps(figures, sort_keys=True), encoding="utf-8"
    )
    arguments.results.with_suffix(".md").write_text(table(figures), encoding="utf-8")
    birds = load_dataset(str(arguments.work_dir / "birds"), split="train")
    first = [np.asarray(row["image"]) for row in birds if row["label"] == 0][:SHOWN]
    picture(pictures, first, arguments.docs / "bases_adapters.png")
    print(table(figures))


if __name__ == "__main__":
    main()
