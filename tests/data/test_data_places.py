"""Data never names places: a cell is bytes or names a file inside the dataset, and no reason tells
what lies on the reader's disk.
"""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, load_dataset
from datasets import Image as ImageFeature
from generations import png
from launching import ROOT, launch_environment
from loopback_hub import run_client
from odd_images import encoded, picture, png_of
from PIL import Image

from sgdmix_hub import augment
from sgdmix_hub.data.images import MISSING, OUTSIDE, decode_image
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UnusableImage, UserError
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import apply_preset


def write_cells(folder, cells):
    """A dataset whose parquet holds just these cells, as any tool may write them."""
    schema = Features(image=ImageFeature(), label=ClassLabel(names=["kite", "tern"])).arrow_schema
    arrays = [
        pa.array(cells, schema.field("image").type),
        pa.array([i % 2 for i in range(len(cells))], pa.int64()),
    ]
    (folder / "data").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        folder / "data" / "train-00000-of-00001.parquet",
    )
    return folder


def image_folder(folder):
    for name in ("kite", "tern"):
        for number in range(3):
            path = folder / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture(number)))
    return folder


def split_of(folder, **values):
    settings = DataSettings(dataset_name=str(folder), output_dir="unused", **values)
    return load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))


def reasons_of(split):
    return split.try_images()[1]


@pytest.fixture
def secret(tmp_path):
    """A private picture outside every dataset."""
    path = tmp_path / "private" / "photo.png"
    path.parent.mkdir()
    path.write_bytes(png(picture(1)))
    return path


def test_a_cell_that_names_a_file_outside_a_folder_is_refused_whether_the_file_is_there_or_not(
    secret, tmp_path, monkeypatch
):
    folder = tmp_path / "stranger"
    (folder / "sub").mkdir(parents=True)
    os.symlink(secret, folder / "link.png")
    os.symlink(secret.parent, folder / "linked")
    named = [
        secret,
        secret.with_name("absent.png"),
        "/etc/passwd",
        "/dev/zero",
        "../private/photo.png",
        folder / "sub" / ".." / ".." / "private" / "photo.png",
        folder / "link.png",
        folder / "linked" / "photo.png",
        "http://127.0.0.1:9/x.png",
        "hf://datasets/a/b/x.png",
        f"file://{secret}",
        f"{folder}-twin/photo.png",
        "nul\0byte",
        "~/photo.png",
    ]
    cells = [{"bytes": png(picture(0)), "path": str(secret)}] + [
        {"bytes": None, "path": str(path)} for path in named
    ]
    split = split_of(write_cells(folder, cells))
    monkeypatch.chdir(secret.parent)
    assert reasons_of(split) == dict.fromkeys(range(1, len(cells)), OUTSIDE)
    # A path beside bytes is only a name.
    assert np.array_equal(np.asarray(split.image(0)), np.asarray(picture(0)))


def test_a_cell_may_name_a_file_inside_the_folder(tmp_path):
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "one.png").write_bytes(png(picture(1)))
    os.symlink("one.png", folder / "images" / "link.png")
    paths = [folder / "images" / name for name in ("one.png", "link.png", "absent.png", ".")]
    split = split_of(write_cells(folder, [{"bytes": None, "path": str(path)} for path in paths]))
    assert reasons_of(split) == {2: MISSING, 3: MISSING}
    assert split.file_name(0) == "images/one.png"


def test_a_folder_of_images_is_read_also_through_a_link_to_it_and_its_files_are_named_inside_it(
    tmp_path,
):
    real = image_folder(tmp_path / "real" / "birds")
    (real / "train" / "kite" / "1.png").write_bytes(b"")
    os.symlink(real, tmp_path / "link")
    for folder in (real, tmp_path / "link"):
        split = split_of(folder)
        assert list(reasons_of(split)) == [1] and split.file_name(1) == "train/kite/1.png"


def test_a_snapshot_of_the_hub_cache_is_a_folder_whose_files_are_links_to_its_blobs(tmp_path):
    repository = tmp_path / "datasets--org--birds"
    snapshot = image_folder(repository / "snapshots" / "abc")
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.rglob("*.png"))):
        path.rename(repository / "blobs" / str(number))
        os.symlink(repository / "blobs" / str(number), path)
    assert reasons_of(split_of(snapshot)) == {}


