"""Signals and kills that a single process meets: one line, its code, error.json, and the same
command goes on.
"""

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from forking import fork
from generations import (
    ROOT,
    SCRIPT,
    _script,
    alive_in_the_end,
    arguments,
    digests,
    records,
    run_script,
    whole_run,
)
from launching import launch, launched_now
from trainings import _in_own_group

ENCODER = "sgdmix_hub.generation.encoding"


@pytest.fixture(scope="module")
def settings(mixing):
    """A generation that takes seconds, in 24 shards, without any model."""
    return mixing | {
        "resolution": 256,
        "num_variants": 2,
        "rows_per_shard": 2,
        "num_workers": 2,
    }


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory):
    return digests(whole_run(settings, tmp_path_factory.mktemp("reference") / "run") / "repo")


class Running:
    """A script in its own process group, without a launcher; it has recorded its first shard."""

    def __init__(self, settings: dict, folder: Path, target=_in_own_group, shards: int = 1):
        self.settings, self.output, self.logs = (
            settings | {"output_dir": folder / "run"},
            folder / "run",
            folder / "logs",
        )
        self.logs.mkdir()
        self.process = fork(target, *self.script(folder), self.logs)
        while len(records(self.output)) < shards:
            assert self.process.is_alive(), (self.logs / "stderr").read_text()
            time.sleep(0.001)
        self.workers = [
            child
            for child in psutil.Process(self.process.pid).children()
            if ENCODER in " ".join(child.cmdline())
        ]

    def script(self, folder: Path) -> tuple[str, list[str]]:
        return SCRIPT, arguments(self.settings)

    def ends(self, code: int, *words: str) -> str:
        """Ends with one line that holds these words, no traceback, no process left; what error.json
        says.
        """
        self.process.join(60)
        assert self.process.exitcode == code, (self.logs / "stderr").read_text()
        assert not alive_in_the_end(self.workers)
        stderr = (self.logs / "stderr").read_text()
        (line,) = [line for line in stderr.splitlines() if "sgdmix_hub: " in line]
        assert "Traceback" not in stderr and all(word in line for word in words), stderr
        report = json.loads((self.output / "state" / "error.json").read_text())
        assert report["exit_code"] == code and line.endswith(report["message"])
        return line

    def finishes(self, reference: dict) -> None:
        """The same command ends in the bytes of a run that nothing happened to."""
        ended = run_script(arguments(self.settings), self.logs)
        assert ended.returncode == 0, ended.stderr
        assert digests(self.output / "repo") == reference and not list(self.output.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "named"),
    [(signal.SIGINT, "Ctrl-C"), (signal.SIGHUP, "SIGHUP"), (signal.SIGTERM, "SIGTERM")],
)
def test_signals_to_everybody_are_one_line_and_75_and_the_same_command_finishes(
    number, named, settings, reference, tmp_path
):
    """As a terminal and a batch system send them: to the encoding processes too."""
    running = Running(settings, tmp_path)
    os.killpg(running.process.pid, number)
    running.ends(75, f"stopped by {named}", "rerun the same command")
    assert len(records(running.output)) < 24
    running.finishes(reference)


