"""A Hub on the loopback interface, in memory, that the real clients run against; it can be made to fail.

    with loopback_hub() as hub:
        launch(["scripts/train_adapter.py", "--push_to_hub", ...], env=hub_environment(hub, WRITE_TOKEN))
        hub.repository("model", "birds/adapter").history("main")

The tests' own process is offline (see conftest.py, and the client reads that once, when it is imported): clients run in subprocesses.
"""

import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hub_api import Request, Response, answer
from hub_repositories import Repository
from launching import ROOT, launch_environment

WRITE_TOKEN = "hf_loopbackwriter"
READ_TOKEN = "hf_loopbackreader"
STRANGER_TOKEN = "hf_loopbackstranger"


@dataclass(frozen=True)
class Account:
    """Who a token stands for, and what it may do."""

    user: str
    organizations: tuple[str, ...]
    may_write: bool

    @property
    def namespaces(self):
        return {self.user, *self.organizations}


@dataclass
class Fault:
    """What goes wrong, `times` times, with calls of a method whose path has a match of `path`."""

    method: str
    path: str
    status: int | None = None  # this answer, and no effect
    cut: bool = False  # the connection closes while the body is under way
    lose_reply: bool = False  # the effect, and then the connection closes
    rewrite: Callable[[bytes], bytes] | None = None  # other bytes arrive: up with POST and PUT, down with GET
    delay: float = 0  # seconds before anything happens
    times: int = 1


@dataclass(frozen=True)
class Call:
    """One line of the log. `status` is None where no answer was sent."""

    method: str
    path: str
    user: str | None
    status: int | None


@dataclass
class LoopbackHub:
    """The Hub's state, and what tests ask of it. The owner of birds has a token that writes and one that only reads; a stranger has
    one that writes, elsewhere."""

    url: str = ""
    storage_url: str = ""
    home: Path = Path()
    xet_storage: Path | None = None  # a folder: clients upload by Xet when their environment lets them
    accounts: dict[str, Account] = field(
        default_factory=lambda: {
            WRITE_TOKEN: Account("ada", ("birds",), may_write=True),
            READ_TOKEN: Account("ada", ("birds",), may_write=False),
            STRANGER_TOKEN: Account("eve", (), may_write=True),
        }
    )
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    lfs_objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def repository(self, repo_type, repo_id) -> Repository:
        return self.repositories[repo_type, repo_id]

    def fail(self, method, path, **what) -> None:
        """Plans a `Fault`."""
        self.faults.append(Fault(method, path, **what))

    def calls_of(self, method, path) -> list[Call]:
        """The calls of a method whose path has a match of `path`."""
        return [call for call in self.calls if call.method == method and re.search(path, call.path)]

    def content(self, repo_type, repo_id, revision="main") -> dict[str, bytes]:
        """All files of a revision."""
        files = self.repository(repo_type, repo_id).commit_at(revision).files
        return {name: self.lfs_objects[file.sha256] if file.sha256 else file.blob for name, file in files.items()}

    def is_stored(self, sha256) -> bool:
        """Whether an LFS object was uploaded, by LFS or by Xet, whose shards hold SHA-256s as four little-endian words."""
        words = bytes.fromhex(sha256)
        name = b"".join(words[start : start + 8][::-1] for start in range(0, 32, 8))
        shards = self.xet_storage.rglob("*.mdb") if self.xet_storage else ()
        return sha256 in self.lfs_objects or any(name in shard.read_bytes() for shard in shards)

    def next_fault(self, method, path) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, lets faults happen, logs, answers."""

    protocol_version = "HTTP/1.1"  # clients keep connections open
    server: "Server"

    def serve(self):
        hub = self.server.hub
        path, _, query = self.path.partition("?")
        account = hub.accounts.get(self.headers.get("authorization", "").removeprefix("Bearer "))
        fault = hub.next_fault(self.command, path)
        status = None
        try:
            if fault and fault.delay:
                time.sleep(fault.delay)
            if fault and fault.cut:
                self.close_connection = True
                return
            body = self.read_body()
            if fault and fault.rewrite and self.command != "GET":
                body = fault.rewrite(body)
            request = Request(self.command, path, query, self.headers, body, account)
            response = self.respond(request, fault)
            if fault and fault.lose_reply:
                self.close_connection = True
                return
            if fault and fault.rewrite and self.command == "GET":
                response.body = fault.rewrite(response.body)
            status = response.status
        finally:
            with hub.lock:
                hub.calls.append(Call(self.command, path, account and account.user, status))
        self.send(response)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def read_body(self):
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def respond(self, request, fault):
        if fault and fault.status:
            return Response(fault.status, b'{"error": "planned"}', {"Content-Type": "application/json"})
        try:
            with self.server.hub.lock:
                return answer(self.server.hub, request)
        except Exception:  # a mistake in the loopback Hub: the client's error shall tell
            return Response(500, traceback.format_exc().encode(), {"Content-Type": "text/plain"})

    def send(self, response):
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def log_message(self, format, *args):
        """Tests read `hub.calls`."""


class Server(ThreadingHTTPServer):
    """Threads that end with the test, and no report of connections that clients closed."""

    daemon_threads = True

    def __init__(self, hub):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub

    def handle_error(self, request, client_address):
        """A client that gave up is no error of the Hub's."""


@contextmanager
def loopback_hub():
    """A running Hub with nothing on it."""
    hub = LoopbackHub()
    server = Server(hub)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    # Another origin, as the real storage is one: clients must not send it the token.
    hub.storage_url = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        with tempfile.TemporaryDirectory(prefix="loopback_hub_") as home:
            hub.home = Path(home)
            yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(hub, token=None) -> dict[str, str]:
    """What a subprocess needs in its environment, over this process's, to use the Hub with a token or without; caches are new at every
    call."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token or "",
        "HF_HOME": tempfile.mkdtemp(dir=hub.home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "0" if hub.xet_storage else "1",  # the client does not fall back
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def run_python(hub, code, *args, token=WRITE_TOKEN, **environment) -> subprocess.CompletedProcess:
    """Runs Python code in a subprocess that uses the Hub, and checks that it printed no token."""
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        env=launch_environment(hub_environment(hub, token) | environment),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not token or token not in finished.stdout + finished.stderr
    return finished
