"""The server: its state, its connections, and the environment of its clients."""

import re
import tempfile
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

from .access import Account
from .faults import Fault
from .http import Request, Response, json_response
from .repositories import Repository
from .routes import answer
from .storage import PartedUpload
from .xet import read_by_xet, xet_hashes

WRITE_TOKEN = "hf_loopbackwriter"
READ_TOKEN = "hf_loopbackreader"
STRANGER_TOKEN = "hf_loopbackstranger"


@dataclass(frozen=True)
class Call:
    """One line of the log. `status` is None where no answer was sent."""

    method: str
    path: str
    user: str | None
    status: int | None
    query: str = ""
    sent: int = 0  # bytes of the answer's body


@dataclass
class LoopbackHub:
    """The Hub's state.

    The owner of `birds` has a token that writes and one that only reads; a stranger has one that
    writes elsewhere. Add an `Account` to `accounts` for another token.
    """

    url: str = ""
    storage_url: str = ""
    home: Path = Path()
    # With a folder, clients upload by Xet unless their environment disables it.
    xet_storage: Path | None = None
    part_size: int = 16 * 1024 * 1024  # larger objects are uploaded in parts of this size
    page_size: int | None = None  # of every listing; the real ones' when None
    accounts: dict[str, Account] = field(
        default_factory=lambda: {
            WRITE_TOKEN: Account("ada", ("birds",), may_write=True),
            READ_TOKEN: Account("ada", ("birds",), may_write=False),
            STRANGER_TOKEN: Account("eve", (), may_write=True),
        }
    )
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    lfs_objects: dict[str, bytes] = field(default_factory=dict)
    parted_uploads: dict[str, PartedUpload] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)
    request_numbers: count = field(default_factory=lambda: count(1))

    def repository(self, repo_type, repo_id) -> Repository:
        return self.repositories[repo_type, repo_id]

    def make_repository(self, repo_type, repo_id, private=False) -> Repository:
        """A new repository of ada's, as if she had made it with a client."""
        self.repositories[repo_type, repo_id] = Repository(repo_type, repo_id, private, "ada")
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
        return {
            name: self.large_content(file.sha256) if file.sha256 else file.blob
            for name, file in files.items()
        }

    def is_stored(self, sha256) -> bool:
        """Whether an LFS object was uploaded, by LFS or by Xet."""
        return sha256 in self.lfs_objects or (
            self.xet_storage is not None and sha256 in xet_hashes(self.xet_storage)
        )

    def large_content(self, sha256) -> bytes:
        """The bytes of an LFS object."""
        if sha256 not in self.lfs_objects:
            self.lfs_objects[sha256] = read_by_xet(
                self.xet_storage, xet_hashes(self.xet_storage)[sha256]
            )
        return self.lfs_objects[sha256]

    def next_fault(self, method, path) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(method, path)), None)


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, lets faults happen, logs, answers."""

    protocol_version = "HTTP/1.1"  # clients keep connections open
    # Without these two, every body waits 40 ms until the client has acknowledged the headers.
    wbufsize = -1
    disable_nagle_algorithm = True

    @property
    def hub(self) -> LoopbackHub:
        assert isinstance(self.server, Server)
        return self.server.hub

    def serve(self):
        hub = self.hub
        path, _, query = self.path.partition("?")
        account = hub.accounts.get(self.headers.get("authorization", "").removeprefix("Bearer "))
        user = None if account is None else account.user
        fault = hub.next_fault(self.command, path) or Fault(self.command, path)
        if fault.delay and hub.closed.wait(fault.delay):
            self.close_connection = True
            return
        status, sent, response = None, 0, None
        try:
            if fault.has_effect:
                body = self.read_body(fault)
                request = Request(self.command, path, query, self.headers, body, account)
                response = self.respond(request, fault)
                status = response.status if fault.is_answered else None
                sent = len(response.body) if self.command != "HEAD" else 0
        finally:
            with hub.lock:
                hub.calls.append(Call(self.command, path, user, status, query, sent))
        if fault.is_answered:
            self.send(response, fault)
        else:
            self.close_connection = True
            if fault.hang:
                hub.closed.wait()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def handle_expect_100(self):
        """Without the flush a client would wait for its own time-out before it sends the body."""
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on

    def read_body(self, fault):
        """The body, in one piece or in chunks, as the fault lets it arrive."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join(self.read_chunks())
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        return fault.rewrite(body) if fault.rewrite and self.command != "GET" else body

    def read_chunks(self):
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def respond(self, request, fault):
        if fault.status:
            return Response(
                fault.status,
                json_response({"error": "planned"}).body,
                {"Content-Type": "application/json"} | fault.headers,
            )
        try:
            with self.hub.lock:
                response = answer(self.hub, request)
        except Exception:  # a mistake in the loopback Hub: the client's error shall tell
            return Response(500, traceback.format_exc().encode(), {"Content-Type": "text/plain"})
        if fault.rewrite and self.command == "GET":
            response.body = fault.rewrite(response.body)
        return response

    def send(self, response, fault):
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("X-Request-Id", f"loopback-{next(self.hub.request_numbers)}")
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if fault.cut_reply:
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(
                response.body[: len(response.body) // 2] if fault.cut_reply else response.body
            )

    def log_message(self, format, *args):
        """Nothing is printed: `hub.calls` has them."""


class Server(ThreadingHTTPServer):
    """Threads that end with the program, and no report of connections that clients closed."""

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
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        with tempfile.TemporaryDirectory(prefix="loopback_hub_") as home:
            hub.home = Path(home)
            yield hub
    finally:
        hub.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(hub, token=None) -> dict[str, str]:
    """Environment variables for a subprocess that uses the Hub, with new caches at every call."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token or "",
        "HF_HOME": tempfile.mkdtemp(dir=hub.home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "0" if hub.xet_storage else "1",  # the client does not fall back
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
