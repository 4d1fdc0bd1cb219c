"""Whatever image a row holds, it is mixed or has a reason: no row ends a run."""

import warnings

import cv2
import numpy as np
import pytest
import torch
from generations import manifest_of, published_rows, write_dataset
from odd_images import encoded, odd_images, picture
from PIL import Image

from sgdmix_hub import augment, preview
from sgdmix_hub.data.images import decode_image, to_rgb
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.errors import Preempted, Unusable, UnusableRow, UserError, one_row
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.method.saliency.sources import load_source
from sgdmix_hub.method.saliency.trust import trust_test
from sgdmix_hub.models.classifier import Classifier
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.programs import PreviewSettings

NO_MASK = {
    "blank saliency map",
    "mask confidence 0.00: the image has no colours",
    "mask confidence 0.00: nothing stands out",
}
RECIPES = {
    "recommended": {"preset": "recommended"},
    "paper": {"preset": "paper", "saliency_method": "spectral-residual"},
    "everything on": {
        "preset": "recommended",
        "saliency_method": "spectral-residual",
        "mask_refinement": "none",
        "largest_component": True,
        "fill_holes": True,
        "mask_dilation": 0.05,
        "resize": "center-crop",
    },
}


@pytest.fixture(scope="module")
def files():
    return dict(odd_images())


@pytest.fixture(scope="module")
def decoded(files):
    """The image, or the reason why there is none, of every file."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in files.items():
            try:
                found[name] = to_rgb(decode_image({"bytes": data, "path": None}))
            except UnusableRow as reason:
                found[name] = str(reason)
    return found


@pytest.mark.slow
def test_over_five_hundred_odd_files_are_images_or_have_a_short_reason_without_places(
    files, decoded
):
    assert len(files) > 500
    for name, found in decoded.items():
        if isinstance(found, str):
            assert (
                len(found) < 120 and found.isprintable() and "/" not in found and "0x" not in found
            ), (name, found)
        else:
            assert found.mode == "RGB", name
    assert sum(not isinstance(found, str) for found in decoded.values()) > 200


@pytest.fixture(scope="module")
def images(decoded):
    """The images by name; of the many that look like one picture, since their damage does not show,
    a few.
    """
    found = {name: image for name, image in decoded.items() if not isinstance(image, str)}
    alike = [name for name in found if "flipped bits" in name or " cut to " in name]
    return {
        name: image for name, image in found.items() if name not in alike or name in alike[::20]
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "every"),
    [
        ("paper", 1),
        ("everything on", 1),
        ("recommended", 20),
        pytest.param("recommended", 1, marks=pytest.mark.soak),  # half a second an image
    ],
)
def test_every_odd_image_is_mixed_or_has_no_foreground(recipe, every, images):
    settings = apply_preset(MethodSettings(strength=0.0, resolution=64, **RECIPES[recipe]))
    source_of, mixer = load_source(settings), Mixer(settings)
    target, mixed, images = None, 0, dict(list(images.items())[::every])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, image in images.items():
            try:
                (found,) = source_of.found([image], None, None)
                if isinstance(found, Unusable):
                    assert found.reason in NO_MASK, name
                    continue
                source = mixer.mask(image, found.map)
                mixture = mixer.mix(source, target or source)
            except UnusableRow as reason:
                refused = str(reason).startswith("the target's foreground")
                assert refused or str(reason).startswith("empty mask"), name
                target = None if refused else target
                continue
            assert mixture.mixed.shape == (64, 64, 3) and mixture.mixed.dtype == np.uint8, name
            mixed, target = mixed + 1, source
    assert mixed > 30 / every  # most are grey, in which `recommended` finds nothing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_generation_and_a_trust_test_over_odd_rows_end_with_every_row_counted(
    files, decoded, classifier, tmp_path
):
    chosen = (
        list(files)[::40]
        + [name for name in files if name.startswith(("checks", "scales", "jittered"))][::12]
    )
    data = write_dataset(
        tmp_path / "odd", [files[name] for name in chosen], [row % 2 for row in range(len(chosen))]
    )
    settings = AugmentSettings(
        dataset_name=str(data),
        output_dir=str(tmp_path / "run"),
        preset="recommended",
        saliency_method="minimum-barrier",
        strength=0.0,
        resolution=32,
        max_skipped=1.0,
    )
    augment.main(settings)
    manifest = manifest_of(tmp_path / "run")
    skipped = {record["source_index"] for record in manifest["skipped"]}
    unusable = {row for row, name in enumerate(chosen) if isinstance(decoded[name], str)}
    assert manifest["rows"] + len(skipped) == manifest["planned_rows"] == len(chosen)
    assert len(published_rows(tmp_path / "run")) == manifest["rows"] > len(chosen) // 5
    assert unusable <= skipped
    split = load_split(settings, resolve(str(data), repo_type="dataset"))
    reader = Classifier(resolve(str(classifier)), torch.device("cpu"))
    assert trust_test(reader, 64, split, "stretch").images == len(chosen) - len(unusable)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_preview_over_odd_rows_is_drawn(files, tmp_path, caplog):
    chosen = (
        list(files)[10::160] + [name for name in files if name.startswith(("checks", "scales"))][:2]
    )
    data = write_dataset(
        tmp_path / "odd", [files[name] for name in chosen], [row % 2 for row in range(len(chosen))]
    )
    preview.main(
        PreviewSettings(
            dataset_name=str(data),
            output_dir=str(tmp_path / "preview"),
            resolution=32,
            num_candidates=3,
        )
    )
    facts = read_json(tmp_path / "preview" / "preview.json")
    assert facts["images"] + len(facts["left_out"]) == len(chosen) and facts["images"] > 2
    assert f"{len(facts['left_out'])} images of odd cannot be used: row " in caplog.text


def test_what_says_nothing_about_a_row_is_not_its_reason():
    for error in (
        MemoryError("no room"),
        UserError("mend it"),
        Preempted("stop"),
        KeyboardInterrupt(),
    ):
        with pytest.raises(type(error)), one_row("mask"):
            raise error
    no_memory = cv2.error("Failed to allocate 99 bytes")
    no_memory.code = cv2.Error.StsNoMem
    with pytest.raises(MemoryError, match="Failed to allocate"), one_row("mask"):
        raise no_memory
    for error, reason in {
        ZeroDivisionError(): "mask: ZeroDivisionError",
        ValueError("no such value\nand more"): "mask: no such value",
        FileNotFoundError(2, "No such file", "/home/ada/x.png"): "mask: FileNotFoundError",
        RuntimeError("a\x1b[31m"): "mask: a\\x1b[31m",
    }.items():
        with pytest.raises(UnusableRow) as found, one_row("mask"):
            raise error
        assert str(found.value) == reason


@pytest.mark.slow
def test_a_pipeline_called_with_odd_images_gives_an_image_or_none_for_each(
    images, tmp_path, caplog
):
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(encoded(picture(1), "PNG")[:-200])
    called = [*list(images.values())[::30], Image.open(truncated), picture(2)]
    pipeline = SGDMixPipeline(
        apply_preset(MethodSettings(saliency_method="minimum-barrier", strength=0.0, resolution=32))
    )
    refined = pipeline(called, called[:1] * len(called)).images
    assert any(f"image {len(called) - 2}: corrupt image" in message for message in caplog.messages)
    assert [image is None for image in refined[-2:]] == [True, False]
    assert all(image is None or image.size == (32, 32) for image in refined)
