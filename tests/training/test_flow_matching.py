"""Flow matching in a training: noise, target, density and weights as the samplers and diffusers'
training scripts have them.
"""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sgdmix_hub.models.bases.families import FAMILIES
from sgdmix_hub.models.bases.noising import FlowMatching

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


@given(timestep=st.integers(0, 999), loss=st.floats(0.1, 10))
@settings(max_examples=40)
def test_the_weights_are_those_of_the_scripts(timestep, loss):
    errors, timesteps = torch.tensor([loss]), torch.tensor([timestep])
    sigma = (FlowMatching(SD3, "none").told(timesteps) / 1000).item()
    expected = {
        "none": 1.0,
        "logit_normal": 1.0,
        "mode": 1.0,
        "sigma_sqrt": sigma**-2,
        "cosmap": 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2)),
    }
    for scheme, weight in expected.items():
        found = FlowMatching(SD3, scheme).weighted(errors, timesteps, None)
        assert found.item() == pytest.approx(loss * weight, rel=1e-4)
