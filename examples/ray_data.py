"""Augment a split in a Ray Data pipeline: python examples/ray_data.py DATASET_FOLDER OUT_FOLDER

Every actor holds the split and its saliency maps, and on a GPU the models. For a dataset to publish
use `sgdmix launch --on ray`: it makes the same rows, in shards, and resumes.
"""

import sys

import ray
from datasets import load_dataset

from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline


class Augmentation:
    def __init__(self, folder: str):
        self.real = load_dataset(folder, split="train")
        pipeline = SGDMixPipeline.from_pretrained(
            preset="recommended", strength=0, num_variants=2, resolution=64
        )
        self.mapped = MappedSplit(pipeline, self.real)

    def __call__(self, batch: dict) -> dict:
        indices = batch["id"].tolist()
        rows = self.mapped(self.real[indices], indices)
        images = [cell["bytes"] for cell in rows["image"]]
        return {"image": images, "label": rows["label"], "source_index": rows["source_index"]}


def main():
    folder, out = sys.argv[1:]
    count = load_dataset(folder, split="train").num_rows
    augmented = ray.data.range(count).map_batches(
        Augmentation,
        fn_constructor_args=[folder],
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=2),  # with a model give each num_gpus=1
        num_cpus=0.5,
    )
    augmented.write_parquet(out)
    print(f"{ray.data.read_parquet(out).count()} synthetic images of {count} real ones in {out}")


if __name__ == "__main__":
    main()
