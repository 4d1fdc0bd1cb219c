"""Quality of a tiny base: reconstruction, captions followed, Fréchet distance, sheet, curves.

    python benchmarks/tiny_base.py --bases packaged=sgdmix_hub/demo/tiny_base
    first=outputs/first_base --log outputs/tiny_base/log.jsonl

The first of `--bases` is drawn (`docs/tiny_base.png`); all of them stand side by side in one JSON
file and one table. The judge, which is trained on rendered birds, and the samples of every base are
kept in `work_dir`, so the same command continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from parts.intervals import half_width
from parts.tiny_base.curves import draw_curves
from parts.tiny_base.frechet import frechet_distance, frechet_half_width
from parts.tiny_base.judge import Judge, cached_judge
from parts.tiny_base.samples import SAMPLER, cached_samples, load_pipeline, through_vae
from parts.tiny_base.scenes import ATTRIBUTES, CHANCE, REFERENCE, Scenes, make_scenes
from parts.tiny_base.sheet import make_sheet
from parts.tiny_base.tables import ALL, report

from sgdmix_hub.demo.tiny_training import HELD_OUT, psnr, to_tensor
from sgdmix_hub.demo.train_tiny_base import TINY_BASE
from sgdmix_hub.files import write_json
from sgdmix_hub.hub.pins import content_hash
from sgdmix_hub.runtime.launch import quiet_other_ranks


def shown(answers: np.ndarray, scenes: Scenes) -> dict[str, dict]:
    """Attribute -> share of images in which the judge sees what the caption states; "all": mean."""
    right = answers == scenes.labels
    values = {name: right[scenes.stated[:, i], i] for i, name in enumerate(ATTRIBUTES)}
    told = scenes.stated.any(1)
    values[ALL] = (right & scenes.stated)[told].sum(1) / scenes.stated[told].sum(1)
    return {
        name: {
            "mean": float(scores.mean()),
            "half_width": half_width(scores),
            "images": len(scores),
        }
        for name, scores in values.items()
    }


def chance(scenes: Scenes) -> dict[str, float]:
    """The result of `shown` for the best constant answers, by `CHANCE`."""
    right = np.array([CHANCE[name] for name in ATTRIBUTES])
    told = scenes.stated[scenes.stated.any(1)]
    return CHANCE | {ALL: float((told @ right / told.sum(1)).mean())}


class Yardstick:
    """The judge, held-out scenes to be shown, and features of other real birds."""

    def __init__(self, judge: Judge, num_images: int):
        self.judge, self.scenes = judge, make_scenes(HELD_OUT, num_images)
        self.reference, _ = judge.look_at(make_scenes(REFERENCE, num_images).images)

    def figures(self, images: np.ndarray) -> dict:
        """Of one image for each scene, uint8 (N, 64, 64, 3)."""
        features, answers = self.judge.look_at(images)
        distance = {
            "distance": frechet_distance(features, self.reference),
            "half_width": frechet_half_width(features, self.reference),
        }
        return {"frechet": distance, "shown": shown(answers, self.scenes)}

    def reconstruction_figures(self, images: np.ndarray) -> dict:
        """The same, and the error of every pixel and of the bird's own."""
        true, found = (
            to_tensor(pixels).permute(0, 2, 3, 1) for pixels in (self.scenes.images, images)
        )
        on_bird = torch.from_numpy(self.scenes.masks)
        return self.figures(images) | {
            "psnr": psnr(true, found),
            "psnr_on_bird": psnr(true[on_bird], found[on_bird]),
        }


def base_figures(folder: Path, yardstick: Yardstick, work_dir: Path) -> dict:
    """Everything that is measured of one base."""
    pipeline, revision = load_pipeline(folder), content_hash(folder)
    settings = "-".join(f"{value:g}" for value in SAMPLER.values())
    samples = cached_samples(
        pipeline, yardstick.scenes.captions, work_dir / f"{revision[:20]}-{settings}"
    )
    reconstructions = through_vae(pipeline.vae, yardstick.scenes.images)
    return {
        "revision": revision,
        "reconstructions": yardstick.reconstruction_figures(reconstructions),
        "samples": yardstick.figures(samples),
    }


def named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and Path(folder).is_dir()):
        raise argparse.ArgumentTypeError(f"{text}: give NAME=FOLDER, a folder that exists")
    return name, Path(folder)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bases",
        type=named_folder,
        nargs="+",
        default=[("packaged", TINY_BASE)],
        metavar="NAME=FOLDER",
        help="pipeline folders",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=2000,
        help="scenes that are sampled and reconstructed, and real birds beside them",
    )
    parser.add_argument(
        "--judge_images", type=int, default=16_000, help="rendered birds to train the judge on"
    )
    parser.add_argument("--judge_epochs", type=int, default=14)
    parser.add_argument("--log", type=Path, help="log.jsonl of a training, whose curves are drawn")
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/benchmarks/tiny_base"),
        help="folder of the judge and the samples",
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the pictures")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder of the .json and .md",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    quiet_other_ranks()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for folder in (arguments.docs, arguments.results):
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.log:
        draw_curves(arguments.log, arguments.docs / "tiny_base_curves.png")
    yardstick = Yardstick(
        cached_judge(arguments.work_dir, arguments.judge_images, arguments.judge_epochs),
        arguments.images,
    )
    make_sheet(load_pipeline(arguments.bases[0][1]), yardstick.scenes).save(
        arguments.docs / "tiny_base.png"
    )
    figures = {
        "images": arguments.images,
        "judge": {"images": arguments.judge_images, "epochs": arguments.judge_epochs},
        "sampler": SAMPLER,
        "chance": chance(yardstick.scenes),
        "real": yardstick.figures(yardstick.scenes.images),
        "bases": {
            name: base_figures(folder, yardstick, arguments.work_dir)
            for name, folder in arguments.bases
        },
    }
    write_json(arguments.results / "tiny_base.json", figures)
    text = report(figures)
    (arguments.results / "tiny_base.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
