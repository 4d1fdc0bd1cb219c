"""What may take long to fetch: made once, in a thread, while a page goes on without it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from sgdmix_hub.errors import UserError

from .pictures import said

Value = TypeVar("Value")


class Late(Generic[Value]):
    """The result of `make`, which is called when it is first asked for.

    `found`: the value, or why there is none; None before.
    """

    def __init__(self, make: Callable[[], Value]):
        self._make = make
        self.found: Value | UserError | None = None
        self._thread: threading.Thread | None = None

    def within(self, seconds: float | None) -> Value | UserError | None:
        """The value, or why there is none; None if it is still being made after so many seconds.

        Who comes second does not wait. `seconds`: as long as it takes if None.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._fill, daemon=True)
            self._thread.start()
            self._thread.join(seconds)
        elif seconds is None:
            self._thread.join()
        return self.found

    def _fill(self) -> None:
        try:
            self.found = self._make()
        except Exception as error:  # of a library too: the page goes on without it
            self.found = UserError(said(error))
