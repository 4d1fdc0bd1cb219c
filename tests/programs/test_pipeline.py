"""The stages in order on single rows: what is kept of the source and shown of the target, how
targets are cropped, which rows cannot be made.
"""

import dataclasses
import io

import numpy as np
import pytest
import scipy.ndimage
import torch
from generations import write_dataset
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from pictures import iou
from PIL import Image

from sgdmix_hub.data.images import aspect_box
from sgdmix_hub.errors import UnusableRow
from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.generation.plan import make_plan
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.mixer import MaskedImage, Mixer, crop_to_box
from sgdmix_hub.method.mixing import HOLE_MARGIN, LARGEST_HOLE
from sgdmix_hub.method.outlines import narrow
from sgdmix_hub.method.saliency.model_free import mask_column_map
from sgdmix_hub.models.adapters import read_adapter
from sgdmix_hub.models.prompts import RowPrompt
from sgdmix_hub.models.refine import Refiner
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

CPU = torch.device("cpu")
SIZE = 32
PROMPTS = [RowPrompt("a photo of a <class_0> bird")]
aspects = st.floats(0.2, 5.0)
sides = st.integers(20, 300)


@pytest.fixture(scope="module")
def settings(birds, adapter, tiny_base):
    return apply_preset(
        AugmentSettings(
            dataset_name=str(birds),
            output_dir="unused",
            adapter=str(adapter),
            preset="paper",
            saliency_method="spectral-residual",
            strength=0.5,
            num_inference_steps=4,
            guidance_scale=1.0,
            resolution=SIZE,
            batch_size=2,
        )
    )


@pytest.fixture(scope="module")
def refiner(settings, adapter, tiny_base):
    learned = read_adapter(resolve(str(adapter)))
    return Refiner(resolve(str(tiny_base)), learned, settings, CPU)


@pytest.fixture(scope="module")
def pair():
    """Two images of other sizes and their maps: a bright square left of the middle, and one right
    of it.
    """
    rng = np.random.default_rng(0)
    images, maps = [], []
    for left in (12, 36):
        images.append(Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)))
        saliency_map = np.full((64, 64), 0.1, np.float16)
        saliency_map[20:44, left : left + 16] = 1.0
        maps.append(saliency_map)
    return images, maps


def mixture_of(mixer, pair):
    (source, target), (source_map, target_map) = pair
    return mixer.mix(mixer.mask(source, source_map), mixer.mask(target, target_map))


# ---- mixtures ----


def test_a_mixture_is_eq_9_and_10_at_the_runs_resolution(settings, pair):
    mixture = mixture_of(Mixer(settings), pair)
    union = mixture.source.mask | mixture.target.mask
    assert mixture.mixed.shape == (SIZE, SIZE, 3)
    assert np.array_equal(
        mixture.mixed, np.where(union[..., None], mixture.source.pixels, mixture.target.pixels)
    )
    assert mixture.foreground_area == union.mean() and 0 < mixture.foreground_area < 1


@pytest.mark.slow
@given(
    source_mask=numpy_strategies.arrays(bool, (SIZE, SIZE)),
    target_mask=numpy_strategies.arrays(bool, (SIZE, SIZE), fill=st.just(False)),
    method=st.sampled_from(["union", "source", "inpaint"]),
)
@examples(max_examples=60)
def test_every_pixel_is_kept_or_inpainted_or_shown(settings, source_mask, target_mask, method):
    source_mask[0, 0] = True
    rng = np.random.default_rng(0)
    source, target = (
        MaskedImage(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), mask, (1, 1))
        for mask in (source_mask, target_mask)
    )
    mixer = Mixer(dataclasses.replace(settings, mixing_method=method))
    near = scipy.ndimage.distance_transform_edt(~target_mask) <= round(HOLE_MARGIN * SIZE)
    if method == "inpaint" and target_mask.any() and near.mean() > LARGEST_HOLE:
        with pytest.raises(UnusableRow, match="too large"):
            mixer.mix(source, target)
        return
    mixture = mixer.mix(source, target)
    assert (mixture.kept | mixture.hole | mixture.shown).all()
    assert not (mixture.shown & (mixture.kept | mixture.hole)).any()
    assert mixture.foreground_area == mixture.kept.mean()
    assert np.array_equal(mixture.mixed[mixture.kept], source.pixels[mixture.kept])
    assert np.array_equal(mixture.mixed[mixture.shown], target.pixels[mixture.shown])
    assert np.array_equal(mixture.background[~mixture.hole], target.pixels[~mixture.hole])
    assert np.array_equal(mixture.mixed[~mixture.kept], mixture.background[~mixture.kept])
    if method != "inpaint":
        assert not mixture.hole.any()
    elif mixture.hole.any():
        assert mixture.hole[target_mask].all()
    if method != "source" and (method == "union" or mixture.hole.any()):
        assert not (mixture.shown & target_mask).any()