def test_a_folder_that_lies_in_one_called_snapshots_is_no_cache(secret, tmp_path):
    folder = write_cells(
        tmp_path / "snapshots" / "stranger",
        [{"bytes": png(picture(0)), "path": None}, {"bytes": None, "path": str(secret)}],
    )
    assert reasons_of(split_of(folder)) == {1: OUTSIDE}


DATA = "data/train-00000-of-00001.parquet"
CARD = (
    "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "
    "{path}\n---\n"
)


@pytest.mark.parametrize(
    "path", ["../private/{data}", "{private}/{data}", "file://{private}/{data}", "link/{data}"]
)
def test_a_card_that_names_data_outside_its_folder_is_refused(path, tmp_path):
    """The rows would be made, and published, as if they were the stranger's own."""
    private = write_cells(tmp_path / "private", [{"bytes": png(picture(0)), "path": None}] * 2)
    folder = tmp_path / "stranger"
    folder.mkdir()
    os.symlink(private, folder / "link")
    (folder / "README.md").write_text(CARD.format(path=path.format(private=private, data=DATA)))
    with pytest.raises(UserError, match="the README of stranger names data outside the dataset"):
        split_of(folder)


def test_a_card_may_name_the_data_in_its_folder(tmp_path):
    folder = write_cells(tmp_path / "own", [{"bytes": png(picture(0)), "path": None}] * 2)
    (folder / "README.md").write_text(CARD.format(path=DATA))
    assert reasons_of(split_of(folder)) == {}


def test_where_no_folder_is_given_a_cell_is_bytes(secret):
    with pytest.raises(UnusableImage, match=OUTSIDE):
        decode_image({"bytes": None, "path": str(secret)})


@pytest.mark.slow
def test_a_dataset_in_hand_may_hold_paths_as_its_user_wrote_them(tmp_path):
    image_folder(tmp_path / "birds")
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "birds"), split="train")
    settings = apply_preset(
        MethodSettings(strength=0.0, resolution=32, saliency_method="spectral-residual")
    )
    mapped = MappedSplit(SGDMixPipeline(settings), rows)
    assert len(rows.map(mapped, **mapped.options)) == 6


@pytest.mark.slow
def test_neither_manifest_nor_card_tells_what_is_on_the_disk(secret, tmp_path):
    named = [secret, secret.with_name("absent.png"), "/etc/passwd"]
    cells = [{"bytes": png(picture(seed)), "path": None} for seed in range(6)]
    cells += [{"bytes": None, "path": str(path)} for path in named]
    folder, output = write_cells(tmp_path / "stranger", cells), tmp_path / "run"
    augment.main(
        AugmentSettings(
            dataset_name=str(folder),
            output_dir=str(output),
            saliency_method="spectral-residual",
            strength=0.0,
            resolution=32,
            max_skipped=1.0,
        )
    )
    manifest = read_json(output / "repo" / "sgdmix" / "default" / "manifest.json")
    assert manifest["rows"] == 6
    assert {record["reason"] for record in manifest["skipped"]} == {OUTSIDE}
    for path in (output / "repo").rglob("*"):
        if path.suffix in (".md", ".json", ".yaml"):
            assert "private" not in path.read_text() and str(tmp_path) not in path.read_text(), path


@pytest.mark.parametrize(
    "start",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.4\n",
        b"8BPS\0\1",
        b"\x0a\5\1\x08",
    ],
)
def test_only_formats_of_the_allow_list_are_opened(start):
    with pytest.raises(UnusableImage, match="corrupt image: cannot identify image file$"):
        decode_image({"bytes": start + bytes(200), "path": None})


@pytest.mark.parametrize(
    ("side", "limit", "is_read"),
    [(10, None, True), (10, 99, False), (10, 100, True), (13_400, None, False)],
)
def test_an_image_above_the_pixel_limit_is_refused_by_its_name(side, limit, is_read, recwarn):
    stored = {
        "bytes": png_of(side) if side > 10_000 else encoded(Image.new("1", (side, side)), "PNG"),
        "path": None,
    }
    if is_read:
        assert decode_image(stored, max_pixels=limit).size == (side, side)
    else:
        with pytest.raises(UnusableImage, match="^larger than max_image_pixels"):
            decode_image(stored, max_pixels=limit)
    assert not [warning for warning in recwarn if limit is not None]


