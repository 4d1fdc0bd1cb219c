"""The flow of one process: order, batches of one strength, and what runs ahead of what."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.errors import EncoderDied, Unusable
from sgdmix_hub.generation.batches import batches
from sgdmix_hub.generation.encoding import Encoders, encode_image
from sgdmix_hub.generation.plan import PlanRow
from sgdmix_hub.generation.provenance import provenance_mark
from sgdmix_hub.generation.worker import computed_ahead


def plan_row(number, strength):
    return PlanRow(number, 0, number + 1, number, strength, 0.0, 0, None)


FRAMES = [(32, 32), (48, 24)]


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([*FRAMES, None])), max_size=40
    ),
    batch_size=st.integers(1, 7),
)
@settings(max_examples=100)
def test_batches_hold_every_usable_row_once_and_one_strength_and_frame_each(rows, batch_size):
    planned = sorted(
        (plan_row(number, strength) for number, (strength, _) in enumerate(rows)),
        key=lambda row: row.strength,
    )
    frames = {number: frame for number, (_, frame) in enumerate(rows) if frame is not None}
    skipped, told = [], []
    mixed = [
        (
            row,
            SimpleNamespace(row=row, source=SimpleNamespace(frame=frames[row.source_index]))
            if row.source_index in frames
            else Unusable("blank"),
        )
        for row in planned
    ]
    made = list(batches(mixed, batch_size, skipped, told.append))
    for batch, mixtures in made:
        assert 1 <= len(batch) <= batch_size and len({row.strength for row in batch}) == 1
        assert len({mixture.source.frame for mixture in mixtures}) == 1
        assert [mixture.row for mixture in mixtures] == batch
    for frame in FRAMES:  # each in the order of the plan
        assert [row for batch, _ in made for row in batch if frames[row.source_index] == frame] == [
            row for row in planned if frames.get(row.source_index) == frame
        ]
    assert [record["source_index"] for record in skipped] == [
        row.source_index for row in planned if row.source_index not in frames
    ]
    assert {record["reason"] for record in skipped} <= {"blank"} and sum(told) == len(skipped)
    # no more batches than strengths and frames need: what is skipped leaves no hole
    needed = sum(
        -(
            -sum(row.strength == s and frames.get(row.source_index) == frame for row in planned)
            // batch_size
        )
        for s in (0.0, 0.3, 0.5)
        for frame in FRAMES
    )
    assert len(made) == needed


def test_what_is_computed_ahead_comes_in_order_and_never_further_than_asked():
    lock, begun = threading.Lock(), []

    def work(item):
        with lock:
            begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    with ThreadPoolExecutor(3) as threads:
        results = computed_ahead(threads, work, range(50), depth=5)
        for number, result in enumerate(results):
            assert result == number * number
            assert len(begun) <= number + 6


def test_a_failure_on_a_thread_is_raised_where_its_result_is_asked_for():
    with ThreadPoolExecutor(2) as threads:
        results = computed_ahead(threads, lambda item: 1 // item, [2, 1, 0, 1], depth=2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image_format", "quality"), [("png", None), ("jpeg", None), ("webp", None), ("jpeg", 40)]
)
def test_worker_processes_give_the_bytes_that_this_process_gives(image_format, quality):
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), np.uint8)
    marks = [b"", provenance_mark(True), provenance_mark(False)] * 2
    with Encoders(2, image_format, quality) as encoders:
        encoded = list(map(encoders.encode, images, marks))
        assert [future.result() for future in encoded] == [
            encode_image(image, image_format, quality, mark)
            for image, mark in zip(images, marks, strict=True)
        ]


def test_encoders_are_small_and_gone_in_the_end():
    """They import neither torch nor what the program that started them imports."""
    before = set(psutil.Process().children())
    with Encoders(2, "png") as encoders:
        encoders.encode(np.zeros((8, 8, 3), np.uint8)).result()
        started = set(psutil.Process().children()) - before
        workers = [
            child
            for child in started
            if "sgdmix_hub.generation.encoding" in " ".join(child.cmdline())
        ]
        assert len(workers) == 2
        assert all(worker.memory_info().rss < 150e6 for worker in workers)
    assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_encoder_is_a_failure_and_never_a_wait(stopped):
    """Before it reads, and while it is in the middle of an image that it was sent."""
    image = np.zeros((2000, 2000, 3), np.uint8)
    with Encoders(1, "png") as encoders:
        encoders.encode(np.zeros((8, 8, 3), np.uint8)).result()
        (worker,) = [
            child
            for child in psutil.Process().children()
            if "sgdmix_hub.generation.encoding" in " ".join(child.cmdline())
        ]
        if stopped:
            worker.suspend()
        encoded = [encoders.encode(image) for _ in range(3)]
        worker.kill()
        for future in encoded:
            with pytest.raises(EncoderDied):
                future.result(timeout=60)


def test_an_image_that_cannot_be_encoded_is_told_and_the_next_one_is_encoded():
    with Encoders(1, "webp") as encoders:
        with pytest.raises(ValueError, match="ValueError|encod"):
            encoders.encode(np.zeros((1, 20000, 3), np.uint8)).result()
        image = np.zeros((8, 8, 3), np.uint8)
        assert encoders.encode(image).result() == encode_image(image, "webp")
