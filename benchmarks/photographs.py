"""A small dataset of real photographs that ship with scikit-image and scikit-learn, one a class.

    python benchmarks/photographs.py outputs/photographs
    python scripts/preview.py --dataset_name outputs/photographs --output_dir outputs/preview
    --num_images 8

It is for looking at, not for training. More rows come from more crops of each (`--crops 4`), which
are no independent images: the nearest saliency map is then another crop of the same photograph.
Sources: the astronaut (NASA) and the rocket (SpaceX) are in the public domain; the cat (Stefan van
der Walt), the coffee (Rachel Michetti) and the cameraman (Lav Varshney) are CC0; the motorcycle is
from the Middlebury stereo data (D. Scharstein et al., 2014); the flower
(flickr.com/photos/vultilion/6056698931) and the temple
(flickr.com/photos/danielbuechele/6061409035) are CC BY 2.0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

PHOTOGRAPHS: dict[str, Callable[[], np.ndarray]] = {
    "astronaut": data.astronaut,
    "cameraman": data.camera,
    "cat": data.chelsea,
    "coffee": data.coffee,
    "flower": lambda: load_sample_image("flower.jpg"),
    "motorcycle": lambda: data.stereo_motorcycle()[0],
    "rocket": data.rocket,
    "temple": lambda: load_sample_image("china.jpg"),
}
CROPS = (
    (0, 0, 1, 1),
    (0.1, 0.0, 1, 0.95),
    (0.0, 0.05, 0.9, 1),
    (0.08, 0.08, 0.92, 0.92),
)  # left, top, right, bottom


def photographs(crops: int) -> tuple[list[Image.Image], list[str]]:
    """Every photograph in the first `crops` of `CROPS`, with its name."""
    images, labels = [], []
    for name, load in PHOTOGRAPHS.items():
        whole = Image.fromarray(load()).convert("RGB")
        for left, top, right, bottom in CROPS[:crops]:
            box = (
                left * whole.width,
                top * whole.height,
                right * whole.width,
                bottom * whole.height,
            )
            images.append(whole.crop(tuple(map(round, box))))
            labels.append(name)
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="folder that is written: load_dataset takes it")
    parser.add_argument(
        "--crops",
        type=int,
        default=1,
        choices=range(1, len(CROPS) + 1),
        help="rows of each photograph",
    )
    arguments = parser.parse_args()
    folder = arguments.folder
    images, labels = photographs(arguments.crops)
    features = Features(image=ImageFeature(), label=ClassLabel(names=list(PHOTOGRAPHS)))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    print(f"{len(rows)} photographs of {len(PHOTOGRAPHS)} classes: {folder}")


if __name__ == "__main__":
    main()
