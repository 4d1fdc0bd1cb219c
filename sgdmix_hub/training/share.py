"""How the samples of one optimizer step are spread: over processes, and over batches in turn.

The step sees the same samples whatever the launch: `total_batch_size` of them. A process takes
`total_batch_size / processes` of them, in `accumulation` batches of `batch_size`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from sgdmix_hub.errors import UserError
from sgdmix_hub.runtime.ranks import Rank, say
from sgdmix_hub.settings.fields import AUTO
from sgdmix_hub.settings.training import TrainingSettings


@dataclass(frozen=True)
class Share:
    """This process's part of every optimizer step."""

    rank: int
    num_processes: int
    batch_size: int
    accumulation: int

    @property
    def total_batch(self) -> int:
        """Samples per optimizer step, over all processes."""
        return self.num_processes * self.batch_size * self.accumulation

    def batches(self, first_step: int, last_step: int) -> Iterator[list[int]]:
        """The numbers of this process's samples, batch by batch.

        For the optimizer steps first_step <= step < last_step.
        """
        for batch in range(first_step * self.accumulation, last_step * self.accumulation):
            first = (batch * self.num_processes + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def share_of(settings: TrainingSettings, rank: Rank) -> Share:
    """The share of this process. With `per_device_train_batch_size` auto, all of it in one batch,
    which `fitted` makes smaller. Raises `UserError` if the total cannot be divided.
    """
    total = settings.total_batch_size
    mine, left = divmod(total, rank.count)
    if left:
        raise UserError(
            f"total_batch_size {total} cannot be divided among {rank.count} processes: give a "
            f"multiple of {rank.count}, or start another number of processes"
        )
    batch = settings.per_device_train_batch_size
    batch = mine if batch == AUTO else batch
    if mine % batch:
        raise UserError(
            f"per_device_train_batch_size {batch} does not divide the {mine} samples of each "
            f"process (total_batch_size {total}, processes {rank.count}): "
            f"give {', '.join(map(str, divisors(mine)))} or auto"
        )
    return Share(rank.index, rank.count, batch, mine // batch)


def fitted(share: Share, attempt: Callable[[int], None]) -> Share:
    """The share in the largest batches that fit into the memory of every process. A collective.

    `attempt`: one forward and backward pass of a batch of this size, without a collective. Sizes
    are tried downwards, divisors only. Raises what `attempt` raises besides out of memory, and that
    if not even one sample fits.
    """
    mine = share.batch_size * share.accumulation
    fits = next(size for size in reversed(divisors(mine)) if _fits(size, attempt))
    size = min(gather_object([fits]))
    if size < mine:
        say(f"per_device_train_batch_size auto: {size}, in {mine // size} accumulated batches")
    return dataclasses.replace(share, batch_size=size, accumulation=mine // size)


def _fits(size: int, attempt: Callable[[int], None]) -> bool:
    try:
        attempt(size)
    except RuntimeError as error:
        if size == 1 or not is_out_of_memory(error):
            raise
        return False
    finally:
        clear_device_cache(garbage_collection=True)
    return True


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def divisors(number: int) -> list[int]:
    """Ascending."""
    return [size for size in range(1, number + 1) if number % size == 0]