def test_a_pasted_foreground_is_the_sources_to_the_pixel_and_the_rest_is_refined(
    settings, refiner, pair
):
    pasting = SGDMixPipeline(dataclasses.replace(settings, paste_foreground=True), refiner)
    mixture = mixture_of(pasting.mixer, pair)
    (pasted,) = pasting.refine([mixture], PROMPTS, [7], 0.5)
    (refined,) = SGDMixPipeline(settings, refiner).refine([mixture], PROMPTS, [7], 0.5)
    foreground = mixture.source.mask
    assert np.array_equal(pasted[foreground], mixture.source.pixels[foreground])
    assert np.array_equal(pasted[~foreground], refined[~foreground])
    assert not np.array_equal(refined[foreground], mixture.source.pixels[foreground])


def test_a_ring_of_the_foreground_is_refined_with_the_background(settings, refiner, pair):
    def made(**values):
        pipeline = SGDMixPipeline(dataclasses.replace(settings, **values), refiner)
        return pipeline.refine([mixture], PROMPTS, [7], 0.5)[0]

    mixture = mixture_of(SGDMixPipeline(settings).mixer, pair)
    foreground, ring = mixture.source.mask, 0.1
    inner = narrow(foreground, ring)
    assert inner.any() and (foreground & ~inner).any()
    whole = made(paste_foreground=True)
    pasted = made(paste_foreground=True, kept_erosion=ring)
    refined = made(kept_erosion=ring)
    assert np.array_equal(pasted[inner], mixture.source.pixels[inner])
    assert np.array_equal(pasted[~inner], refined[~inner])
    edge = foreground & ~inner
    assert np.array_equal(whole[edge], mixture.source.pixels[edge])
    assert not np.array_equal(pasted[edge], whole[edge])


def test_without_a_refiner_the_mixture_is_the_image(settings, pair):
    pipeline = SGDMixPipeline(settings)
    mixture = mixture_of(pipeline.mixer, pair)
    assert pipeline.inpaint([mixture], [7]) == [mixture]
    (made,) = pipeline.refine([mixture], PROMPTS, [7], 0.0)
    assert np.array_equal(made, mixture.mixed)


def test_a_source_without_foreground_is_unusable(settings, pair):
    mixer = Mixer(settings)
    (source, target), (_, target_map) = pair
    blank = np.zeros((64, 64), np.float16)
    with pytest.raises(UnusableRow, match="no foreground"):
        mixer.mix(mixer.mask(source, blank), mixer.mask(target, target_map))


# ---- targets in their sources' geometry ----


@given(width=sides, height=sides, aspect=aspects)
@examples(max_examples=200)
def test_the_box_is_the_largest_of_its_aspect_in_the_middle(width, height, aspect):
    left, top, right, bottom = aspect_box(width, height, aspect)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert right - left == width if width / height < aspect else bottom - top == height
    assert abs(left - (width - right)) <= 1 and abs(top - (height - bottom)) <= 1
    if (right - left, bottom - top) != (width, height):
        assert abs((right - left) - (bottom - top) * aspect) <= 0.5 * max(1, aspect) + 1e-9
    assert aspect_box(width, height, width / height) == (0, 0, width, height)


