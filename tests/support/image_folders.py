"""Folders of images as datasets, and what loading them answers."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features
from datasets import Image as ImageFeature
from generations import png
from odd_images import picture

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.data import DataSettings

NAMES = ["heron", "kite", "tern"]


def image_folder(folder, names=NAMES, split="train", per_class=4):
    for name in names:
        for number in range(per_class):
            path = folder / split / name / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture(number, 24, 16)))
    return folder


def write_labels(folder, labels, feature, split="train", **columns):
    """A split in which the labels stand as they are, as a tool other than `datasets` may write
    them.
    """
    features = Features(
        image=ImageFeature(), label=feature, **{name: of for name, (_, of) in columns.items()}
    )
    schema = features.arrow_schema
    cells = [{"bytes": png(picture(number, 24, 16)), "path": None} for number in range(len(labels))]
    values = {"image": cells, "label": labels} | {
        name: given for name, (given, _) in columns.items()
    }
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        folder / "data" / f"{split}-00000-of-00001.parquet",
    )
    return folder


def settings_of(folder, **values):
    return DataSettings(dataset_name=str(folder), output_dir="unused", **values)


def split_of(folder, **values):
    return load_split(settings_of(folder, **values), resolve(str(folder), repo_type="dataset"))


def refusal(folder, **values):
    """The one line that a split is refused with."""
    with pytest.raises(UserError) as error:
        split_of(folder, **values)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 320
    return str(error.value)


README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""
