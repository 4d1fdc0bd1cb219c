"""Fixtures of the studio's tests."""

import pytest
from browsers import browser


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture
def spectral(tmp_path):
    """Settings to begin with whose maps take milliseconds."""
    path = tmp_path / "start.yaml"
    path.write_text("saliency_method: spectral-residual\nresolution: 32\nstrength: 0\n")
    return path
