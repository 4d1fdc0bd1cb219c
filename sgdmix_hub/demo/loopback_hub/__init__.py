"""A Hub on the loopback interface, in memory, that the real clients run against; it can be made to
fail.

    with loopback_hub() as hub:
        run_a_client(environment=hub_environment(hub, WRITE_TOKEN))
        hub.repository("model", "birds/adapter").history("main")

The demo publishes to it, and the tests let it fail. It needs nothing of the package and nothing but
the standard library and PyYAML, and Xet's client where `xet_storage` is set. The calls that it
answers are listed in `routes`. It keeps no pull requests and no likes, moves no repositories, takes
names as they are written, and sends regular files without a redirect.
"""

from .access import Account
from .server import (
    READ_TOKEN,
    STRANGER_TOKEN,
    WRITE_TOKEN,
    LoopbackHub,
    hub_environment,
    loopback_hub,
)

__all__ = [
    "READ_TOKEN",
    "STRANGER_TOKEN",
    "WRITE_TOKEN",
    "Account",
    "LoopbackHub",
    "hub_environment",
    "loopback_hub",
]