def test_the_pixel_limit_is_a_setting_of_every_program_and_of_the_fingerprint(tmp_path):
    cells = [
        {"bytes": encoded(Image.new("RGB", size), "PNG"), "path": None}
        for size in ((10, 10), (20, 20))
    ]
    split = split_of(write_cells(tmp_path / "data", cells), max_image_pixels=100)
    assert reasons_of(split) == {1: "larger than max_image_pixels (100)"}
    with pytest.raises(UserError, match="max_image_pixels is 0"):
        DataSettings(dataset_name="org/birds", output_dir="out", max_image_pixels=0).validate()


@pytest.mark.slow
def test_a_bomb_is_refused_without_a_warning_of_pillows(tmp_path):
    code = """
import io, sys, warnings
from PIL import Image
from sgdmix_hub.data.images import decode_image
buffer = io.BytesIO()
Image.new("1", (9_500, 9_500)).save(buffer, "PNG")
cell = {"bytes": buffer.getvalue(), "path": None}
assert decode_image(cell).size == (9_500, 9_500)
assert decode_image(cell, max_pixels=400_000_000).size == (9_500, 9_500)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=launch_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.slow
def test_on_the_hub_cells_hold_bytes_or_name_files_of_their_own_repository(hub, secret, tmp_path):
    """A folder of images on the Hub works, also once more from the cache; a path in a parquet is
    refused, wherever it leads; when the files behind a prepared dataset are gone, that is said.
    """
    image_folder(tmp_path / "birds")
    write_cells(
        tmp_path / "paths",
        [{"bytes": png(picture(0)), "path": None}, {"bytes": None, "path": str(secret)}],
    )
    found = run_client(
        hub,
        """
import shutil
from huggingface_hub.constants import HF_HUB_CACHE
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve

def split_of(name):
    settings = DataSettings(dataset_name=name, output_dir="unused")
    return load_split(settings, resolve(name, repo_type="dataset"))

for name in ("birds", "paths"):
    api.create_repo(f"birds/{name}", repo_type="dataset")
    source = f"{sys.argv[1]}/{name}"
    api.upload_folder(repo_id=f"birds/{name}", folder_path=source, repo_type="dataset")
folder = split_of("birds/birds")
found = {"folder": folder.try_images()[1], "file": folder.file_name(4)}
found["paths"] = split_of("birds/paths").try_images()[1]
other = folder.rows[0]["image"]["path"]  # of another repository in the same cache
split = split_of("birds/paths")
import dataclasses
cell = {"bytes": None, "path": other}
rows = split.rows.map(lambda row: {"image": cell}, features=split.rows.features)
try:
    dataclasses.replace(split, rows=rows).try_images()
except UserError as error:
    found["other"] = str(error)
shutil.rmtree(Path(HF_HUB_CACHE) / "datasets--birds--birds" / "blobs")
try:
    split_of("birds/birds")
except UserError as error:
    found["gone"] = str(error)
print(json.dumps(found))
""",
        tmp_path,
    )
    assert found["folder"] == {}
    assert found["file"].endswith("train/tern/1.png")
    assert found["paths"] == {"1": OUTSIDE}
    assert OUTSIDE in found["other"]
    assert found["gone"].startswith(
        "the files behind the cached dataset birds/birds are gone: remove "
    )


@pytest.mark.slow
def test_on_the_hub_a_card_cannot_name_data_of_another_repository(hub, tmp_path):
    """The reader's token may open what its author cannot."""
    write_cells(tmp_path / "private", [{"bytes": png(picture(0)), "path": None}] * 2)
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "README.md").write_text(
        CARD.format(path=f"hf://datasets/birds/private/{DATA}")
    )
    told = run_client(
        hub,
        """
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve

for name in ("private", "stranger"):
    api.create_repo(f"birds/{name}", repo_type="dataset", private=name == "private")
    source = f"{sys.argv[1]}/{name}"
    api.upload_folder(repo_id=f"birds/{name}", folder_path=source, repo_type="dataset")
try:
    settings = DataSettings(dataset_name="birds/stranger", output_dir="unused")
    load_split(settings, resolve("birds/stranger", repo_type="dataset"))
    print(json.dumps("loaded"))
except UserError as error:
    print(json.dumps(str(error)))
""",
        tmp_path,
    )
    assert "Data files don't belong to birds/stranger" in told
