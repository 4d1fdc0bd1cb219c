"""What huggingface_hub's client calls to run Jobs, on the loopback interface: a job is a program
of this machine with the job's environment and secrets, and nothing else of the caller's.
"""

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from datatrove import tools
from forking import run_forked
from huggingface_hub.constants import HF_JOBS_ARTIFACTS_MOUNT_PATH as MOUNT

OWNER = {"id": "0", "name": "somebody", "type": "user"}
INHERITED = ("PATH", "HOME", "PYTHONPATH", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")


class Jobs(ThreadingHTTPServer):
    """`jobs`: by number, what was asked for and its `status`. `fails`: jobs to end at once."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: list[dict] = []
        self.fails: set[int] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def start_job(self, asked: dict) -> dict:
        number = len(self.jobs)
        job = asked | {"id": str(number), "owner": OWNER, "status": {"stage": "RUNNING"}}
        self.jobs.append(job)
        threading.Thread(target=self._run, args=(number, job)).start()
        return self.shown(number)

    def shown(self, number: int) -> dict:
        """A job as the API tells it: names of secrets, not their values."""
        job = self.jobs[number]
        return job | {"secrets": sorted(job.get("secrets", {}))}

    def _run(self, number: int, job: dict) -> None:
        script, *words = job["command"][job["command"].index("--python") + 2 :]
        script = script.replace(MOUNT, os.path.dirname(tools.__file__))
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment = inherited | job["environment"] | job.get("secrets", {})
        code = 1
        if number not in self.fails:
            ended = run_forked([script, *words], environment)
            job["said"], code = ended.stdout + ended.stderr, ended.returncode
        job["status"] = {"stage": "ERROR" if code else "COMPLETED"}


class Handler(BaseHTTPRequestHandler):
    server: Jobs

    def do_GET(self):
        if self.path == "/api/whoami-v2":
            return self.answer({"name": "somebody", "type": "user"})
        return self.answer(self.server.shown(int(self.path.rpartition("/")[2])))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/api/jobs/somebody", self.path
        self.answer(self.server.start_job(body))

    def answer(self, values: dict) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass


@contextmanager
def jobs_server():
    """A running server without jobs."""
    server = Jobs()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
