"""A Hub on the loopback interface, in memory, for the real clients; it can inject faults.

    with loopback_hub() as hub:
        run_a_client(environment=hub_environment(hub, WRITE_TOKEN))
        hub.repository("model", "birds/adapter").history("main")

The demo publishes to it, and tests inject faults. It imports nothing of the package: only the
standard library and PyYAML, and Xet's client if `xet_storage` is set. `routes` lists the calls.
Not supported: pull requests, likes, moved repositories. Names are case-sensitive. Regular files are
sent without a redirect.
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
