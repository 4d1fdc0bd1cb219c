"""The bits of a matrix product do not depend on where in memory its factors begin."""

import os

import pytest
from forking import run_forked

PRODUCTS = """
import torch

from sgdmix_hub.arithmetic import set_arithmetic


def at(place, values):
    buffer = torch.empty(values.numel() + 32)
    start = -(buffer.data_ptr() // 4) % 16 + place  # of the 16 places of a cache line
    return buffer[start : start + values.numel()].view(values.shape).copy_(values)


set_arithmetic()
torch.manual_seed(0)
for rows in (1, 2, 5):
    first, second = torch.randn(rows, 32), torch.randn(32, 32)
    expected = at(0, first) @ at(0, second).T
    for place in range(16):
        product = at(place, first) @ at(-place % 16, second).T
        assert torch.equal(product, expected), (rows, place)
"""


@pytest.mark.slow
def test_products_do_not_depend_on_places_in_memory():
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    ended = run_forked(["-c", PRODUCTS], environment)
    assert ended.returncode == 0, ended.stderr
