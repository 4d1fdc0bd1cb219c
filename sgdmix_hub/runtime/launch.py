"""The processes of one launch: ranks and devices, the output folder's lock, waiting on files, stop
signals, ends and exit codes.

Rank discipline: rank 0 makes what exists once (pins' checks, merged maps, plan, repo/) and the
others wait for the FILES. Saliency and generation hold no collective, so a slow rank times nobody
out.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import datasets
import torch
import transformers

from sgdmix_hub.errors import (
    EncoderDied,
    Preempted,
    TooManySkipped,
    UserError,
    first_line,
    one_line,
)
from sgdmix_hub.files import write_json
from sgdmix_hub.settings.parsing import Settings, parse_settings

from .liveness import dead_ranks, launch_folder, launched_rank, leave_note, remove_note
from .parent_death import signal_with_parent
from .places import useless_place
from .resource_errors import lack_of_memory, lack_of_room
from .signals import heed_signals, stopped_by
from .stopping import GOES_ON, POLL_SECONDS, REPORT, RESERVE, FolderInUse, another_failed, stopped

EXIT_USER_ERROR = 2
EXIT_SKIPPED = 3
EXIT_PREEMPTED = 75
PATIENCE_SECONDS = 5.0
SETTLE_SECONDS = 1.0  # from a broken connection to the launcher's SIGTERM


class DiedWithoutAWord(Exception):
    """Other processes of this launch, or workers, were killed from outside, or crashed outside
    Python. Exit code 1: it may well happen again.
    """


EXIT_CODES = {UserError: EXIT_USER_ERROR, TooManySkipped: EXIT_SKIPPED, Preempted: EXIT_PREEMPTED}
_ending = threading.Lock()


def end_stopped() -> NoReturn:
    """Ends a process that was asked to stop and has not come to it."""
    code = fail(stopped(), None)
    remove_note()
    os._exit(code)


def stop_with_launcher() -> None:
    """Asks Linux for a SIGTERM when the launcher dies: a killed launcher would leave its processes
    behind as orphans that write on.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and not signal_with_parent(
        signal.SIGTERM, os.getppid()
    ):
        os._exit(EXIT_PREEMPTED)


def launch(
    main: Callable[[Settings], None], settings_class: type[Settings], argv: list[str] | None = None
) -> None:
    """Runs `main` on the parsed settings and ends the process with the exit code that the failure
    stands for.

    0 done; 2 a mistake of the user, a place that cannot be used, a full disk or not enough memory,
    in one line; 3 too many rows skipped; 75 stopped by SIGTERM, Ctrl-C or SIGHUP; 1 a killed
    process, in one line, and anything else, with a traceback. The line is printed once; where there
    is an output folder it is in its `state/error.json` too,
    because `accelerate launch` prints a report of its own after it and turns every code into 1.
    """
    heed_signals(end_stopped)
    stop_with_launcher()
    quiet_other_ranks()
    REPORT.begin(None)
    settings, code = None, 0
    leave_note()
    try:
        settings = parse_settings(settings_class, argv)
        if hasattr(settings, "output_dir"):
            check_named(settings.output_dir)
            REPORT.begin(Path(settings.output_dir) / "state" / "error.json")
        main(settings)
    except Exception as error:
        code = fail(error, settings)
    finally:
        remove_note()
    distributed = torch.distributed.is_initialized()
    if distributed and code == 0:
        end_together(settings)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # A failed rank must not hang in the others' collectives while Python shuts down, and gloo
    # sometimes aborts in that shutdown.
    if code or distributed:
        os._exit(code)


def check_named(output_dir: str) -> None:
    """Raises `UserError` for what is no folder's name."""
    if not output_dir.strip() or "\0" in output_dir:
        raise UserError("output_dir is empty or has a zero byte in it: give a folder")


def end_together(settings: Settings) -> None:
    """Waits for the other ranks. What fails here, when this one's work is done, costs nothing: it
    is said, and the work counts.
    """
    try:
        torch.distributed.barrier()
    except Exception as error:
        why = reason(error, settings)
        if is_speaker(settings):
            why = (
                f"rank {dead_ranks()[0]} died"
                if dead_ranks()
                else f"the other ranks were lost ({first_line(why)})"
            )
            print(
                f"sgdmix_hub: {one_line(f'{why} when everything was done: nothing is lost')}",
                file=sys.stderr,
                flush=True,
            )


