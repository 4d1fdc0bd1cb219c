"""Segmentation models: the real classes at tiny size, from folders as they are published."""

import inspect
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file
from support.tiny_segmenters import (
    DETECTORS,
    SEGMENTERS,
    SIDE,
    clipseg,
    eomt,
    grounding_dino,
    mask2former,
    oneformer,
    owlv2,
    sam2,
    saved_segmenter,
    segformer,
)

from sgdmix_hub.data.images import square
from sgdmix_hub.demo.tiny_training import HELD_OUT, render_world
from sgdmix_hub.demo.train_tiny_segmenter import TINY_SEGMENTER
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.segmenters.frames import Input, framed, over_frame
from sgdmix_hub.models.segmenters.instances import Instances, centred_score, foreground_of
from sgdmix_hub.models.segmenters.segmenter import BATCH, Segmenter

CPU = torch.device("cpu")
GIVEN = Input(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), padded=False)


def pictures(count=BATCH + 1):
    """Images of several shapes, each of coarse random cells."""
    rng = np.random.default_rng(0)
    shapes = [(6, 8), (8, 6), (9, 9), (5, 12), (7, 7)]
    return [
        Image.fromarray(rng.integers(0, 256, (*shapes[at % 5], 3), dtype=np.uint8)).resize(
            (shapes[at % 5][1] * 8, shapes[at % 5][0] * 8)
        )
        for at in range(count)
    ]


def segmenter_of(folder, detector=None, words=("bird",), instances="union", resize="stretch"):
    pins = [None if place is None else resolve(str(place)) for place in (folder, detector)]
    return Segmenter(*pins, words, instances, resize, CPU)


@pytest.fixture(scope="module", params=[*SEGMENTERS, *DETECTORS], ids=lambda make: make.__name__)
def tiny(request, tmp_path_factory):
    """A segmenter of each family; of a detector, with SAM 2 behind it."""
    folder = saved_segmenter(request.param, tmp_path_factory.mktemp("model"))
    if request.param in DETECTORS:
        sam = saved_segmenter(sam2, tmp_path_factory.mktemp("sam"))
        return segmenter_of(sam, folder, ("bird", "cat"))
    return segmenter_of(folder, words=() if request.param is sam2 else ("bird",))


def boxes_of(segmenter, images):
    if not segmenter.needs_boxes:
        return None
    return [(4.0, 6.0, image.width - 8.0, image.height - 5.0) for image in images]


def same(one, other):
    return one.confidence == other.confidence and np.array_equal(one.share, other.share)


@pytest.mark.slow
def test_every_family_gives_a_map_a_mask_and_a_confidence(tiny):
    images = pictures()
    found = tiny.segment(images, boxes_of(tiny, images))
    assert len(found) == len(images)
    for one in found:
        assert one.share.shape == (256, 256) and one.mask.dtype == bool
        assert one.saliency_map.shape == (64, 64) and one.saliency_map.dtype == np.float16
        assert one.share.min() >= 0 and one.share.max() <= 1 and 0 <= one.confidence <= 1
        assert one.mask.any() == (one.confidence > 0)
    assert any(one.confidence > 0 for one in found)


@pytest.mark.slow
def test_an_images_mask_does_not_depend_on_its_batch(tiny):
    images = pictures()
    boxes = boxes_of(tiny, images)
    together = tiny.segment(images, boxes)
    again = tiny.segment(images, boxes)
    assert all(map(same, together, again))
    alone = tiny.segment(images[2:3], None if boxes is None else boxes[2:3])[0]
    assert same(alone, together[2])


def test_half_precision_gives_about_the_same(tiny, monkeypatch):
    images = pictures(2)
    boxes = boxes_of(tiny, images)
    whole = tiny.segment(images, boxes)
    monkeypatch.setattr(
        Segmenter, "_half_precision", lambda self: torch.autocast("cpu", torch.bfloat16)
    )
    half = tiny.segment(images, boxes)
    for one, other in zip(whole, half, strict=True):
        assert np.isfinite(other.share).all()
        assert abs(one.confidence - other.confidence) < 0.1


def test_a_box_tells_sam_where_to_look(tmp_path):
    segmenter = segmenter_of(saved_segmenter(sam2, tmp_path), words=())
    image = pictures(1)[0]
    left, right = segmenter.segment([image] * 2, [(0, 0, 20, 40), (40, 0, 64, 40)])
    assert not np.array_equal(left.share, right.share)
    assert segmenter.segment([image], [None])[0].confidence == 0


