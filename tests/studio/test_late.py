"""What takes long is made once, and nobody but the first waits for it."""

import threading
import time

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")

from sgdmix_hub.errors import UserError
from sgdmix_hub.studio.late import Late


def test_a_page_goes_on_without_what_is_not_there_yet():
    made, is_there = [], threading.Event()

    def make():
        is_there.wait(60)
        made.append("sources")
        return made[-1]

    late = Late(make)
    assert late.within(0.01) is None
    started = time.monotonic()
    assert late.within(30) is None  # who comes second does not wait
    assert time.monotonic() - started < 10
    is_there.set()
    assert late.within(None) == "sources"
    assert late.within(0) == "sources"
    assert made == ["sources"]


@pytest.mark.parametrize(
    "error", [UserError("no such dataset"), ValueError("no such dataset\nas this")]
)
def test_why_there_is_nothing_is_one_line(error):
    def make():
        raise error

    assert str(Late(make).within(None)) == "no such dataset"