def fail(error: Exception, settings: Settings | None) -> int:
    """Says why this process ends, if it is the one to say it, and returns its exit code; whoever
    calls it ends the process.
    """
    _ending.acquire()  # for good: the main thread and the one that ends a stopped process do not both report
    error = reason(error, settings)
    code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
    if is_speaker(settings):
        report(code, error)
    return code


def reason(error: Exception, settings: Settings | None) -> Exception:
    """What the end of this process is to be blamed on. What breaks after another rank's death or a
    signal to stop breaks because of it.
    """
    if isinstance(
        error, UserError
    ):  # it may tell of a library's failure that a full disk is behind
        return lack_of_room(error, settings) or error
    if isinstance(error, TooManySkipped):
        return error
    lack = lack_of_room(error, settings) or lack_of_memory(error, settings)
    if lack is not None:
        return lack
    deadline = time.monotonic() + (0 if launch_folder() is None else SETTLE_SECONDS)
    while (
        not (stopped_by() or isinstance(error, Preempted) or dead_ranks())
        and time.monotonic() < deadline
    ):
        time.sleep(POLL_SECONDS)
    dead = dead_ranks()
    if dead:
        ranks = f"rank{'s' * (len(dead) > 1)} {', '.join(map(str, dead))}"
        return DiedWithoutAWord(
            f"{ranks} died without a word (killed from outside, perhaps because memory ran out, or crashed): mend that, then {GOES_ON}"
        )
    if stopped_by():
        return stopped()
    if isinstance(error, EncoderDied):
        return DiedWithoutAWord(
            f"an encoding process died (killed, perhaps because memory ran out): mend that, then {GOES_ON}"
        )
    return useless_place(error) or error


def quiet_other_ranks() -> None:
    """One progress bar a stage: the libraries' own are off, and other ranks show errors only.

    diffusers is told by the environment: importing it adds seconds, and not every program needs it.
    """
    for library in (transformers.utils.logging, datasets.utils.logging):
        library.disable_progress_bar()
    if launched_rank() != 0:
        warnings.simplefilter("ignore")
        transformers.utils.logging.set_verbosity_error()
        os.environ["DIFFUSERS_VERBOSITY"] = "error"
        if "diffusers" in sys.modules:  # which has read it already
            sys.modules["diffusers"].utils.logging.set_verbosity_error()


def is_speaker(settings: Settings | None) -> bool:
    """Whether it is this rank that says why the launch fails: rank 0, or one that fails alone; of a
    machine where others have died without a word, the first that is left.
    """
    dead = dead_ranks()
    if dead:
        first = launched_rank() - int(os.environ["LOCAL_RANK"])
        return launched_rank() == min(
            set(range(first, first + int(os.environ["LOCAL_WORLD_SIZE"]))) - set(dead)
        )
    return launched_rank() == 0 or (settings is not None and is_left_alone())


def is_left_alone() -> bool:
    """Whether nobody stops this rank in the moments after its error. Where rank 0 failed, the
    launcher ends the others at once: what they then run into (a broken connection) is not the
    reason, and rank 0 has said it.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and not stopped_by():
        time.sleep(POLL_SECONDS)
    return not stopped_by()


def report(code: int, error: Exception) -> None:
    """Says why the run ends and writes it into the output folder, unless that is another run's."""
    if code == EXIT_PREEMPTED and another_failed():
        return  # that is why this one was stopped, and it has said so
    if code == 1 and not isinstance(error, DiedWithoutAWord):
        with suppress(OSError):
            traceback.print_exception(error)
    message = first_line(error) if code == 1 else str(error)
    if launched_rank() != 0:
        message = f"rank {launched_rank()}: {message}"
    message = one_line(message)
    if REPORT.path is not None and not isinstance(error, FolderInUse):
        try:
            REPORT.path.with_name(RESERVE).unlink(missing_ok=True)
            write_json(REPORT.path, {"exit_code": code, "message": message})
        except OSError:
            message += " (and state/error.json could not be written)"
    with suppress(OSError):  # a terminal that was closed
        print(f"sgdmix_hub: {message}", file=sys.stderr, flush=True)