def test_a_published_sam_2_is_a_video_model(tmp_path):
    folder = saved_segmenter(sam2, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "sam2_video"}))
    found = segmenter_of(folder, words=()).segment(pictures(1), [(4, 4, 30, 30)])
    assert found[0].confidence > 0


@pytest.mark.parametrize("rule, confidence, area", [("largest", 0.6, 0.5), ("union", 0.7, 0.75)])
def test_instances_become_one_foreground(rule, confidence, area):
    found = instances_of((0.6, 0, 32), (0.9, 32, 48), (0.2, 48, 64))
    chosen = foreground_of(found, framed(Image.new("RGB", (80, 80)), None, "stretch", GIVEN), rule)
    assert chosen.confidence == pytest.approx(confidence)
    assert chosen.mask.mean() == pytest.approx(area, abs=0.01)


def test_the_instance_nearest_the_box_is_taken():
    found = instances_of((0.6, 0, 32), (0.9, 32, 48))
    image = framed(Image.new("RGB", (160, 80)), (60, 0, 120, 80), "stretch", GIVEN)
    chosen = foreground_of(found, image, "nearest-box")
    assert chosen.confidence == pytest.approx(0.9)


@pytest.mark.parametrize("found_from", [0.1, 0.25, 0.5, 0.8])
def test_confidence_is_one_half_where_the_family_begins_to_count(found_from):
    scores = np.linspace(0, 1, 101)
    values = [centred_score(score, found_from) for score in scores]
    assert values[0] == 0 and values[-1] == 1 and centred_score(found_from, found_from) == 0.5
    assert np.all(np.diff(values) > 0)
    assert found_from != 0.5 or np.allclose(values, scores)
    found = instances_of((found_from - 0.01, 0, 32))
    image = framed(Image.new("RGB", (80, 80)), None, "stretch", GIVEN)
    assert foreground_of(found, image, "union", found_from).confidence < 0.5


@pytest.mark.slow
def test_a_family_counts_from_where_its_own_processor_does(tmp_path):
    """transformers' defaults, where its post-processing has one; the detector's before SAM's."""
    for make, threshold in ((mask2former, 0.5), (eomt, 0.8), (oneformer, 0.5)):
        folder = saved_segmenter(make, tmp_path / make.__name__)
        processor = type(make()[1])
        defaults = inspect.signature(processor.post_process_panoptic_segmentation).parameters
        segmenter = segmenter_of(folder)
        assert segmenter.found_from == threshold == defaults["threshold"].default
    folder = saved_segmenter(sam2, tmp_path / "sam2")
    processors = {grounding_dino: hf.GroundingDinoProcessor, owlv2: hf.Owlv2Processor}
    for make, processor in processors.items():
        detector = saved_segmenter(make, tmp_path / make.__name__)
        found = inspect.signature(processor.post_process_grounded_object_detection).parameters
        assert segmenter_of(folder, detector).found_from == found["threshold"].default
    assert segmenter_of(folder, words=()).found_from == 0.5


def instances_of(*columns):
    """Instances that are columns of the input, each by its score, first and last column."""
    logits = torch.full((len(columns), SIDE, SIDE), -9.0)
    for one, (_, first, last) in zip(logits, columns, strict=True):
        one[:, first:last] = 9.0
    return Instances(logits, torch.tensor([score for score, *_ in columns]))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("resize", ["stretch", "center-crop"])
@pytest.mark.parametrize("size", [(120, 60), (60, 120), (90, 90)])
def test_what_a_model_draws_lands_where_the_image_has_it(size, resize, padded):
    """The image's bright box is found by its brightness, and comes back over the run's frame."""
    given = Input(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), padded)
    image = Image.new("RGB", size)
    box = (size[0] * 0.4, size[1] * 0.3, size[0] * 0.7, size[1] * 0.6)
    image.paste((255, 255, 255), tuple(map(round, box)))
    shown = framed(image, box, resize, given)
    seen = torch.from_numpy(shown.pixels[..., 0].astype(np.float32))[None] / 255 - 0.5
    back = over_frame(seen, shown)[0].numpy() > 0
    true = np.asarray(square(image, 256, resize))[..., 0] > 127
    assert (back & true).sum() / (back | true).sum() > 0.9
    left, top, right, bottom = (value * 256 for value in shown.box_in_frame())
    rows, columns = np.nonzero(true)
    ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.allclose((left, top, right, bottom), ends, atol=3)


