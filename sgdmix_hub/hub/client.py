"""The Hub's client as this package uses it: a token, time limits, calls asked again where the
client does not, and errors in one line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
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
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a call is made again
LONGEST_WAIT = 300.0  # that the Hub may ask for
LONGEST_REASON = 1000  # characters of what is said of a failure: some of it the Hub's own words
AGAIN = "run the same command again, it goes on where it stopped"
ADVICE = {
    401: "the Hub does not know the token: log in again with `hf auth login`, or set HF_TOKEN to a valid token",
    403: "the token may not write to {repo_id}: use one with write permission there (https://huggingface.co/settings/tokens)",
    404: "{repo_id} is not on the Hub, or the token may not see it: check its name and the token's permissions",
    412: "somebody else pushed to {repo_id} at the same moment and nothing was overwritten: see what they pushed, then run the same "
    "command again",
}
Value = TypeVar("Value")


def patiently(
    call: Callable[[], Value], passes: Callable[[BaseException], bool] | None = None
) -> Value:
    """What `call` gives. Where the Hub is busy or out of reach (or what else `passes`) it is called
    again, so nothing may go wrong when it happens twice.
    """
    passes = passes or is_passing
    for wait in attempts():
        try:
            return call()
        except Exception as error:
            if wait is None or not passes(error):
                raise
            time.sleep(seconds_to_wait(error, wait))


def fetch(call: Callable[[], Value], what: str) -> Value:
    """What a call gives that fetches from the Hub; a busy Hub is waited for, one that does not
    answer is not: where there is no network, every try would take its minute. Raises `UserError`.
    """
    try:
        return patiently(call, is_busy)
    except (
        Exception
    ) as error:  # the client's own errors, and those of whatever HTTP library is below it
        raise UserError(f"cannot fetch {shown(what)}: {cause_of(error)}") from error


def attempts() -> tuple[float | None, ...]:
    """For every attempt at a call the seconds to wait after it; None after the last one."""
    return (*WAITS, None)


def is_passing(error: BaseException) -> bool:
    """Whether a call that ended so may succeed a little later, or has succeeded already and its
    reply was lost.
    """
    if isinstance(error, JSONDecodeError):  # the page of a proxy that could not reach the Hub
        return True
    error = hub_error(error)
    if error is None or isinstance(error, OfflineModeIsEnabled) or "xet-write-token" in str(error):
        return False
    status = status_of(error)
    return status is None or status in (408, 429) or status >= 500


def is_busy(error: BaseException) -> bool:
    """Whether the Hub itself, or what stands before it, asks to be called later."""
    status = status_of(error)
    return (
        isinstance(error, JSONDecodeError)
        or status in (408, 429)
        or (status is not None and status >= 500)
    )


def cause_of(error: BaseException) -> str:
    """One line that says why a call failed: what stands behind the client's own words where these
    say less.
    """
    if isinstance(error, JSONDecodeError):
        return "the Hub's answer is not one of the Hub"
    found = hub_error(error)
    if found is None:
        return one_line(first_line(error))
    if isinstance(found, OfflineModeIsEnabled):
        return "the Hub's client is in offline mode (HF_HUB_OFFLINE)"
    if is_busy(found):
        return f"the Hub is busy (status {status_of(found)})"
    lines = [line for line in str(found).splitlines() if line.strip() and "Request ID" not in line]
    return one_line(lines[0] if lines else first_line(found))


def seconds_to_wait(error: BaseException, otherwise: float) -> float:
    """How long the Hub asks to be left alone; `otherwise` where it does not say."""
    error = hub_error(error)
    asked = error.response.headers.get("Retry-After", "") if status_of(error) is not None else ""
    return min(float(asked), LONGEST_WAIT) if re.fullmatch("[0-9]{1,9}", asked) else otherwise


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error; None where no answer came."""
    error = hub_error(error)
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def hub_error(error: BaseException | None) -> BaseException | None:
    """The error of connection or answer that stands behind another one (what ended an upload is
    behind a RuntimeError), or None.
    """
    while error is not None and not isinstance(error, (ConnectionError, HTTPError)):
        error = error.__cause__
    return error


@contextmanager
def hub_client(repo_id: str, token: str | None, timeout: float) -> Iterator[HfApi]:
    """A client with a token and a time limit, whose errors become one line for the user, without
    the token.
    """
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
    """The token given, or the one of this machine."""
    found = (token or get_token() or "").strip()
    if not found:
        raise UserError(
            "no token for the Hub: log in with `hf auth login`, or set HF_TOKEN to a token with write permission"
        )
    if not re.fullmatch(r"[!-~]+", found):  # HTTP libraries quote the header that they cannot send
        raise UserError("the token holds characters that no token has: copy it again")
    return found


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Calls of the Hub's client end after so long without a byte: on its own it waits for ever.
    What it was set up with (proxies, certificates) is kept.
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
def no_progress_bars() -> Iterator[None]:
    """The client's own bars are off: one that a failed upload leaves open is drawn again below the
    line that says why it failed.
    """
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def explain(error: BaseException, repo_id: str) -> str | None:
    """What the user can do about an error of the Hub's client; None when it is not one."""
    if isinstance(error, JSONDecodeError):
        return f"the Hub's answer is not one of the Hub: {AGAIN}"
    error = hub_error(error)
    if error is None:
        return None
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub's client is in offline mode: unset HF_HUB_OFFLINE"
    if "xet-write-token" in str(error):
        return f"cannot upload by Xet ({first_line(error)}): {AGAIN}; where a Hub has no Xet storage, set HF_HUB_DISABLE_XET=1"
    if not isinstance(error, HfHubHTTPError):
        return f"cannot reach the Hub ({first_line(error)}): {AGAIN}"
    status = status_of(error)
    if status in ADVICE:
        return ADVICE[status].format(repo_id=repo_id)
    if status == 429 or status >= 500:
        return f"the Hub is busy or down (status {status}): wait a little, then {AGAIN}"
    return f"the Hub refuses {repo_id} (status {status}): {' '.join((error.server_message or first_line(error)).split())}"
