"""Generations that halt on the way, so that nobody who disturbs one comes too late."""

import time
from pathlib import Path

HALTING = """
import runpy
import sys
import time
from pathlib import Path

from sgdmix_hub.runtime.signals import stopped_by


def halt(event, words):
    if event == "os.rename" and Path(words[1]).name == "shard-{shard:05d}.json":
        Path({reached!r}).touch()
        while Path({gate!r}).exists() and not stopped_by():
            time.sleep(0.005)


sys.addaudithook(halt)
sys.argv[0] = {script!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Halting:
    """`script`, whose process that makes a shard halts before it renames the shard's record, until
    it is told to go on or to stop. Other processes of a launch work on.
    """

    def __init__(self, folder: Path, shard: int, script: str = "scripts/augment_dataset.py"):
        self.gate, self.script = folder / "halted", folder / "halting.py"
        self.gate.touch()
        self.reached = folder / "reached"
        words = {"shard": shard, "script": script}
        words |= {"gate": str(self.gate), "reached": str(self.reached)}
        self.script.write_text(HALTING.format(**words))

    def wait(self) -> None:
        """Returns when the process halts. Raises `TimeoutError` if it never does."""
        deadline = time.monotonic() + 60
        while not self.reached.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("no process came to the record at which it was to halt")
            time.sleep(0.01)

    def go_on(self) -> None:
        self.gate.unlink()
