"""Loaders that know nothing of this package take a published dataset as it is: timm's and the
Trainer's, whole and streamed.
"""

import hashlib
import io
import json

import pyarrow.parquet as pq
import pytest
from forking import WITHOUT_THIS_PACKAGE
from loopback_hub import READ_TOKEN, run_python
from PIL import Image
from publishing import NAMES

REPO = "birds/for-everybody"

TIMM = """
import hashlib, json, sys
from huggingface_hub import snapshot_download
from timm.data import create_dataset, create_loader

repo_id, version = sys.argv[1:]
tagged = snapshot_download(repo_id, repo_type="dataset", revision=version)
found = {}
for name in (repo_id, tagged):
    rows = create_dataset(f"hfds/{name}", root=None, split="train")
    pixels = [[hashlib.sha256(image.tobytes()).hexdigest(), label] for image, label in rows]
    loader = create_loader(
        rows, (3, 32, 32), batch_size=4, is_training=True, use_prefetcher=False, num_workers=0
    )
    images, labels = next(iter(loader))
    found["main" if name == repo_id else version] = {
        "classes": rows.reader.class_to_idx,
        "rows": pixels,
        "batch": [list(images.shape), str(images.dtype), len(labels)],
    }
print(json.dumps(found))
"""

TRAINER = """
import hashlib, json, sys
import torch
from datasets import load_dataset
from torchvision.transforms.functional import to_tensor
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

repo_id, version, folder = sys.argv[1:]


def transform(batch):
    images = [to_tensor(image.convert("RGB")) for image in batch["image"]]
    return {"pixel_values": images, "label": batch["label"]}


def collate(examples):
    images = torch.stack([example["pixel_values"] for example in examples])
    labels = torch.tensor([example["label"] for example in examples])
    return {"pixel_values": images, "labels": labels}


whole = load_dataset(repo_id, revision=version, split="train")
streamed = load_dataset(repo_id, revision=version, split="train", streaming=True)
names = whole.features["label"].names
arguments = TrainingArguments(
    folder,
    max_steps=2,
    per_device_train_batch_size=4,
    remove_unused_columns=False,
    use_cpu=True,
    report_to="none",
)
mapped = streamed.map(transform, batched=True, remove_columns=streamed.column_names)
losses = []
for rows in (whole.with_transform(transform), mapped):
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8],
        depths=[1],
        layer_type="basic",
        num_labels=len(names),
    )
    model = ResNetForImageClassification(config)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate)
    losses.append(trainer.train().training_loss)
facts = {"names": names, "losses": losses, "streamed_names": streamed.features["label"].names}
facts["rows"] = [
    [hashlib.sha256(row["image"].tobytes()).hexdigest(), row["label"]] for row in streamed
]
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def hub(publisher, first_version, second_version):
    """A Hub with two versions: `main` is the second one."""
    publisher.published(first_version, REPO)
    publisher.published(second_version, REPO, tag="v1.1.0")
    return publisher.hub


def local_rows(output):
    """Digest of the pixels and label of every published row."""
    tables = [
        pq.read_table(path, columns=["image", "label"])
        for path in sorted(output.glob("repo/data/*.parquet"))
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    return [
        [
            hashlib.sha256(Image.open(io.BytesIO(row["image"]["bytes"])).tobytes()).hexdigest(),
            row["label"],
        ]
        for row in rows
    ]


def run(hub, code, *args):
    done = run_python(hub, WITHOUT_THIS_PACKAGE + code, *args, token=READ_TOKEN)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_timms_reader_takes_main_by_its_name_and_a_tag_by_its_snapshot(
    hub, first_version, second_version
):
    found = run(hub, TIMM, REPO, "v1.0.0")
    assert found["main"]["rows"] == local_rows(second_version)
    assert found["v1.0.0"]["rows"] == local_rows(first_version)
    for facts in found.values():
        assert facts["classes"] == {name: label for label, name in enumerate(NAMES)}
        assert facts["batch"] == [[4, 3, 32, 32], "torch.float32", 4]


@pytest.mark.slow
def test_the_trainer_takes_image_and_label_loaded_or_streamed(hub, first_version, tmp_path):
    facts = run(hub, TRAINER, REPO, "v1.0.0", tmp_path)
    assert facts["rows"] == local_rows(first_version)
    assert facts["names"] == facts["streamed_names"] == NAMES
    assert all(0 < loss < 10 for loss in facts["losses"])