def _under_nohup(script: str, args: list[str], logs: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _script(script, args, logs)


@pytest.mark.slow
def test_a_closed_terminal_does_not_stop_what_nohup_keeps(settings, reference, tmp_path):
    running = Running(settings, tmp_path, _under_nohup)
    os.kill(running.process.pid, signal.SIGHUP)
    running.process.join(120)
    assert running.process.exitcode == 0 and digests(running.output / "repo") == reference


def _on_a_terminal(script: str, args: list[str], logs: Path) -> None:
    os.setsid()
    terminal = os.open((logs / "terminal").read_text(), os.O_RDWR)  # the session's, as its first
    for stream in range(3):
        os.dup2(terminal, stream)
    os.chdir(ROOT)
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


class OnATerminal(Running):
    def script(self, folder: Path) -> tuple[str, list[str]]:
        self.ours, theirs = os.openpty()
        (self.logs / "terminal").write_text(os.ttyname(theirs))
        os.close(theirs)
        return super().script(folder)


@pytest.mark.slow
def test_a_closed_terminal_stops_a_run_as_a_signal_does(settings, tmp_path):
    """Nothing can be printed any more: error.json says it."""
    running = OnATerminal(settings, tmp_path, _on_a_terminal)
    os.close(running.ours)
    running.process.join(60)
    assert running.process.exitcode == 75 and not alive_in_the_end(running.workers)
    report = json.loads((running.output / "state" / "error.json").read_text())
    assert report["exit_code"] == 75 and "stopped by SIGHUP" in report["message"]


STUCK = """
import os
import time
from pathlib import Path
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.stopping import lock_folder


def main(settings):
    with lock_folder(Path(settings.output_dir) / "state"):
        (Path(settings.output_dir) / "state" / "shards").mkdir()
        (Path(settings.output_dir) / "state" / "shards" / "shard-00000.json").write_text("begun")
        time.sleep(600)


launch(main, AugmentSettings)
"""


class Stuck(Running):
    def script(self, folder: Path) -> tuple[str, list[str]]:
        (folder / "stuck.py").write_text(STUCK)
        return str(folder / "stuck.py"), arguments(self.settings)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_what_does_not_come_to_stop(settings, tmp_path):
    stuck = Stuck(settings, tmp_path)
    os.kill(stuck.process.pid, signal.SIGINT)
    time.sleep(2.5)  # a launcher's repetition of the first one comes at once
    assert stuck.process.is_alive()
    os.kill(stuck.process.pid, signal.SIGINT)
    asked = time.monotonic()
    stuck.ends(75, "stopped by Ctrl-C")
    assert time.monotonic() - asked < 15


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 9])
def test_a_killed_encoder_is_one_line_and_the_same_command_finishes(
    shards, settings, reference, tmp_path
):
    running = Running(settings, tmp_path, shards=shards)
    assert len(running.workers) == 2
    running.workers[0].kill()
    running.ends(1, "an encoding process was killed", "rerun the same command")
    running.finishes(reference)


AT_THE_END = """
import os
import signal
import time
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import start_processes


def main(settings):
    if not start_processes(1).is_main_process:
        time.sleep(3)  # rank 0 is in its last barrier
        os.kill(os.getpid(), signal.SIGKILL)


launch(main, AugmentSettings)
"""


@pytest.mark.slow
def test_a_kill_when_everything_is_done_is_one_line_and_costs_nothing(mixing, tmp_path):
    (tmp_path / "end.py").write_text(AT_THE_END)
    words = [tmp_path / "end.py", *arguments(mixing | {"output_dir": tmp_path / "run"})]
    ended = launch(words, 2, timeout=120)
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert "rank 1 died when everything was done: nothing is lost" in line
    assert "DistBackendError" not in ended.stderr and "gloo" not in ended.stderr.lower(), (
        ended.stderr
    )


@pytest.mark.slow
def test_ctrl_c_under_the_launcher_is_one_line_of_the_program(settings, reference, tmp_path):
    """To the whole group, as a terminal sends it, while the launcher sends it once more."""
    output = tmp_path / "run"
    launched = launched_now(
        [SCRIPT, *arguments(settings | {"output_dir": output})], 2, start_new_session=True
    )
    while not records(output):
        assert launched.poll() is None
        time.sleep(0.001)
    processes = psutil.Process(launched.pid).children(recursive=True)
    os.killpg(launched.pid, signal.SIGINT)
    _, stderr = launched.communicate(timeout=120)
    assert launched.returncode != 0 and not alive_in_the_end(processes)
    (line,) = [line for line in stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert "stopped by Ctrl-C" in line
    assert json.loads((output / "state" / "error.json").read_text())["exit_code"] == 75
