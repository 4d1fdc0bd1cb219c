"""Measures whether adapters learn classes on a base trained by flow matching as on the UNet.

    python benchmarks/tiny_flow_base.py
    python benchmarks/two_bases.py --bases unet=sgdmix_hub/demo/tiny_base
    z-image=outputs/tiny_flow_base

Ten species of procedural birds, fifty training images each, and the judge of
`benchmarks/adapter.py`. For every base two adapters are trained with the same settings: one with
learned tokens and LoRA, one with LoRA alone, whose prompts hold names that the base does not know.
The judge says which species generated images show: from noise, and from mixed images at several
strengths. A class counts as learned in an arm if the images from noise show it above chance: the
lower end of the 95 % Wilson interval over the images of all classes is above 1 / 10. Finished cells
are kept in `work_dir`, so the same command continues. Writes one JSON and one Markdown file.
"""

from __future__ import annotations

import argparse
import json
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
from tiny_base import named_folder

from sgdmix_hub import train_adapter
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.evaluation.adapter import class_scores, mixed_sources
from sgdmix_hub.figures.panels import SheetRow, draw_contact_sheet
from sgdmix_hub.files import read_json
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

ARMS = {"base": None, "LoRA alone": {"num_vectors": 0}, "LoRA + tokens": {}}
STRENGTHS = (0.5, 0.7, 0.9)
COLUMNS = (NOISE, *STRENGTHS)
SHOWN = 6  # images of an arm in the picture


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
    bases: list[tuple[str, Path]], work_dir: Path, per_class: int, samples: int
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
        "torch": torch.__version__.partition("+")[0],
        "bases": {},
    }
    pictures = {}
    for name, base in bases:
        revision = resolve(str(base)).revision
        assert revision is not None
        folder = work_dir / f"{name}-{revision.removeprefix('sha256-')[:12]}-{samples}"
        arms = {}
        for arm, more in ARMS.items():
            adapter = None
            if more is not None:
                adapter = folder / arm.replace(" ", "-")
                values = values_of(adapter, birds, base, samples, more)
                train_adapter.main(parse_settings(AdapterSettings, as_arguments(values)))
                arms[arm] = {"losses": read_json(adapter / FACTS_FILE)["loss_curve"]}
            cells = cells_of(arm, base, adapter, sources, judge, folder)
            arms.setdefault(arm, {})["cells"] = {key: cell for key, (cell, _) in cells.items()}
            pictures[f"{name}, {arm}"] = cells[NOISE][1]
        figures["bases"][name] = {"revision": revision, "arms": arms}
    return figures, pictures


def cells_of(arm, base: Path, adapter: Path | None, sources, judge: Judge, folder: Path) -> dict:
    """strength or `NOISE` -> what the judge says of the arm's images, and the images themselves."""
    found, loaded = {}, None
    for strength in COLUMNS:
        path = folder / f"{arm} {strength} {len(sources.labels)}.npy"
        if not path.exists():
            if loaded is None:
                loaded, prompts = loaded_arm(base, adapter)
            options = {} if strength == NOISE else {"images": sources.images, "strength": strength}
            images = draw_images(
                loaded,
                [prompts[label] for label in sources.labels],
                sources.seeds,
                batch_size=BATCH,
                desc=f"{base.name}, {arm}, {strength}",
                **DRAWING,
                **options,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, images)
        images = np.load(path)
        scores = class_scores(judge.predict(images).tolist(), sources.labels)
        found[strength] = scores, images
    return {str(key): value for key, value in found.items()}


def is_learned(cell: dict) -> bool:
    return cell["interval"][0] > 1 / SPECIES


def table(figures: dict) -> str:
    lines = [
        f"{SPECIES} species of procedural birds, {TRAIN} training images each; adapters of "
        f"{figures['samples']} samples at the demo's settings; {figures['mixed']['images']} images "
        f"a cell, {DRAWING['num_inference_steps']} steps, the sampler of a training's own images, "
        f"guidance {DRAWING['guidance_scale']:g}; one seed; 95 % Wilson intervals over images; "
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
