"""Train the tiny segmentation model that ships for the demo, a SegFormer of procedural birds.

    python scripts/train_tiny_segmenter.py --work_dir outputs/tiny_segmenter

Continues from the checkpoint in `--work_dir`, then exports a folder that stock transformers reads.
"""

import argparse
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from sgdmix_hub.arithmetic import set_arithmetic

from .tiny_training import (
    HELD_OUT,
    TRAIN,
    Stage,
    load_average,
    logged_minutes,
    render_world,
)
from .train_tiny_base import megabytes, replace_folder

TINY_SEGMENTER = Path(__file__).parent / "tiny_segmenter"
SIDE = 128  # of the model's input; birds are drawn at half of it, too, as the demo's are
HELD_OUT_IMAGES = 200
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = ("background", "bird")
CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-segmentation
---
# A tiny SegFormer of procedural birds

Tells `bird` from `background` in the pictures of `sgdmix_hub.demo`. Trained from scratch on random
birds of `sgdmix_hub.demo.world` alone. It exists so that masks of a segmentation model can be shown
offline, on a CPU, in seconds.

Trained by `{command}`

| | |
|---|---|
| mean IoU on {images} held-out birds at 64x64 / 128x128 | {iou_64:.3f} / {iou_128:.3f} |
| share of them with IoU below .5 | {failures:.3f} |
| training | {steps} steps of batch {batch_size}, {minutes:.0f} minutes on one shared CPU core |
| weights | {megabytes:.1f} MB |
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/tiny_segmenter"))
    parser.add_argument("--output_dir", type=Path, default=TINY_SEGMENTER)
    parser.add_argument("--num_images", type=int, default=1500, help="of each of two sizes")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def build_model(seed):
    """A SegFormer of 0.28 M parameters whose logits have half the side of its input."""
    torch.manual_seed(seed)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        sr_ratios=[8, 4, 2, 1],
        hidden_sizes=[16, 32, 64, 96],
        patch_sizes=[7, 3, 3, 3],
        strides=[2, 2, 2, 2],
        num_attention_heads=[1, 1, 2, 3],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={name: label for label, name in enumerate(LABELS)},
    )
    return SegformerForSemanticSegmentation(config)


def to_inputs(images):
    """uint8 (N, H, W, 4) -> float32 (N, 3, SIDE, SIDE), normalised."""
    values = torch.tensor(np.asarray(images[..., :3])).permute(0, 3, 1, 2).float() / 255
    if values.shape[-1] != SIDE:
        values = interpolate(values, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def to_masks(images):
    """uint8 (N, H, W, 4) -> bool (N, H, W)."""
    return torch.tensor(np.asarray(images[..., 3])) > 127


def bird_logits(model, inputs, side):
    """Logit of `bird` against `background`, float32 (N, side, side)."""
    logits = model(pixel_values=inputs).logits
    logits = interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return logits[:, 1] - logits[:, 0]


def segmentation_loss(logits, masks):
    """Cross entropy plus one minus the soft Dice coefficient, of (N, H, W) each."""
    masks = masks.float()
    entropy = binary_cross_entropy_with_logits(logits, masks)
    share = logits.sigmoid()
    overlap = 2 * (share * masks).sum((1, 2)) + 1
    return entropy + 1 - (overlap / (share.sum((1, 2)) + masks.sum((1, 2)) + 1)).mean()


def ious(model, images, batch_size=20):
    """Intersection over union with the true masks, float (N,)."""
    values = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        masks = to_masks(batch)
        found = bird_logits(model, to_inputs(batch), masks.shape[-1]) > 0
        union = (found | masks).sum((1, 2)).clamp(min=1)
        values.append((found & masks).sum((1, 2)) / union)
    return torch.cat(values)


def train(args):
    """The trained model, with the averaged weights."""
    model = build_model(args.seed)
    worlds = [render_cached(args, TRAIN, side) for side in (SIDE // 2, SIDE)]
    held_out = [render_cached(args, HELD_OUT, side) for side in (SIDE // 2, SIDE)]

    def loss_fn(step, generator):
        images = worlds[step % 2]
        chosen = torch.randint(len(images), (args.batch_size,), generator=generator).numpy()
        batch = images[np.sort(chosen)]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch[:, :, ::-1].copy()
        masks = to_masks(batch)
        return segmentation_loss(bird_logits(model, to_inputs(batch), masks.shape[-1]), masks)

    def evaluate():
        model.eval()
        figures = {
            f"iou_{images.shape[1]}": round(ious(model, images).mean().item(), 4)
            for images in held_out
        }
        model.train()
        return figures

    stage = Stage("segmenter", model, args.work_dir, args.steps, args.learning_rate, args.seed)
    stage.run(loss_fn, evaluate)
    load_average(model, stage.path)
    return model.eval(), held_out


def render_cached(args, split, side):
    """The images of one split and size, rendered on first use."""
    count = args.num_images if split == TRAIN else HELD_OUT_IMAGES
    path = args.work_dir / f"birds_{split}_{side}_{count}_{args.seed}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, render_world(count, args.seed, split, side))
    return np.load(path, mmap_mode="r")


def export(model, held_out, args):
    """Write weights, image processor and card; returns the card's facts."""
    with torch.no_grad():
        figures = {f"iou_{images.shape[1]}": ious(model, images) for images in held_out}
    new = args.output_dir.with_name(f".{args.output_dir.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    model.save_pretrained(new)
    size = {"height": SIDE, "width": SIDE}
    SegformerImageProcessor(size=size, image_mean=MEAN, image_std=STD).save_pretrained(new)
    facts = {name: values.mean().item() for name, values in figures.items()} | {
        "failures": (torch.cat(list(figures.values())) < 0.5).float().mean().item(),
        "images": HELD_OUT_IMAGES,
        "steps": args.steps,
        "batch_size": args.batch_size,
        "minutes": logged_minutes(args.work_dir),
        "megabytes": megabytes(new),
    }
    options = [
        f"--num_images {args.num_images}",
        f"--steps {args.steps}",
        f"--batch_size {args.batch_size}",
        f"--seed {args.seed}",
    ]
    command = " ".join(["python scripts/train_tiny_segmenter.py", *options])
    (new / "README.md").write_text(CARD.format(command=command, **facts))
    replace_folder(new, args.output_dir)
    return facts


def main(argv=None):
    args = parse_args(argv)
    cv2.setNumThreads(1)
    set_arithmetic()
    model, held_out = train(args)
    print(json.dumps(export(model, held_out, args)))


if __name__ == "__main__":
    main()
