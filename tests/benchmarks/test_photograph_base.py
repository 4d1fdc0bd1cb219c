"""The base of photographs, in small: made-up photographs, two steps of each training."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from cutouts import CALM, CLUTTER
from parts.photograph_base import measures
from parts.photograph_base.crops import HELD_OUT, TRAIN, make_crops
from parts.photograph_base.measures import draw_sheet, figures, table
from parts.photograph_base.photographs import FILES, held_out, resources
from parts.photograph_base.training import captions, export, train_denoiser, train_vae


@pytest.fixture
def photographs():
    """Plain colours: three photographs to train on, red, and two held out, blue."""
    names = {True: [], False: []}
    for number in range(60):
        names[held_out(str(number))].append(str(number))
    colours = [((200, 0, 0), names[False][:3]), ((0, 0, 200), names[True][:2])]
    return {
        name: (np.tile(np.uint8(colour), (240, 300, 1)), "")
        for colour, some in colours
        for name in some
    }


@pytest.fixture
def objects():
    """A green square."""
    return {"square": np.tile(np.uint8([0, 200, 0, 255]), (60, 60, 1))}


def test_files_are_read_out_of_a_qt_resource_file(tmp_path):
    contents = {"one.webp": b"first", "two.webp": b"second!"}
    names, name_at = b"", {}
    for name in ("folder", *contents):
        name_at[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, data_at = b"", {}
    for name, content in contents.items():
        data_at[name] = len(data)
        data += struct.pack(">I", len(content)) + content
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", name_at["folder"], 2, 2, 2)
    for name in contents:
        tree += struct.pack(">IHHHI", name_at[name], 0, 0, 0, data_at[name])
    at = 20 + len(data), 20, 20 + len(data) + len(tree)
    path = tmp_path / "files.rcc"
    path.write_bytes(struct.pack(">4s4I", b"qres", 1, *at) + data + tree + names)
    assert dict(resources(path)) == {f"folder/{name}": part for name, part in contents.items()}
    path.write_bytes(b"RIFF" + bytes(16))
    with pytest.raises(ValueError, match="no Qt resource file"):
        list(resources(path))


def test_no_background_of_the_task_is_trained_on():
    def pictures(paths):  # a wallpaper of Plasma is a folder
        return {path.partition("/contents/")[0] for path in paths}

    assert not pictures(FILES) & pictures([*CALM, *CLUTTER])


def test_crops_show_their_own_split_and_captions_name_what_is_pasted(photographs, objects):
    pixels, shown = make_crops(photographs, objects, 0, TRAIN, 12, 32)
    others, none = make_crops(photographs, objects, 0, HELD_OUT, 6, 32)
    assert pixels[..., 0].mean() > 100 > 5 > pixels[..., 2].mean()
    assert others[..., 2].min() == 200 and set(none) == {""}
    green = pixels[..., 1].max((1, 2)) > 100
    assert 0 < green.sum() < 12 and [name == "square" for name in shown] == green.tolist()
    again, _ = make_crops(photographs, objects, 0, TRAIN, 12, 32)
    assert np.array_equal(again, pixels)
    told = captions(["", "square"], [0, 1] * 50, np.random.default_rng(0))
    assert set(told[::2]) == {"", "a photo"}
    assert set(told[1::2]) == {"", "a photo", "a photo of a square"}


@pytest.mark.slow
def test_the_base_is_trained_measured_and_refines(photographs, objects, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "STRENGTHS", [0.3])
    crops, shown = make_crops(photographs, objects, 0, TRAIN, 8, 32)
    unseen = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8)
    train_vae(crops, unseen, tmp_path, 2, 0)
    train_denoiser(crops, shown, unseen, tmp_path, 2, 0)
    export(tmp_path, tmp_path / "base", 0)
    found = figures(tmp_path, unseen)
    assert found["psnr"]["photographs"] == pytest.approx(found["log"][0]["psnr"], abs=0.1)
    assert "| packaged |" in table(found) and "| 2 |" in table(found)
    sheet = np.asarray(draw_sheet(tmp_path / "base", unseen))
    assert sheet.std() > 10
