"""Images of every mode, labels of every kind, subsets and prompts."""

import io
import re
import struct

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sgdmix_hub.data.images import square
from sgdmix_hub.data.splits import (
    decode_image,
    load_evaluation_split,
    load_split,
    subset_record,
    to_rgb,
)
from sgdmix_hub.data.subsets import NO_LABEL, check_same_subset
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.errors import UnusableImage, UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.settings.data import DataSettings

HEIGHT, WIDTH = 24, 40
ORIENTATION = 0x0112  # Exif tag
# orientation -> how an upright image is stored; the tag undoes it (Exif 2.3, 4.6.4 A)
STORED_FOR = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def known_rgb():
    """A picture without symmetries: gradients, and a bright block in one corner."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack(
        [x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), 128 + 0 * x], axis=-1
    ).astype(np.uint8)
    picture[2:8, 4:14] = (250, 240, 20)
    return Image.fromarray(picture)


def known_grey():
    return known_rgb().convert("L")


def cell(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def half_transparent(image):
    """The image with its left half transparent, and what is seen of it over white."""
    visible = np.zeros((HEIGHT, WIDTH), bool)
    visible[:, WIDTH // 2 :] = True
    with_alpha = image.copy()
    with_alpha.putalpha(Image.fromarray(np.uint8(visible) * 255))
    return with_alpha, Image.fromarray(
        np.where(visible[..., None], np.asarray(image.convert("RGB")), 255).astype(np.uint8)
    )


def palette_transparent():
    """A palette image whose colour 0, used for the left half, is transparent."""
    palette = known_rgb().quantize(200, dither=Image.Dither.NONE)
    values = np.asarray(palette).astype(np.uint8) + 1
    colours = [255, 0, 255, *palette.getpalette()[: 3 * 200]]
    values[:, : WIDTH // 2] = 0
    image = Image.fromarray(values).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(colours)
    return image, half_transparent(known_rgb())[1]


def sixteen_bit(top=65535):
    return Image.fromarray(
        (np.asarray(known_grey()).astype(np.float64) / 255 * top).round().astype(np.uint16)
    )


def bilevel():
    return known_grey().point(lambda value: 255 if value > 127 else 0, mode="1")


CASES = {
    "RGB": lambda: (cell(known_rgb(), "PNG"), known_rgb()),
    "grey": lambda: (cell(known_grey(), "PNG"), known_grey()),
    "RGBA": lambda: (
        cell(half_transparent(known_rgb())[0], "PNG"),
        half_transparent(known_rgb())[1],
    ),
    "LA": lambda: (
        cell(half_transparent(known_grey())[0], "PNG"),
        half_transparent(known_grey())[1],
    ),
    "palette": lambda: (cell(known_rgb().quantize(256), "PNG"), known_rgb()),
    "palette with transparency": lambda: (
        cell(palette_transparent()[0], "PNG", transparency=0),
        palette_transparent()[1],
    ),
    "GIF with transparency": lambda: (
        cell(palette_transparent()[0], "GIF", transparency=0),
        palette_transparent()[1],
    ),
    "RGB with a transparent colour": lambda: (
        cell(known_rgb(), "PNG", transparency=(250, 240, 20)),
        Image.fromarray(
            np.where(
                (np.asarray(known_rgb()) == (250, 240, 20)).all(-1, keepdims=True), 255, known_rgb()
            ).astype(np.uint8)
        ),
    ),
    "CMYK": lambda: (cell(known_rgb().convert("CMYK"), "TIFF"), known_rgb()),
    "CMYK JPEG": lambda: (cell(known_rgb().convert("CMYK"), "JPEG", quality=98), known_rgb()),
    "16 bit": lambda: (cell(sixteen_bit(), "PNG"), known_grey()),
    "16 bit TIFF": lambda: (cell(sixteen_bit(), "TIFF"), known_grey()),
    "32 bit": lambda: (cell(sixteen_bit().convert("I"), "TIFF"), known_grey()),
    "1 bit": lambda: (cell(bilevel(), "PNG"), bilevel()),
    "float up to 255": lambda: (cell(known_grey().convert("F"), "TIFF"), known_grey()),
    "float up to 1": lambda: (
        cell(Image.fromarray(np.asarray(known_grey(), np.float32) / 255), "TIFF"),
        known_grey(),
    ),
    "YCbCr": lambda: (cell(known_rgb().convert("YCbCr"), "TIFF"), known_rgb()),
    "LAB": lambda: (
        cell(Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8), "LAB"), "TIFF"),
        None,
    ),
    "WebP": lambda: (
        cell(half_transparent(known_rgb())[0], "WEBP", lossless=True),
        half_transparent(known_rgb())[1],
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_every_mode_becomes_rgb_of_the_same_content(name):
    stored, expected = CASES[name]()
    image = to_rgb(decode_image(stored))
    assert image.mode == "RGB" and image.size == (WIDTH, HEIGHT)
    if expected is not None:
        difference = np.abs(
            np.asarray(image).astype(int) - np.asarray(expected.convert("RGB")).astype(int)
        )
        assert difference.mean() < 4, f"mean difference {difference.mean()}"


@pytest.mark.parametrize("orientation", STORED_FOR)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_images_are_upright_as_exif_says(orientation, file_format):
    stored = (
        known_rgb()
        if STORED_FOR[orientation] is None
        else known_rgb().transpose(STORED_FOR[orientation])
    )
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}
    image = to_rgb(decode_image(cell(stored, file_format, exif=exif, **options)))
    assert image.size == (WIDTH, HEIGHT)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(known_rgb()).astype(int)).mean() < 3


def test_a_path_is_read_where_there_are_no_bytes(tmp_path):
    known_rgb().save(tmp_path / "bird.png")
    image = decode_image(
        {"bytes": None, "path": str(tmp_path / "bird.png")}, files_in=str(tmp_path.resolve())
    )
    assert np.array_equal(np.asarray(image), np.asarray(known_rgb()))


@pytest.mark.parametrize(
    "empty",
    [
        None,
        {"bytes": b"", "path": None},
        {"bytes": None, "path": None},
        {"bytes": None, "path": "/absent.png"},
    ],
    ids=repr,
)
def test_a_cell_without_an_image_is_unusable(empty):
    with pytest.raises(UnusableImage):
        decode_image(empty)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_bytes_are_an_image_or_unusable(file_format, data):
    """Whatever happened to a file, one row is lost and not the run: no other exception leaves the
    decoder.
    """
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {} if file_format in ("GIF", "BMP") else {"exif": exif}
    whole = bytearray(cell(known_rgb(), file_format, **options)["bytes"])
    damaged = whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole
    for _ in range(data.draw(st.integers(0, 6)) if damaged else 0):
        position = data.draw(st.integers(0, min(len(damaged) - 1, 200)))
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        image = to_rgb(decode_image({"bytes": bytes(damaged), "path": None}))
    except UnusableImage as error:
        assert "\n" not in str(error) and "0x" not in str(error)
    else:
        assert image.mode == "RGB"


@pytest.mark.filterwarnings("ignore")
def test_a_tiff_with_a_tag_of_another_type_is_an_image_or_unusable():
    """Pillow does not check a tag's type, so it may raise anything, for example a TypeError."""
    whole = cell(known_rgb(), "TIFF")["bytes"]
    (directory,) = struct.unpack("<I", whole[4:8])
    (entries,) = struct.unpack("<H", whole[directory : directory + 2])
    for entry in range(entries):
        for tag_type in range(1, 13):
            damaged = bytearray(whole)
            damaged[directory + 2 + 12 * entry + 2] = tag_type
            try:
                assert to_rgb(decode_image({"bytes": bytes(damaged), "path": None})).mode == "RGB"
            except UnusableImage:
                continue


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_is_unusable_with_the_same_reason_every_time(file_format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    stored = cell(noise, file_format)
    stored["bytes"] = stored["bytes"][: len(stored["bytes"]) // 2]
    reasons = set()
    for _ in range(3):
        with pytest.raises(UnusableImage) as error:
            decode_image(stored)
        reasons.add(str(error.value))
    assert len(reasons) == 1 and "corrupt" in reasons.pop()


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    resize=st.sampled_from(["stretch", "center-crop"]),
)
@settings(max_examples=40)
def test_squares_have_the_size_asked_for(width, height, size, resize):
    assert square(Image.new("RGB", (width, height)), size, resize).size == (size, size)


def test_stretching_keeps_everything_and_cropping_keeps_the_aspect_ratio():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # a white square in the middle
    stretched = np.asarray(square(Image.fromarray(wide), 30, "stretch", Image.Resampling.NEAREST))
    cropped = np.asarray(square(Image.fromarray(wide), 30, "center-crop", Image.Resampling.NEAREST))
    assert stretched.mean() == wide.mean()
    assert (cropped == 255).all()


# --- splits and labels


def write_dataset(folder, labels, feature, images=None, split="train"):
    """One split of a dataset in a folder, saved as the Hub stores it."""
    images = images or [cell(known_rgb(), "PNG") for _ in labels]
    rows = Dataset.from_dict(
        {"image": images, "label": labels},
        features=Features({"image": ImageFeature(), "label": feature}),
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def data_settings(folder, **values):
    return DataSettings(dataset_name=str(folder), output_dir="unused", **values)


def split_of(settings):
    return load_split(settings, resolve(settings.dataset_name, repo_type="dataset"))


@pytest.mark.parametrize(
    ("feature", "values", "labels", "names"),
    [
        (
            ClassLabel(names=["kite", "tern", "finch"]),
            [2, 0, None, 2],
            [2, 0, NO_LABEL, 2],
            ["kite", "tern", "finch"],
        ),
        (Value("string"), ["tern", "kite", None, "tern"], [1, 0, NO_LABEL, 1], ["kite", "tern"]),
        (Value("int64"), [7, 3, None, 7], [1, 0, NO_LABEL, 1], ["3", "7"]),
        (Value("uint8"), [200, 3, None, 200], [1, 0, NO_LABEL, 1], ["3", "200"]),
        (Value("int64"), [10, 9, None, 10], [1, 0, NO_LABEL, 1], ["9", "10"]),
        (
            Value("large_string"),
            ["tern", "kite", None, "tern"],
            [1, 0, NO_LABEL, 1],
            ["kite", "tern"],
        ),
    ],
    ids=["class label", "string", "int64", "uint8", "numbers in numeric order", "large string"],
)
def test_labels_of_every_kind(tmp_path, feature, values, labels, names):
    split = split_of(data_settings(write_dataset(tmp_path / "data", values, feature)))
    assert split.labels.dtype == np.int64 and split.labels.tolist() == labels
    assert split.class_names == names
    assert split.subset.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("feature", "value"), [(Value("float32"), 0.5), (Value("bool"), True), (Value("int64"), None)]
)
def test_labels_that_are_none_are_refused(tmp_path, feature, value):
    with pytest.raises(UserError, match="label"):
        split_of(data_settings(write_dataset(tmp_path / "data", [value], feature)))


def test_a_split_gives_upright_rgb_and_names_its_pin(birds):
    split = split_of(data_settings(birds))
    rows = load_dataset(str(birds), split="train")
    assert len(split.rows) == 24 and split.class_names == rows.features["label"].names
    for index in (0, 7, 23):
        assert np.array_equal(
            np.asarray(split.image(index)), np.asarray(rows[index]["image"].convert("RGB"))
        )
        assert np.array_equal(
            np.asarray(split.image(index, "mask")), np.asarray(rows[index]["mask"])
        )
        assert split.labels[index] == rows[index]["label"]
    assert str(split.pin).startswith(f"{birds.name}@sha256-")


def test_a_changed_dataset_is_another_one_even_under_the_same_path(tmp_path):
    """`datasets` caches by path: the pin and the rows must both be those of what is in the folder
    now.
    """
    folder = write_dataset(tmp_path / "data", ["kite"], Value("string"))
    before = split_of(data_settings(folder))
    (folder / "data" / "train-00000-of-00001.parquet").unlink()
    (folder / "data").rmdir()
    after = split_of(data_settings(write_dataset(folder, ["tern", "finch"], Value("string"))))
    assert before.pin.revision != after.pin.revision
    assert (before.class_names, after.class_names) == (["kite"], ["finch", "tern"])


def test_corrupt_rows_are_found(tmp_path):
    images = [cell(known_rgb(), "PNG"), {"bytes": b"no image", "path": None}, None]
    split = split_of(
        data_settings(write_dataset(tmp_path / "data", ["a", "a", "a"], Value("string"), images))
    )
    assert split.image(0).mode == "RGB"
    for row in (1, 2):
        with pytest.raises(UnusableImage):
            split.image(row)
    assert split.decodable().tolist() == [0]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"label_column": "species"}, ["species", "image", "label", "mask", "background"]),
        ({"image_column": "img"}, ["img", "image", "label"]),
        ({"dataset_split": "valid"}, ["valid", "train", "validation", "test"]),
        ({"dataset_config_name": "other"}, ["other", "default"]),
        ({"image_column": "label"}, ["label", "no images"]),
    ],
)
def test_what_the_dataset_lacks_is_named_with_what_it_has(birds, values, named):
    with pytest.raises(UserError) as error:
        split_of(data_settings(birds, **values))
    assert "\n" not in str(error.value)
    for word in named:
        assert re.search(rf"\b{word}\b", str(error.value)), f"{word} is not in: {error.value}"


