"""The output folder of a program, on a disk or in an object store, for the time of one launch."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

from sgdmix_hub.errors import UserError
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.storage.scratch import end_scratch, local_folder, start_scratch
from sgdmix_hub.storage.stores import Store, store_of

from .ranks import Rank, on_rank_zero, wait_for_everyone
from .stopping import lock_folder


@contextmanager
def opened_output(
    output_dir: str, worker_stage: str, rank: Rank, is_worker: bool, reads_by_need: bool = False
) -> Generator[tuple[OutputFolder, Store], None, None]:
    """The output folder, locked by this launch, and its store. A collective.

    Of a URL, the folder is this launch's scratch folder, which is removed in the end. Workers of
    one stage share a local folder, so they do not lock it.

    Args:
        worker_stage: the stage that several machines can do, for a message.
        is_worker: whether this launch does such a stage.

    Raises `UserError`.
    """
    store = store_of(output_dir, reads_by_need)
    output = OutputFolder(local_folder(output_dir))
    if store.is_remote:
        check_one_machine(worker_stage)
        on_rank_zero(lambda: start_scratch(output.path))
    is_shared = is_worker and not store.is_remote
    with nullcontext() if is_shared else lock_folder(output.state, finished=output.repo):
        yield output, store
    if store.is_remote:
        wait_for_everyone()
        if rank.is_main_process:
            end_scratch(output.path)


def check_one_machine(worker_stage: str) -> None:
    """Raises `UserError` if the processes of this launch have no common scratch folder."""
    if os.environ.get("LOCAL_WORLD_SIZE", "1") != os.environ.get("WORLD_SIZE", "1"):
        raise UserError(
            "a launch over several machines needs an output_dir on a disk that they share: with an "
            f"object store, start --stage {worker_stage} on each of them, with its own --rank"
        )
