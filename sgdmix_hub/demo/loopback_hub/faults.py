"""What tests make go wrong with calls."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Fault:
    """What goes wrong with calls of a method whose path matches `path`.

    It strikes `times` times after the first `skip` calls.
    """

    method: str
    path: str
    status: int | None = None  # this answer, and no effect
    headers: dict[str, str] = field(default_factory=dict)  # of that answer: Retry-After
    cut: bool = False  # the connection closes while the body is under way: no effect, no answer
    cut_reply: bool = False  # the effect, half of the answer's body, and then the connection closes
    lose_reply: bool = False  # the effect, and then the connection closes
    # No answer, and the connection stays open; no effect unless `lose_reply` is set too.
    hang: bool = False
    # Changes the bytes that arrive: the request's with POST and PUT, the answer's with GET.
    rewrite: Callable[[bytes], bytes] | None = None
    delay: float = 0  # seconds before anything happens
    skip: int = 0
    times: int = 1

    def strikes(self, method, path) -> bool:
        """Whether a call goes wrong; counts it."""
        if self.times <= 0 or self.method != method or not re.search(self.path, path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True

    @property
    def has_effect(self):
        return not self.cut and (not self.hang or self.lose_reply)

    @property
    def is_answered(self):
        return not (self.cut or self.lose_reply or self.hang)
