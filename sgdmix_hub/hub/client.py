"""The Hub's client with time limits, retries, and errors in one line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TypeVar

from huggingface_hub import HfApi, get_token, set_client_factory
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from sgdmix_hub._compat import hub_client_factory
from sgdmix_hub.errors import UserError, first_line, one_line, shown

TIMEOUT_SECONDS = 120.0
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts
LONGEST_WAIT = 300.0  # seconds, whatever the Hub asks for
LONGEST_REASON = 1000  # characters of an error line, part of which the Hub has written
AGAIN = "run the same command again, it continues where it stopped"
ADVICE = {
    401: "the Hub does not know the token: "
    "log in again with `hf auth login`, or set HF_TOKEN to a valid token",
    403: "the token may not write to {repo_id}: "
    "use one with write permission there (https://huggingface.co/settings/tokens)",
    404: "{repo_id} is not on the Hub, or the token may not see it: "
    "check its name and the token's permissions",
    412: "somebody else pushed to {repo_id} at the same moment and nothing was overwritten: "
    "see what they pushed, then run the same command again",
}
Value = TypeVar("Value")


def patiently(
    call: Callable[[], Value], passes: Callable[[BaseException], bool] | None = None
) -> Value:
    """Calls `call`, and calls it again after errors that pass: by default, a busy or lost Hub.

    The first attempt may have reached the Hub, so `call` must be harmless when repeated.
    """
    passes = passes or is_passing
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not passes(error):
                raise
            time.sleep(seconds_to_wait(error, wait))
    return call()


def fetch(call: Callable[[], Value], what: str) -> Value:
    """Fetches `what` from the Hub by `call`. Raises `UserError`.

    It waits for a busy Hub, but not for one that does not answer: without a network every attempt
    would take a minute.
    """
    try:
        return patiently(call, is_busy)
    except Exception as error:  # the client's errors and those of the HTTP library below it
        raise UserError(f"cannot fetch {shown(what)}: {cause_of(error)}") from error


def attempts() -> tuple[float | None, ...]:
    """The seconds to wait after each attempt at a call; None after the last one."""
    return (*WAITS, None)


def is_passing(error: BaseException) -> bool:
    """Whether the call may succeed later, or has succeeded and only its reply was lost."""
    if isinstance(error, JSONDecodeError):  # the page of a proxy that could not reach the Hub
        return True
    cause = hub_error(error)
    if cause is None or isinstance(cause, OfflineModeIsEnabled) or "xet-write-token" in str(cause):
        return False
    return status_of(cause) is None or is_busy(cause)


def is_busy(error: BaseException) -> bool:
    """Whether the Hub, or a proxy before it, asks to be called later."""
    status = status_of(error)
    return (
        isinstance(error, JSONDecodeError)
        or status in (408, 429)
        or (status is not None and status >= 500)
    )


def cause_of(error: BaseException) -> str:
    """Why a call failed, in one line: the underlying error if the client's own says less."""
    if isinstance(error, JSONDecodeError):
        return "the Hub's answer is not one of the Hub"
    cause = hub_error(error)
    if cause is None:
        return one_line(first_line(error))
    if isinstance(cause, OfflineModeIsEnabled):
        return "the Hub's client is in offline mode (HF_HUB_OFFLINE)"
    if is_busy(cause):
        return f"the Hub is busy (status {status_of(cause)})"
    lines = [line for line in str(cause).splitlines() if line.strip() and "Request ID" not in line]
    return one_line(lines[0] if lines else first_line(cause))


def seconds_to_wait(error: BaseException, otherwise: float) -> float:
    """How long the Hub asks to wait (Retry-After), or `otherwise`."""
    cause = hub_error(error)
    answered = isinstance(cause, HfHubHTTPError)
    asked = cause.response.headers.get("Retry-After", "") if answered else ""
    return min(float(asked), LONGEST_WAIT) if re.fullmatch("[0-9]{1,9}", asked) else otherwise


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error; None if no answer came."""
    cause = hub_error(error)
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None


def hub_error(error: BaseException | None) -> BaseException | None:
    """The connection or HTTP error behind another one, as in uploads; None if there is none."""
    while error is not None and not isinstance(error, (ConnectionError, HTTPError)):
        error = error.__cause__
    return error


@contextmanager
def hub_client(repo_id: str, token: str | None, timeout: float) -> Generator[HfApi, None, None]:
    """A client with a token and a time limit; its errors become one line without the token."""
    check_name(repo_id)
    token = usable_token(token)
    try:
        with time_limit(timeout), no_progress_bars():
            yield HfApi(token=token)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else explain(error, repo_id)
        if reason is None:
            raise
        raise UserError(shown(reason.replace(token, "(token)"), LONGEST_REASON)) from None


def check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        namespace, _, name = repo_id.partition("/")
    except HFValidationError:
        namespace = name = ""
    if not (namespace and name):
        raise UserError(f"{shown(repo_id)} is not a repository name: give it as org/name")


def usable_token(token: str | None) -> str:
    """The given token, or this machine's. Raises `UserError`."""
    usable = (token or get_token() or "").strip()
    if not usable:
        raise UserError(
            "no token for the Hub: log in with `hf auth login`, "
            "or set HF_TOKEN to a token with write permission"
        )
    if not re.fullmatch(r"[!-~]+", usable):  # the HTTP library's error would quote it
        raise UserError("the token holds characters that no token has: copy it again")
    return usable


@contextmanager
def time_limit(seconds: float) -> Generator[None, None, None]:
    """Ends the Hub client's calls after this long without a byte; on its own it waits forever.

    The rest of the client's setup (proxies, certificates) stays.
    """
    factory = hub_client_factory()

    def limited():
        client = factory()
        client.timeout = seconds
        return client

    set_client_factory(limited)
    try:
        yield
    finally:
        set_client_factory(factory)


@contextmanager
def no_progress_bars() -> Generator[None, None, None]:
    """Turns the client's bars off: after a failed upload one would be redrawn below the error."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def explain(error: BaseException, repo_id: str) -> str | None:
    """What the user can do about an error of the Hub's client; None if it is another error."""
    if isinstance(error, JSONDecodeError):
        return f"the Hub's answer is not one of the Hub: {AGAIN}"
    cause = hub_error(error)
    if cause is None:
        return None
    if isinstance(cause, OfflineModeIsEnabled):
        return "the Hub's client is in offline mode: unset HF_HUB_OFFLINE"
    if "xet-write-token" in str(cause):
        return (
            f"cannot upload by Xet ({first_line(cause)}): {AGAIN}; "
            "if this Hub has no Xet storage, set HF_HUB_DISABLE_XET=1"
        )
    if not isinstance(cause, HfHubHTTPError):
        return f"cannot reach the Hub ({first_line(cause)}): {AGAIN}"
    status = cause.response.status_code
    if status in ADVICE:
        return ADVICE[status].format(repo_id=repo_id)
    if status == 429 or status >= 500:
        return f"the Hub is busy or down (status {status}): wait a little, then {AGAIN}"
    answer = " ".join((cause.server_message or first_line(cause)).split())
    return f"the Hub refuses {repo_id} (status {status}): {answer}"