@pytest.mark.parametrize(
    "words, message", [(("dog",), "has no class dog"), ((), "give --segmenter_prompt")]
)
def test_a_model_that_cannot_be_asked_is_refused(tmp_path, words, message):
    folder = saved_segmenter(segformer, tmp_path)
    with pytest.raises(UserError, match=message):
        segmenter_of(folder, words=words)


def test_a_class_may_have_several_names(tmp_path):
    folder = saved_segmenter(segformer, tmp_path)
    assert segmenter_of(folder, words=("Finch",)).finder.named.tolist() == [False, True, False]


def test_a_detector_needs_sam_2(tmp_path):
    folder = saved_segmenter(segformer, tmp_path / "segmenter")
    detector = saved_segmenter(grounding_dino, tmp_path / "detector")
    with pytest.raises(UserError, match="leave --detector out"):
        segmenter_of(folder, detector)
    with pytest.raises(UserError, match="detector .* is of type segformer"):
        segmenter_of(saved_segmenter(sam2, tmp_path / "sam"), folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "llama"}, "is of type llama"),
        ({"model_type": None}, "no config.json with a model_type"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
        ({"attn_implementation": "kernels-community/x"}, "code that was fetched is never run"),
        ({"backbone_config": {"model_type": "timm_backbone"}}, "backbone of timm"),
        ({"backbone_config": {"model_type": "timm_wrapper"}}, "backbone of timm"),
        ({"backbone": "eve/other", "backbone_config": None}, "names its backbone, eve/other"),
        ({"text_config": {"backbone": "resnet50"}}, "names its backbone, resnet50"),
        ({"image_size": 10**6}, "image_size of 1000000"),
        ({"num_queries": 7}, "cannot load the segmenter"),
    ],
)
def test_a_config_that_asks_for_more_than_its_weights_is_refused(tmp_path, changes, message):
    folder = saved_segmenter(mask2former, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=message):
        segmenter_of(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": {"height": 10**6, "width": 64}}, "sides from 1 to 2048"),
        ({"image_mean": [1, 2]}, "three numbers"),
        ({"image_std": [1, 0, 1]}, "holds a zero"),
    ],
)
def test_an_image_processor_that_cannot_be_followed_is_refused(tmp_path, changes, message):
    folder = saved_segmenter(segformer, tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        segmenter_of(folder)


class Opened:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "sam2.1_hiera_tiny.pt"])
def test_weights_in_pickles_are_never_read(name, tmp_path):
    folder = saved_segmenter(segformer, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | {"opened": Opened(tmp_path / "opened")}, folder / name)
    with pytest.raises(UserError, match="cannot load the segmenter"):
        segmenter_of(folder)
    assert not (tmp_path / "opened").exists()


def test_code_in_the_folder_is_never_run(tmp_path):
    """Named by the configuration, the tokenizer and the processor, as the Hub's models name it."""
    folder = saved_segmenter(clipseg, tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass")
    auto_map = {
        "config.json": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
        "tokenizer_config.json": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
        "preprocessor_config.json": {"AutoImageProcessor": "evil.Evil"},
    }
    for name, classes in auto_map.items():
        path = folder / name
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(values | {"auto_map": classes}))
    with suppress(UserError):  # read without that code, or refused
        segmenter_of(folder).segment(pictures(1))
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_an_adapter_of_another_model_is_refused(tmp_path):
    folder = saved_segmenter(segformer, tmp_path)
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "eve/other", "peft_type": "LORA"})
    )
    with pytest.raises(UserError, match="adapter_config.json makes the segmenter .* an adapter"):
        segmenter_of(folder)


@pytest.mark.slow
def test_the_packaged_segmenter_finds_birds_that_it_was_not_trained_on():
    """Small, in safetensors, and right at the size of the demo and at twice that size."""
    assert sum(path.stat().st_size for path in TINY_SEGMENTER.iterdir()) < 2_000_000
    segmenter = segmenter_of(TINY_SEGMENTER)
    for side in (64, 128):
        scenes = render_world(16, 3, HELD_OUT, side)
        found = segmenter.segment([Image.fromarray(scene[..., :3]) for scene in scenes])
        true = [
            np.asarray(square(Image.fromarray(scene[..., 3]), 256, "stretch")) > 127
            for scene in scenes
        ]
        ious = [
            (one.mask & mask).sum() / (one.mask | mask).sum()
            for one, mask in zip(found, true, strict=True)
        ]
        assert np.mean(ious) > 0.8 and np.mean([one.confidence for one in found]) > 0.8
