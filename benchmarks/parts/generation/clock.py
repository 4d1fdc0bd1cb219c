"""Measures where one thread's time goes: every moment counts once, under the innermost name."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Clock:
    """Wall and CPU seconds of the thread that uses it, by name, while it runs.

    `synchronize` waits for a device's queue, so that its work counts where it was requested.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None):
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._synchronize = synchronize
        self._names: list[str] = []

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Counts from zero; what no other name claims goes under `name`."""
        for figures in (self.seconds, self.cpu_seconds, self.calls):
            figures.clear()
        self._read()
        with self._at(name):
            yield
        self._names.clear()

    @contextmanager
    def _at(self, name: str) -> Iterator[None]:
        self._switch()
        self._names.append(name)
        try:
            yield
        finally:
            self._switch()
            self._names.pop()

    def _switch(self) -> None:
        wall, cpu = self._wall, self._cpu
        self._read()
        if self._names:
            self.seconds[self._names[-1]] += self._wall - wall
            self.cpu_seconds[self._names[-1]] += self._cpu - cpu

    def _read(self) -> None:
        self._synchronize()
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def timed(self, name: str, function: Callable) -> Callable:
        """`function`, whose time counts under a name while the clock runs."""

        def called(*args, **kwargs):
            if not self._names:
                return function(*args, **kwargs)
            self.calls[name] += 1
            with self._at(name):
                return function(*args, **kwargs)

        return called

    def waited_for(self, name: str, items: Iterable) -> Iterator:
        """The items; getting them counts under a name."""
        following = self.timed(name, lambda: next(iterator, ended))
        iterator, ended = iter(items), object()
        while (item := following()) is not ended:
            yield item
