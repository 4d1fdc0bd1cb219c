"""Train on real and published synthetic images: python examples/train_on_published.py REAL_DATASET
PUBLISHED

PUBLISHED is `org/name@v1.0.0`, or the repo folder of a generation. Every epoch shows a real image
or, half of the time, one of its synthetic ones. This loop is for reading; `sgdmix train-classifier
--synthetic` has weights on validation, mixup, and several GPUs.
"""

import random
import sys

import torch
from datasets import load_dataset
from torchvision.models import resnet18
from torchvision.transforms import v2

from sgdmix_hub import load_published

real_name, published_name = sys.argv[1:]
real = load_dataset(real_name, split="train")
synthetic = load_published(published_name).dataset
variants = {}
for row, source in enumerate(synthetic["source_index"]):
    variants.setdefault(source, []).append(row)

transform = v2.Compose(
    [
        v2.RGB(),
        v2.Resize((64, 64)),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ]
)
model = resnet18(num_classes=real.features["label"].num_classes)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
draw = random.Random(0)

for epoch in range(2):
    order = draw.sample(range(len(real)), len(real))
    total = 0.0
    for start in range(0, len(order), 16):
        rows = []
        for index in order[start : start + 16]:
            made = variants.get(index, [])
            rows.append(
                synthetic[draw.choice(made)] if made and draw.random() < 0.5 else real[index]
            )
        pixels = torch.stack([transform(row["image"]) for row in rows])
        labels = torch.tensor([row["label"] for row in rows])
        loss = torch.nn.functional.cross_entropy(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    print(f"epoch {epoch}: loss {total / len(order):.3f}")
