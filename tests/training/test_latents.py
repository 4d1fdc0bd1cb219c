"""Latents: what diffusers' own autoencoder gives in half precision, the same bits whether they are
kept or encoded again.
"""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline

from sgdmix_hub.data.splits import load_split
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.latents import LatentSpace
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.data import DataSettings
from sgdmix_hub.training.adapter.batches import Latents
from sgdmix_hub.training.adapter.dataset import DomainImages, draw_noise
from sgdmix_hub.training.adapter.latents import kept_latents

SHAPE = (4, 8, 8)
CPU = torch.device("cpu")


def uniform(random):
    return torch.randint(1000, (), generator=random)


@pytest.fixture(scope="module")
def vae(tiny_base):
    return AutoencoderKL.from_pretrained(tiny_base / "vae").eval()


@pytest.fixture(scope="module")
def images(birds):
    split = load_split(
        DataSettings(dataset_name=str(birds), output_dir="unused"), resolve(str(birds), "dataset")
    )
    return DomainImages(split, split.subset[3:11], seed=0, resolution=32, resize="stretch")


@pytest.fixture(scope="module")
def batch(images):
    """Rows, pixels and noise of twelve samples of the eight images, some of them mirrored."""
    items = [images[number] for number in range(12)]
    noise = draw_noise(0, list(range(12)), SHAPE, uniform, random_flip=True)
    assert 0 < noise.mirrored.sum() < 12
    return [item["row"] for item in items], torch.stack([item["pixels"] for item in items]), noise


@pytest.fixture
def keep(vae, images, birds, tiny_base, tmp_path):
    """`keep(**settings)`: the latents of the images, kept in a folder, and the number encoded."""

    def kept(rank=0, num_processes=1, **more):
        settings = AdapterSettings(
            dataset_name=str(birds), output_dir="unused", metaclass="bird", resolution=32, **more
        )
        latents, encoded = Latents(vae, CPU, LatentSpace()), []

        def encode(pixels):
            encoded.append(pixels)
            return latents.encode(pixels)

        place = (tmp_path / "latents", settings, images, resolve(str(tiny_base)))
        latents.kept = kept_latents(*place, encode, rank, num_processes)
        return latents, len(encoded)

    return kept


def test_kept_latents_are_those_encoded_anew_to_the_last_bit(vae, keep, batch):
    rows, pixels, noise = batch
    kept, encoded = keep()
    assert encoded == 16
    expected = Latents(vae, CPU, LatentSpace()).draw(pixels, noise, rows)
    assert torch.equal(kept.draw(torch.empty(12, 0), noise, rows), expected)
    # Without rows: images of another kind.
    assert torch.equal(kept.draw(pixels, noise), expected)


def test_they_are_encoded_once_in_half_precision_and_read_from_the_file(keep, tmp_path):
    kept, _ = keep()
    again, encoded = keep()
    assert encoded == 0
    assert isinstance(again.kept.values, np.memmap) and again.kept.values.dtype == np.float16
    assert again.kept.values.shape == (8, 2, 2, *SHAPE)
    assert np.array_equal(again.kept.values, kept.kept.values)
    (path,) = tmp_path.rglob("values.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # a flipped bit: they are made again
    assert keep()[1] == 16


@pytest.mark.parametrize("other", [{"resize": "center-crop"}, {"random_flip": False}])
def test_others_are_encoded_for_other_preprocessing(other, keep):
    keep()
    assert keep(**other)[1] == (16 if "resize" in other else 8)
    assert keep()[1] == 0


def test_latents_are_diffusers_own(vae, batch):
    """`encode(...).latent_dist.sample()`, scaled, from the same noise; one image at a time, as
    img2img encodes.
    """
    _, pixels, noise = batch
    drawn = Latents(vae, CPU, LatentSpace()).draw(pixels, noise)
    for row, (image, mirrored) in enumerate(zip(pixels, noise.mirrored, strict=True)):
        shown = (
            torch.from_numpy(np.ascontiguousarray(image.numpy()[:, :, ::-1])) if mirrored else image
        )
        with torch.no_grad():
            posterior = vae.encode(shown[None]).latent_dist
        mean, std = (
            value[0].half().float() for value in (posterior.mean, torch.exp(0.5 * posterior.logvar))
        )
        expected = (mean + std * noise.posterior[row]) * vae.config.scaling_factor
        assert torch.equal(drawn[row], expected)


def test_latents_are_those_that_img2img_begins_with(tiny_base, vae, images):
    """The pipeline draws from a generator; drawn from the same one, our noise gives its latents
    before any noise of the diffusion.
    """
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        tiny_base, safety_checker=None, requires_safety_checker=False
    )
    pixels = images.pixels(3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        expected = (
            pipeline.vae.encode(pixels[None]).latent_dist.sample(generator)
            * pipeline.vae.config.scaling_factor
        )
    posterior = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(7))
    noise = draw_noise(0, [0], SHAPE, uniform, random_flip=False)
    noise = type(noise)(noise.mirrored, posterior, noise.diffusion, noise.timesteps)
    drawn = Latents(vae, CPU, LatentSpace()).draw(pixels[None], noise)
    torch.testing.assert_close(drawn, expected, rtol=2e-3, atol=2e-3)  # rounded to half precision


def test_the_mirrored_latents_are_of_the_mirrored_image(vae, images, keep):
    """Not the mirrored latents of the image: an autoencoder is not symmetric."""
    latents, _ = keep()
    for position in range(8):
        row = int(images.rows[position])
        noise = draw_noise(1, [position], SHAPE, uniform, random_flip=False)
        mirrored = type(noise)(
            torch.tensor([True]), noise.posterior, noise.diffusion, noise.timesteps
        )
        found = latents.draw(torch.empty(1, 0), mirrored, [row])
        turned = images.pixels(position).flip(-1)
        assert torch.equal(found, Latents(vae, CPU, LatentSpace()).draw(turned[None], noise))
        assert not torch.allclose(
            found, latents.draw(torch.empty(1, 0), noise, [row]).flip(-1), atol=1e-3
        )


def test_latents_of_an_image_do_not_depend_on_the_batch(vae, batch):
    _, pixels, noise = batch
    latents = Latents(vae, CPU, LatentSpace())
    whole = latents.draw(pixels, noise)
    for row in range(12):
        alone = type(noise)(
            *(
                getattr(noise, name)[row : row + 1]
                for name in ("mirrored", "posterior", "diffusion", "timesteps")
            )
        )
        assert torch.equal(latents.draw(pixels[row : row + 1], alone)[0], whole[row])


def test_images_that_are_never_mirrored_are_kept_once(vae, keep, batch):
    rows, pixels, _ = batch
    straight = draw_noise(0, list(range(12)), SHAPE, uniform, random_flip=False)
    latents, encoded = keep(random_flip=False)
    assert encoded == 8
    drawn = latents.draw(torch.empty(12, 0), straight, rows)
    assert torch.equal(drawn, Latents(vae, CPU, LatentSpace()).draw(pixels, straight))
    assert not drawn.requires_grad
