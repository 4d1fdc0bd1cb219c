"""Start and end of a program: signals, settings, one line that says why it fails, the exit code.

Rank discipline: rank 0 makes what exists once (checks of pins, merged maps, the plan, repo/); the
others wait for the FILES. Saliency and generation hold no collective, so a slow rank cannot make
the others time out.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import torch
from datasets.utils import logging as datasets_logging
from transformers.utils import logging as transformers_logging

from sgdmix_hub.errors import (
    EncoderDied,
    Preempted,
    TooManySkipped,
    UserError,
    first_line,
    one_line,
)
from sgdmix_hub.files import write_json
from sgdmix_hub.output_folder import ERROR, OutputFolder
from sgdmix_hub.settings.fields import Checked
from sgdmix_hub.settings.parsing import Settings, parse_settings
from sgdmix_hub.storage.scratch import in_words, local_folder

from .launch_state import LAUNCH
from .liveness import dead_ranks, launch_folder, launched_rank, leave_note, remove_note
from .parent_death import signal_with_parent
from .places import useless_place
from .ranks import show_warnings
from .resource_errors import lack_of_memory, lack_of_room
from .signals import handle_signals, stopped_by
from .stopping import POLL_SECONDS, RERUN, RESERVE, FolderInUse, another_failed, stopped

EXIT_USER_ERROR = 2
EXIT_SKIPPED = 3
EXIT_PREEMPTED = 75
PATIENCE_SECONDS = 5.0
SETTLE_SECONDS = 1.0  # from a broken connection to the launcher's SIGTERM


class ProcessDied(Exception):
    """Another process of this launch, or a worker, was killed from outside or crashed outside
    Python. Exit code 1: it may well happen again.
    """


EXIT_CODES = {UserError: EXIT_USER_ERROR, TooManySkipped: EXIT_SKIPPED, Preempted: EXIT_PREEMPTED}


def launch(
    main: Callable[[Settings], None], settings_class: type[Settings], argv: list[str] | None = None
) -> None:
    """Runs `main` on the parsed settings and ends the process with an exit code.

    0: done. 2: a mistake of the user, an unusable place, a full disk or too little memory, in one
    line. 3: too many rows skipped. 75: stopped by SIGTERM, Ctrl-C or SIGHUP. 1: a killed process,
    in one line, or anything else, with a traceback.

    `accelerate launch` prints its own report after the line and turns every code into 1, so the
    line is written to `state/error.json` of the output folder too.
    """
    handle_signals(end_stopped)
    stop_with_launcher()
    quiet_other_ranks()
    show_warnings()
    LAUNCH.report_to(None)
    settings, code = None, 0
    leave_note()
    try:
        settings = parse_settings(settings_class, argv)
        output_dir = getattr(settings, "output_dir", None)
        if output_dir is not None:
            check_named(output_dir)
            state = OutputFolder(local_folder(output_dir)).state
            LAUNCH.report_to(state / getattr(settings, "error_name", ERROR))
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
    # A failed rank must not hang in the others' collectives during Python's shutdown, in which
    # gloo sometimes aborts.
    if code or distributed:
        os._exit(code)


def end_stopped() -> NoReturn:
    """Ends a process that did not stop by itself after a stop signal."""
    code = fail(stopped(), None)
    remove_note()
    os._exit(code)


def stop_with_launcher() -> None:
    """Asks Linux for a SIGTERM when the launcher dies: otherwise a killed launcher would leave
    orphans that go on writing.
    """
    under_launcher = "ACCELERATE_MIXED_PRECISION" in os.environ
    if under_launcher and not signal_with_parent(signal.SIGTERM, os.getppid()):
        os._exit(EXIT_PREEMPTED)


def quiet_other_ranks() -> None:
    """Turns off the libraries' progress bars, and on all ranks but the first their warnings.

    diffusers reads its verbosity from the environment: importing it takes seconds, and not every
    program needs it.
    """
    for library in (transformers_logging, datasets_logging):
        library.disable_progress_bar()
    if launched_rank() != 0:
        warnings.simplefilter("ignore")
        transformers_logging.set_verbosity_error()
        os.environ["DIFFUSERS_VERBOSITY"] = "error"
        if "diffusers" in sys.modules:  # which has read it already
            sys.modules["diffusers"].utils.logging.set_verbosity_error()


def check_named(output_dir: str) -> None:
    """Raises `UserError` if this cannot be the name of a folder."""
    if not output_dir.strip() or "\0" in output_dir:
        raise UserError("output_dir is empty or contains a zero byte: give a folder")


def end_together(settings: Checked | None) -> None:
    """Waits for the other ranks. A failure here is reported but costs nothing: this rank's work is
    done.
    """
    try:
        torch.distributed.barrier()
    except Exception as error:
        why = reason(error, settings)
        if is_speaker(settings):
            dead = dead_ranks()
            lost = f"the other ranks were lost ({first_line(why)})"
            what = f"rank {dead[0]} died" if dead else lost
            line = one_line(f"{what} when everything was done: nothing is lost")
            print(f"sgdmix_hub: {line}", file=sys.stderr, flush=True)


def fail(error: Exception, settings: Checked | None) -> int:
    """Reports why this process ends, if it is the one to do so, and returns its exit code.

    The caller ends the process.
    """
    LAUNCH.ending.acquire()
    error = reason(error, settings)
    code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
    if is_speaker(settings):
        report(code, error)
    return code


def reason(error: Exception, settings: Checked | None) -> Exception:
    """The cause to report for an error: after another rank's death or a stop signal, that one."""
    if isinstance(error, UserError):
        # may quote a library's failure that a full disk has caused
        return lack_of_room(error, settings) or error
    if isinstance(error, TooManySkipped):
        return error
    lack = lack_of_room(error, settings) or lack_of_memory(error, settings)
    if lack is not None:
        return lack
    _let_launch_settle(error)
    dead = dead_ranks()
    if dead:
        ranks = f"rank{'s' * (len(dead) > 1)} {', '.join(map(str, dead))}"
        return ProcessDied(_killed(ranks))
    if stopped_by():
        return stopped()
    if isinstance(error, EncoderDied):
        return ProcessDied(_killed("an encoding process"))
    return useless_place(error) or error


