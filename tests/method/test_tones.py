"""Grey and toned images are told from those with colours."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from pictures import disc_on_texture
from PIL import Image

from sgdmix_hub.method.outlines import small_lab
from sgdmix_hub.method.saliency.consensus import consensus_mask
from sgdmix_hub.method.saliency.tones import has_colours, is_grey, is_toned, off_curve

SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
RAMPS = {
    "cyanotype": ((8, 24, 58), (38, 92, 150), (245, 248, 244)),
    "warm black": ((8, 4, 2), (136, 126, 116), (255, 252, 244)),
}


def saved(pixels, quality):
    stored = BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored).convert("RGB"))


def toned(image, tone):
    if tone == "sepia":
        return np.rint(image @ SEPIA.T).clip(0, 255).astype(np.uint8)
    at = np.linspace(0, 255, len(RAMPS[tone]))
    ramp = [np.interp(np.arange(256), at, of) for of in np.transpose(RAMPS[tone])]
    return np.stack(ramp, axis=1).astype(np.uint8)[cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)]


@pytest.mark.parametrize("tone", ["sepia", *RAMPS])
@pytest.mark.parametrize("quality", [95, 75])
@pytest.mark.parametrize("seed", range(3))
def test_a_toned_image_has_no_colours_whatever_jpeg_leaves_of_them(tone, quality, seed):
    image, _, _ = disc_on_texture(seed, 256)
    copy = saved(toned(image, tone), quality)
    assert not has_colours(copy) and not is_grey(copy)
    assert has_colours(saved(image, quality))
    assert off_curve(small_lab(copy)) < 0.5 * off_curve(small_lab(image))


@pytest.mark.parametrize("ground", [(255, 255, 255), (200, 200, 200), (12, 12, 12)])
def test_an_object_of_one_hue_on_a_plain_background_has_colours(ground):
    """Its colours follow from the lightness too."""
    _, disc, _ = disc_on_texture(1, 256)
    y, x = np.mgrid[:256, :256]
    shade = 0.5 + 0.4 * np.sin((x + y) / 40)[..., None]
    pixels = np.where(disc[..., None], shade * np.array([190, 120, 70]), ground).astype(np.uint8)
    assert has_colours(pixels) and off_curve(small_lab(pixels)) < 3.5


def test_a_grey_image_has_no_colours_with_a_stamp_of_the_date():
    image, _, _ = disc_on_texture(2, 256)
    grey = Image.fromarray(image).convert("L").convert("RGB")
    assert not has_colours(np.asarray(grey))
    grey.paste("orange", (4, 4, 24, 10))
    assert is_grey(np.asarray(grey)) and not has_colours(np.asarray(grey))
    grey.paste("orange", (0, 0, 80, 80))
    assert has_colours(np.asarray(grey))


def test_flat_images_are_decided_without_a_warning():
    assert not has_colours(np.full((256, 256, 3), 90, np.uint8))
    assert not is_toned(small_lab(np.full((256, 256, 3), (30, 90, 40), np.uint8)))


def test_a_drawing_in_two_flat_colours_is_not_toned():
    """Though their colours follow from the lightness."""
    drawing = np.empty((256, 256, 3), np.uint8)
    drawing[:], drawing[60:200, 80:180] = (30, 60, 110), (220, 170, 140)
    assert not is_toned(small_lab(drawing))


@pytest.mark.slow
@pytest.mark.parametrize("tone", ["sepia", *RAMPS])
def test_no_mask_of_a_toned_image_is_trusted(tone):
    image, _, _ = disc_on_texture(2, 256)
    mask, trust = consensus_mask(Image.fromarray(saved(toned(image, tone), 75)), "stretch")
    assert mask.shape == (256, 256) and trust == 0
