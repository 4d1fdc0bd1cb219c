"""Write the procedural birds as a dataset folder.

python -m sgdmix_hub.demo.make_birds --output_dir outputs/demo/birds
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import cv2
from datasets import disable_progress_bars

from .backgrounds import BACKGROUNDS
from .domain import make_dataset, save_dataset

SETTINGS_FILE = "birds.json"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_species", type=int, default=6)
    parser.add_argument("--train_per_class", type=int, default=20)
    parser.add_argument("--validation_per_class", type=int, default=20)
    parser.add_argument("--test_per_class", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tie",
        type=float,
        default=0.0,
        help="share of training images that show the background of their species",
    )
    parser.add_argument(
        "--train_backgrounds",
        type=int,
        help="show this many of the ten landscapes in training, and only the others in validation "
        "and test",
    )
    parser.add_argument("--resolution", type=int, default=64)
    return parser.parse_args(argv)


def problem_of(settings, output_dir):
    """One line that says why the dataset cannot be written, or None."""
    for name, lowest in {
        "num_species": 2,
        "train_per_class": 1,
        "validation_per_class": 1,
        "test_per_class": 1,
        "seed": 0,
        "resolution": 32,
    }.items():
        if settings[name] < lowest:
            return f"--{name} is {settings[name]}: give at least {lowest}"
    if not 0 <= settings["tie"] <= 1:
        return f"--tie is {settings['tie']}: give a share between 0 and 1"
    shown, most = settings.get("train_backgrounds"), len(BACKGROUNDS) - 1
    if shown is not None and not 1 <= shown <= most:
        return f"--train_backgrounds is {shown}: give 1 to {most}, so that some are left to test"
    if shown is not None and settings["tie"] > 0:
        return "--train_backgrounds does not go with --tie: a tie shows a species' own landscape"
    if not output_dir.exists():
        return None
    if not output_dir.is_dir() or (
        any(output_dir.iterdir()) and not (output_dir / SETTINGS_FILE).exists()
    ):
        return f"{output_dir} holds something else: give another --output_dir"
    written = written_settings(output_dir) or settings
    differing = [
        f"{name} {written.get(name)} there, {value} here"
        for name, value in settings.items()
        if written.get(name) != value
    ]
    if differing:
        return (
            f"{output_dir} was made with other settings ({'; '.join(differing)}): give another "
            "--output_dir"
        )
    return None


def written_settings(output_dir):
    path = output_dir / SETTINGS_FILE
    return json.loads(path.read_text()) if path.exists() else None


def write_birds(settings, output_dir):
    """Writes the dataset to a temporary folder, then renames it to `output_dir`."""
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_dataset(make_dataset(**settings), partial)
    (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    os.replace(partial, output_dir)


def main(argv=None):
    given = vars(parse_args(argv))
    settings = {name: value for name, value in given.items() if value is not None}
    output_dir = settings.pop("output_dir").resolve()
    cv2.setNumThreads(1)
    disable_progress_bars()
    problem = problem_of(settings, output_dir)
    if problem:
        print(f"make_birds: {problem}", file=sys.stderr)
        raise SystemExit(2)
    if written_settings(output_dir):
        print(f"make_birds: {output_dir} already holds these birds")
        return
    write_birds(settings, output_dir)
    images = settings["num_species"] * sum(
        settings[f"{split}_per_class"] for split in ("train", "validation", "test")
    )
    print(f"make_birds: wrote {images} images of {settings['num_species']} species to {output_dir}")


if __name__ == "__main__":
    main()
