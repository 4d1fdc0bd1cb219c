"""Networks that several threads load at once: transformers' own loading is not safe for that."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_bases import build_sd3
from transformers import PreTrainedModel

from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.bases.loading import load_base


@pytest.mark.slow
def test_threads_that_load_at_once_leave_transformers_as_it_was(saved):
    base, before = resolve(str(saved(build_sd3()))), PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as threads:
        loaded = list(
            threads.map(lambda _: load_base(base, torch.float32, "text_to_image"), "abcdefgh")
        )
    assert PreTrainedModel.tie_weights is before
    for one in loaded:
        encoder = one.pipeline.text_encoder_3
        assert encoder.encoder.embed_tokens.weight is encoder.shared.weight