def test_a_folder_that_holds_no_dataset_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        split_of(data_settings(tmp_path / "empty"))
    folder = write_dataset(tmp_path / "broken", ["kite"], Value("string"))
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="broken"):
        split_of(data_settings(folder))


def test_a_split_of_another_name_or_seed_is_another_subset(birds):
    def record(**values):
        chosen = data_settings(birds, **({"examples_per_class": 3} | values))
        return subset_record(chosen, split_of(chosen))

    mine = record()
    check_same_subset(mine, record(), "adapter")
    # Three of six and "all there are, at most three of them" are one subset, however it was asked
    # for.
    check_same_subset(record(examples_per_class=6), record(examples_per_class=None), "adapter")
    for other in (
        record(subset_seed=1),
        record(examples_per_class=2),
        record(dataset_split="test"),
        record(examples_per_class=None),
    ):
        with pytest.raises(UserError, match="adapter was trained on another subset"):
            check_same_subset(mine, other, "adapter")
    for key in ("dataset", "rows_sha256"):
        with pytest.raises(UserError, match=key):
            check_same_subset(mine, mine | {key: "other"}, "classifier")
        with pytest.raises(UserError, match=key):
            check_same_subset(
                mine, {name: value for name, value in mine.items() if name != key}, "classifier"
            )


