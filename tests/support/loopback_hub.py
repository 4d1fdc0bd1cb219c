"""The tests' Hub, `sgdmix_hub.demo.loopback_hub`, and functions that run client code against it.

conftest.py sets the test process offline, and huggingface_hub reads that once, at import. Clients
therefore run in separate processes.
"""

import json
import subprocess
import sys

from forking import Ended, run_forked
from launching import ROOT, launch_environment

from sgdmix_hub.demo.loopback_hub import (
    READ_TOKEN,
    STRANGER_TOKEN,
    WRITE_TOKEN,
    Account,
    hub_environment,
    loopback_hub,
)

__all__ = [
    "READ_TOKEN",
    "STRANGER_TOKEN",
    "WRITE_TOKEN",
    "Account",
    "hub_environment",
    "loopback_hub",
    "run_client",
    "run_python",
]

# Prepended to the code of `run_client`.
CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()

def status(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except HfHubHTTPError as error:
        return [type(error).__name__, error.response.status_code]
"""


def run_python(hub, code, *args, token=WRITE_TOKEN, anew=False, **environment) -> Ended:
    """Runs Python code in a separate process that uses the Hub; asserts that it prints no token.

    The process is forked, or started from scratch if `anew`.
    """
    words = ["-c", code, *map(str, args)]
    env = launch_environment(hub_environment(hub, token) | environment)
    if anew:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )
        finished = Ended(done.returncode, done.stdout, done.stderr)
    else:
        finished = run_forked(words, env)
    assert not token or token not in finished.stdout + finished.stderr
    return finished


def run_client(hub, code, *args, token=WRITE_TOKEN, **environment):
    """Runs `CLIENT` plus `code`; returns the last line that it printed, parsed as JSON."""
    finished = run_python(hub, CLIENT + code, *args, token=token, **environment)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])
