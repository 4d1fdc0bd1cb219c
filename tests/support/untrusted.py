"""Helpers for tests of untrusted input."""

import pytest

from sgdmix_hub.errors import UserError

COMMIT = "0123456789abcdef" * 2 + "01234567"
PINNED = f"org/birds@{COMMIT}"
HONEST = {"dataset_name": PINNED, "strength": 0.0, "saliency_method": "minimum-barrier", "seed": 3}


def refused(call, *args, **kwargs) -> str:
    """Message of the `UserError` that a call raises; asserts that it is one short line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600, line
    return line


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth
