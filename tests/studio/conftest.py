"""Fixtures of the studio's tests."""

import pytest


@pytest.fixture
def spectral(tmp_path):
    """Settings to begin with whose maps take milliseconds, and whose refinement takes 2 steps."""
    path = tmp_path / "start.yaml"
    lines = ["saliency_method: spectral-residual", "resolution: 32", "num_inference_steps: 4"]
    path.write_text("\n".join([*lines, "strength: 0.5"]))
    return path