def test_an_evaluation_split_is_whole_and_numbered_like_the_training_split(birds, tmp_path):
    chosen = data_settings(birds, examples_per_class=1)
    split = split_of(chosen)
    assert len(split.subset) == 4
    assert len(load_evaluation_split(chosen, "test", like=split).subset) == 16
    for name, values in {
        "train": ["a", "b", "c"],
        "test": ["c", "b", "c"],
        "validation": ["b", "d", "a"],
    }.items():
        write_dataset(tmp_path / "data", values, Value("string"), split=name)
    chosen = data_settings(tmp_path / "data")
    split = split_of(chosen)
    assert load_evaluation_split(chosen, "test", like=split).labels.tolist() == [2, 1, 2]
    with pytest.raises(UserError, match="'d'"):
        load_evaluation_split(chosen, "validation", like=split)


def test_a_copy_of_a_dataset_is_the_same_dataset(birds, tmp_path):
    """What counts is the content: a copy under the same name has the same pin and subset."""
    save_dataset(make_dataset(4, 6, 2, 4, seed=0, resolution=32), tmp_path / birds.name)
    records = [
        subset_record(data_settings(folder), split_of(data_settings(folder)))
        for folder in (birds, tmp_path / birds.name)
    ]
    assert records[0] == records[1]
