"""Which work each of several workers takes that share nothing but a store.

Nobody holds a lock: a piece is done when its record is there, and two workers that make the same
piece make the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from sgdmix_hub.seeds import RandomStream, generator

Order = Callable[[int, int, int], list[int]]


def order_of(count: int, rank: int, world_size: int) -> list[int]:
    """The pieces 0 ... count - 1 in the order in which a worker looks for work.

    First its own share, one after the other. Then all others, in an order that differs from rank to
    rank: several workers that take over what one has left rarely meet.
    """
    own = list(range(rank, count, world_size))
    others = np.array([number for number in range(count) if number % world_size != rank], np.int64)
    return own + generator(RandomStream.CLAIMS, rank).permutation(others).tolist()


def neighbours_first(count: int, rank: int, world_size: int) -> list[int]:
    """As `order_of`, for pieces whose neighbours need the same files: a worker's own share is a run
    of them. Then come the others' shares, each from its end, where its worker comes last.
    """
    starts = [share * count // world_size for share in range(world_size + 1)]
    others = [share for share in range(world_size) if share != rank]
    drawn = generator(RandomStream.CLAIMS, rank).permutation(others).tolist()
    left = [piece for s in drawn for piece in reversed(range(starts[s], starts[s + 1]))]
    return [*range(starts[rank], starts[rank + 1]), *left]


def claims(
    count: int,
    rank: int,
    world_size: int,
    done: Callable[[], set[int]],
    is_done: Callable[[int], bool],
    order: Order = order_of,
) -> Iterator[int]:
    """The pieces that this worker makes, until all are made.

    `done()` lists the pieces that are done, and may lack new ones. `is_done(piece)` is asked just
    before each is taken, because another worker may have made it.
    """
    known = done()
    for number in order(count, rank, world_size):
        if number not in known and not is_done(number):
            yield number
