"""Where what is made from a dataset's files is kept on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from datasets.config import HF_DATASETS_CACHE

from sgdmix_hub.hub.pins import Pin


def cache_of(kind: str, pin: Pin, asked: Iterable[str]) -> Path:
    """The place of something of a kind. `asked`: what it depends on besides the pinned content."""
    key = hashlib.sha256("\0".join([pin.revision, *asked]).encode()).hexdigest()
    return Path(HF_DATASETS_CACHE) / "sgdmix_hub" / kind / key[:32]
