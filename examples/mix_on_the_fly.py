"""Train on images that are mixed while they are loaded: python examples/mix_on_the_fly.py DATASET
FOLDER

DATASET is a folder or a Hub dataset with columns image and label; FOLDER keeps its masks and filled
backgrounds. The first start prepares them, a second one begins to train at once.
"""

import sys

import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2

from sgdmix_hub import MixedDataset


def main():
    name, folder = sys.argv[1:]
    dataset = load_dataset(name, split="train")
    augmentation = v2.Compose(
        [
            v2.RandomResizedCrop((64, 64), scale=(0.6, 1)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    train = MixedDataset(
        dataset.select_columns(["image", "label"]),
        folder,
        probability=0.5,
        seed=0,
        num_workers=2,
        transform=augmentation,
    )
    loader = DataLoader(train, batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)
    model = resnet18(num_classes=dataset.features["label"].num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(2):
        train.set_epoch(epoch)  # other images are mixed, and with other backgrounds
        mixed = sum(train.mix.drawn(row) is not None for row in range(len(train)))
        total = 0.0
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch["label"])
        print(f"epoch {epoch}: {mixed} of {len(train)} mixed, loss {total / len(train):.3f}")


if __name__ == "__main__":  # workers may be started anew, and import this file then
    main()
