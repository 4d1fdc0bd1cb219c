"""Generations that halt on the way, so that nobody who disturbs one comes too late."""

from pathlib import Path

HALTING = """
import runpy
import sys
import time
from pathlib import Path

from sgdmix_hub.runtime.signals import stopped_by


def halt(event, words):
    if event == "os.rename" and Path(words[1]).name == "shard-{shard:05d}.json":
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
        words = {"shard": shard, "gate": str(self.gate), "script": script}
        self.script.write_text(HALTING.format(**words))

    def go_on(self) -> None:
        self.gate.unlink()