@given(width=sides, height=sides, aspect=aspects, seed=st.integers(0, 100))
@examples(max_examples=80)
def test_image_and_map_stay_aligned_when_they_are_cropped(width, height, aspect, seed):
    """An image that is its own mask: its map after the crop is that of the cropped image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre_x, centre_y = rng.uniform(0.3, 0.7, 2) * (width, height)
    mask = ((x - centre_x) / width) ** 2 + ((y - centre_y) / height) ** 2 < 0.3**2
    image = Image.fromarray(np.uint8(mask) * 255)
    box = aspect_box(width, height, aspect)
    cropped, cropped_map = crop_to_box(
        image, mask_column_map(image, "stretch").astype(np.float16), box
    )
    assert cropped.size == (box[2] - box[0], box[3] - box[1])
    assert cropped_map.shape == (64, 64) and cropped_map.dtype == np.float32
    expected = mask_column_map(cropped, "stretch")
    assert np.abs(cropped_map - expected).mean() < 0.06
    if 0 < expected.mean() < 1 and (expected > 0.5).sum() > 200:
        assert iou(cropped_map > 0.5, expected > 0.5) > 0.85


@pytest.mark.parametrize(
    ("width", "height", "aspect"),
    [(300, 100, 1.0), (100, 300, 1.0), (200, 100, 0.5), (90, 120, 2.0)],
)
def test_a_ramp_is_cut_where_its_image_is(width, height, aspect):
    """The map says how far across and how far down a pixel lies in the whole image; so it does
    after the crop.
    """
    box = left, top, right, bottom = aspect_box(width, height, aspect)
    for axis, (start, stop, length) in enumerate([(top, bottom, height), (left, right, width)]):
        ramp = np.moveaxis(np.broadcast_to((np.arange(64) + 0.5) / 64, (64, 64)), 1, axis)
        _, cut = crop_to_box(Image.new("RGB", (width, height)), ramp, box)
        expected = (start + (np.arange(64) + 0.5) / 64 * (stop - start)) / length
        line = np.moveaxis(cut, axis, 1)
        # Half a cell: at an edge of the image there is no neighbour to interpolate with.
        assert np.abs(line - expected).max() <= 0.5 / 64 + 1e-6
        assert np.abs(line - expected)[:, 8:-8].max() < 1e-3


def test_a_target_of_the_sources_aspect_is_not_touched(settings, pair):
    (image, _), (saliency_map, _) = pair
    mixer = Mixer(settings)
    whole, same = (
        mixer.mask(image, saliency_map),
        mixer.mask(image, saliency_map, image.width / image.height),
    )
    assert whole.aspect == same.aspect == 40 / 48
    assert np.array_equal(whole.pixels, same.pixels) and np.array_equal(whole.mask, same.mask)


def test_objects_keep_their_proportions_to_the_source(settings):
    """A disc in a cropped target comes out as a source of another aspect would show it."""
    for width, height, aspect in [(240, 80, 0.5), (80, 240, 1.5), (120, 120, 2.0)]:
        y, x = np.mgrid[:height, :width]
        disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < 15**2
        image = Image.fromarray(np.repeat(np.uint8(disc)[..., None] * 255, 3, axis=2))
        saliency_map = mask_column_map(image.convert("L"), "stretch")
        cropped = crop_to_box(image, saliency_map, aspect_box(width, height, aspect))
        masked = Mixer(dataclasses.replace(settings, resolution=128)).mask(*cropped)
        across, down = masked.mask.any(axis=0).sum(), masked.mask.any(axis=1).sum()
        assert down / across == pytest.approx(aspect, rel=0.12)
        assert iou(masked.mask, masked.pixels[..., 0] > 127) > 0.85


@pytest.fixture(scope="module")
def mixed_sizes(source_rows, tmp_path_factory):
    """The first eight birds, every other one cut to a wide or a tall image."""
    images = []
    boxes = [(0, 0, 96, 96), (0, 20, 96, 76), (0, 0, 96, 96), (18, 0, 78, 96)]
    for row, box in zip(source_rows[:8], boxes * 2, strict=True):
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").resize((96, 96))
        buffer = io.BytesIO()
        image.crop(box).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return write_dataset(
        tmp_path_factory.mktemp("data") / "mixed", images, [row["label"] for row in source_rows[:8]]
    )


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["stretch", "center-crop"])
def test_crop_target_crops_what_is_stretched_and_nothing_else(mixed_sizes, resize, tmp_path):
    """Against Pillow: cut to the source's aspect, then stretched. A centre crop has made all images
    square.
    """
    asked = AugmentSettings(
        dataset_name=str(mixed_sizes),
        output_dir=str(tmp_path),
        saliency_method="minimum-barrier",
        strength=0.0,
        resolution=SIZE,
        resize=resize,
    )
    asked = apply_preset(asked)
    inputs = resolve_inputs(asked, tmp_path / "state")
    maps = compute_maps(asked, inputs.split, None, 0, 1, CPU)
    plan = list(make_plan(asked, inputs.split, maps))
    as_they_are = RowMaker(asked, inputs, maps)
    cropping = RowMaker(dataclasses.replace(asked, crop_target=True), inputs, maps)
    changed = 0
    for row in plan:
        source, target = (
            inputs.split.image(index) for index in (row.source_index, row.target_index)
        )
        plain, cropped = as_they_are.mixture(row), cropping.mixture(row)
        assert np.array_equal(plain.source.pixels, cropped.source.pixels)
        assert np.array_equal(plain.source.mask, cropped.source.mask)
        if resize == "stretch":
            centred = aspect_box(*target.size, source.width / source.height)
            box = cropped.target.box or centred
            assert (box[2] - box[0], box[3] - box[1]) == (
                centred[2] - centred[0],
                centred[3] - centred[1],
            )
            expected = target.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            changed += box != (0, 0, *target.size)
        else:
            expected = plain.target.pixels
        assert np.array_equal(cropped.target.pixels, np.asarray(expected))
        if np.array_equal(cropped.target.pixels, plain.target.pixels):
            assert np.array_equal(cropped.mixed, plain.mixed)
    assert (changed > 0) == (resize == "stretch")
