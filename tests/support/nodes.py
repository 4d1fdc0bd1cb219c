"""The launchers of a job's nodes, forked like those of other launches (see `forking`): `accelerate`
in the job's PATH hands its command line and its signals on to one, and ends as that ends.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import psutil
from forking import Started

ACCELERATE = f"""#!{sys.executable}
import json, os, signal, sys, time
from pathlib import Path

asked = Path({{folder!r}}, str(os.getpid()))
told = []
signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
asked.with_suffix(".tmp").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
asked.with_suffix(".tmp").rename(asked.with_suffix(".json"))
while not asked.with_suffix(".pid").exists():
    time.sleep(0.01)
launcher = int(asked.with_suffix(".pid").read_text())
while not asked.with_suffix(".code").exists():
    while told:
        os.kill(launcher, told.pop())
    time.sleep(0.01)
sys.exit(int(asked.with_suffix(".code").read_text()))
"""


class Nodes:
    """Forks what the `accelerate` in `folder` is asked for, while it is entered."""

    def __init__(self, folder: Path):
        self.folder = folder / "nodes"
        self.folder.mkdir()
        (folder / "accelerate").write_text(ACCELERATE.format(folder=str(self.folder)))
        (folder / "accelerate").chmod(0o755)
        self.launchers: dict[str, Started] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Nodes":
        self._thread.start()
        return self

    def __exit__(self, *failure) -> None:
        self._ended.set()
        self._thread.join()

    def processes(self) -> list[psutil.Process]:
        """All launchers with their ranks and workers."""
        found = [psutil.Process(launcher.pid) for launcher in self.launchers.values()]
        return [one for parent in found for one in (parent, *parent.children(recursive=True))]

    def _serve(self) -> None:
        while not self._ended.is_set():
            for request in self.folder.glob("*.json"):
                words, environment = json.loads(request.read_text())
                words = ["-m", "accelerate.commands.accelerate_cli", *words]
                self.launchers[request.stem] = Started(words, environment)
                self._tell(request.stem, "pid", self.launchers[request.stem].pid)
                request.unlink()
            for name, launcher in self.launchers.items():
                if launcher.poll() is not None:
                    self._tell(name, "code", launcher.poll() % 256)
            time.sleep(0.01)

    def _tell(self, name: str, kind: str, number: int) -> None:
        temporary = self.folder / f"{name}.{os.getpid()}"
        temporary.write_text(str(number))
        temporary.rename(self.folder / f"{name}.{kind}")
