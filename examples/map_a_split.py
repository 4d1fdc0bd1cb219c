"""Augment a split inside a notebook: python examples/map_a_split.py DATASET_FOLDER OUT_FOLDER

For a dataset to publish use `sgdmix augment`: it makes the same rows, in many processes, and
resumes.
"""

import sys

from datasets import concatenate_datasets, load_dataset

from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline

folder, out = sys.argv[1:]
real = load_dataset(folder, split="train")
pipeline = SGDMixPipeline.from_pretrained(
    preset="recommended", strength=0, num_variants=2, resolution=64
)
mapped = MappedSplit(pipeline, real)
synthetic = real.map(mapped, **mapped.options)
both = concatenate_datasets(
    [real.select_columns(["image", "label"]), synthetic.select_columns(["image", "label"])]
)
both.save_to_disk(out)
print(f"{len(real)} real and {len(synthetic)} synthetic images in {out}")
