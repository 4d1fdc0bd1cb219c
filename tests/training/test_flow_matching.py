"""Flow matching in a training: noise, target, density and weights as the samplers and diffusers'
training scripts have them.
"""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sgdmix_hub.models.bases.families import FAMILIES
from sgdmix_hub.models.bases.noising import FlowMatching
from sgdmix_hub.training.adapter.loop import denoising_loss

FLOW = [family for family in FAMILIES if family.denoiser == "transformer"]
SD3 = FlowMatchEulerDiscreteScheduler(shift=3.0).config
FLUX = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).config


@pytest.mark.parametrize("family", FLOW, ids=lambda family: family.name)
@pytest.mark.parametrize("config", [SD3, FLUX], ids=["shifted", "shifted by size"])
@pytest.mark.parametrize("timestep", [0, 300, 999])
def test_the_target_leads_the_sampler_to_the_image(family, config, timestep):
    """In one step from any noise level: the opposite sign, or x alone, would lead elsewhere."""
    noising = family.noising(config)
    latents, noise = torch.randn((2, 1, 4, 3, 3), generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([timestep])
    noisy = noising.noised(latents, noise, timesteps)
    target = noising.target(latents, noise, timesteps)
    sampler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    sampler.set_timesteps(sigmas=[float(noising.scheduler.sigmas[timestep])])
    torch.testing.assert_close(sampler.timesteps, noising.told(timesteps), rtol=1e-5, atol=1e-3)
    found = sampler.step(target, sampler.timesteps[0], noisy).prev_sample
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sampler.scale_noise(latents, sampler.timesteps, noise), noisy)


def drawn(scheme, config, count=2000):
    """Noise levels of the first samples, and the noising."""
    noising = FlowMatching(config, scheme)
    generators = (torch.Generator().manual_seed(number) for number in range(count))
    timesteps = torch.stack([noising.draw(random) for random in generators])
    assert timesteps.dtype == torch.int64 and 0 <= timesteps.min() <= timesteps.max() < 1000
    return noising, timesteps


def unshifted(sigma, shift):
    return sigma / (shift - (shift - 1) * sigma)


@pytest.mark.parametrize(
    ("scheme", "distribution"),
    [
        ("none", stats.uniform()),
        # u is the logistic function of a normal number, and sigma is about 1 - u before the shift
        ("logit_normal", None),
    ],
)
@pytest.mark.parametrize(("config", "shift"), [(SD3, 3.0), (FLUX, 1.0)])
def test_time_steps_have_the_density_of_the_scheme(scheme, distribution, config, shift):
    noising, timesteps = drawn(scheme, config)
    sigmas = noising.told(timesteps) / 1000
    levels = unshifted(sigmas, shift).clamp(1e-3, 1 - 1e-3)
    if distribution is None:
        levels, distribution = torch.logit(levels), stats.norm()
    assert stats.kstest(levels.numpy(), distribution.cdf).pvalue > 0.001


# weighting_scheme and precondition_outputs as diffusers' scripts have them by default:
# examples/dreambooth/train_dreambooth_lora_{sd3,flux,flux2_klein,z_image,qwen_image}.py
SCRIPTS = {
    "stable-diffusion-3": ("logit_normal", True),
    "flux": ("none", False),
    "flux-2-klein": ("none", False),
    "z-image": ("none", False),
    "qwen-image": ("none", False),
}


def loss_of_script(predicted, latents, noise, sigmas, scheme, precondition_outputs):
    """The regular loss of a batch, (B,), in the scripts' steps; `sigmas` (B, 1, 1, 1)."""
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    if precondition_outputs:
        predicted = predicted * (-sigmas) + noisy
    target = latents if precondition_outputs else noise - latents
    weighting = compute_loss_weighting_for_sd3(weighting_scheme=scheme, sigmas=sigmas)
    return (weighting.float() * (predicted.float() - target.float()) ** 2).flatten(1).mean(1)


@pytest.mark.parametrize("scheme", [None, "none", "logit_normal", "mode", "sigma_sqrt", "cosmap"])
@pytest.mark.parametrize("family", FLOW, ids=lambda family: family.name)
@given(timesteps=st.lists(st.integers(0, 999), min_size=1, max_size=4), seed=st.integers(0, 999))
@settings(max_examples=10)
def test_the_loss_is_that_of_the_familys_script(family, scheme, timesteps, seed):
    """From the prediction on, as the script computes it with its scheduler."""
    default, precondition = SCRIPTS[family.name]
    random = torch.Generator().manual_seed(seed)
    predicted, latents, noise = torch.randn(3, len(timesteps), 4, 3, 3, generator=random)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SD3)
    indices = torch.tensor(timesteps)
    sigmas = scheduler.sigmas[indices].view(-1, 1, 1, 1)
    expected = loss_of_script(predicted, latents, noise, sigmas, scheme or default, precondition)
    noising = family.noising(SD3, scheme)
    assert noising.weighting_scheme == (scheme or default)
    found = denoising_loss(predicted, latents, noise, indices, noising, None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_every_flow_family_has_a_script_to_compare_with():
    assert {family.name for family in FLOW} == set(SCRIPTS)