def _killed(who: str) -> str:
    return f"{who} was killed or crashed (out of memory?): fix that and {RERUN}"


def _let_launch_settle(error: Exception) -> None:
    """Waits for the sign of another process's end, which may come after the error it has caused."""
    deadline = time.monotonic() + (0 if launch_folder() is None else SETTLE_SECONDS)
    while (
        not (stopped_by() or isinstance(error, Preempted) or dead_ranks())
        and time.monotonic() < deadline
    ):
        time.sleep(POLL_SECONDS)


def is_speaker(settings: Checked | None) -> bool:
    """Whether this rank reports why the launch fails: rank 0, or one that fails alone, or the first
    one left on a machine where others have died.
    """
    dead = dead_ranks()
    if dead:
        first = launched_rank() - int(os.environ["LOCAL_RANK"])
        here = set(range(first, first + int(os.environ["LOCAL_WORLD_SIZE"])))
        return launched_rank() == min(here - set(dead))
    return launched_rank() == 0 or (settings is not None and is_left_alone())


def is_left_alone() -> bool:
    """Whether nobody stops this rank within `PATIENCE_SECONDS` after its error.

    If rank 0 failed, the launcher ends the others at once. Their errors (a broken connection) are
    not the cause, which rank 0 has reported.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and not stopped_by():
        time.sleep(POLL_SECONDS)
    return not stopped_by()


def report(code: int, error: Exception) -> None:
    """Prints why the run ends, and writes it into the output folder unless another run holds it."""
    if code == EXIT_PREEMPTED and another_failed():
        return  # the other process has reported why it failed
    if code == 1 and not isinstance(error, ProcessDied):
        with suppress(OSError):
            traceback.print_exception(error)
    message = first_line(error) if code == 1 else str(error)
    if launched_rank() != 0:
        message = f"rank {launched_rank()}: {message}"
    message = one_line(in_words(message))
    path = LAUNCH.report_path
    if path is not None and not isinstance(error, FolderInUse):
        try:
            path.with_name(RESERVE).unlink(missing_ok=True)
            write_json(path, {"exit_code": code, "message": message})
        except OSError:
            message += " (and state/error.json could not be written)"
    with suppress(OSError):  # a terminal that was closed
        print(f"sgdmix_hub: {message}", file=sys.stderr, flush=True)
