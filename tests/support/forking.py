"""Runs programs in forks of a process that has already imported the libraries; saves seconds each.

A fork behaves like a freshly started process: it has its own arguments, environment, signals and
exit code, and the ranks of a launch are children of the launcher. Two things differ: `sys.modules`
is full, and `/proc` shows the command line and environment of the fork server. Tests that look at
either start a fresh process instead.
"""

import ctypes
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import huggingface_hub

ROOT = Path(__file__).parents[2]

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["preloaded"])
STREAMS = ("stdout", "stderr")
_beginning = threading.Lock()
PR_SET_NAME = 15  # linux/prctl.h
READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "DIFFUSERS_", "XDG_")  # variables of the libraries


@dataclass
class Ended:
    """Exit code and output of a program."""

    returncode: int
    stdout: str
    stderr: str


def start_server() -> None:
    """Starts the server, if it does not run yet."""
    with _beginning:
        path = os.environ.get("PYTHONPATH", "")
        # The server imports `preloaded`, which lies in this folder.
        os.environ["PYTHONPATH"] = f"{Path(__file__).parent}{os.pathsep}{path}"
        forkserver.ensure_running()
        os.environ["PYTHONPATH"] = path


def fork(target, *args) -> multiprocessing.Process:
    """Starts `target(*args)` in a fork of the server."""
    start_server()
    process = forks.Process(target=target, args=args)
    process.start()
    return process


class Started:
    """A running `python words...`, with the part of the `subprocess.Popen` API that tests use."""

    def __init__(
        self,
        words: list,
        environment: dict[str, str],
        cwd: Path = ROOT,
        start_new_session: bool = False,
    ):
        self.logs = tempfile.TemporaryDirectory()
        words = [str(word) for word in words]
        logs = Path(self.logs.name)
        for name in STREAMS:
            (logs / name).touch()
        self.process = fork(_program, words, environment, cwd, logs, start_new_session)
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def stdout_so_far(self) -> str:
        return (Path(self.logs.name) / "stdout").read_text()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end and returns stdout and stderr. Raises `TimeoutExpired`."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired("a forked program", timeout)
        stdout, stderr = ((Path(self.logs.name) / name).read_text() for name in STREAMS)
        return stdout, stderr


class Answering(Started):
    """A running `python words...` that answers each line on stdin with a line on stdout."""

    def __init__(self, words: list, environment: dict[str, str]):
        self.logs = tempfile.TemporaryDirectory()
        self.log = Path(self.logs.name) / "stderr"
        read_questions, self.questions = forks.Pipe(duplex=False)
        self.answers, write_answers = forks.Pipe(duplex=False)
        ends = (read_questions, write_answers)
        self.process = fork(_answer, words, environment, Path(self.logs.name), *ends)
        for end in ends:
            end.close()
        self.lines = os.fdopen(os.dup(self.answers.fileno()))

    def tell(self, line: str) -> None:
        os.write(self.questions.fileno(), f"{line}\n".encode())

    def hear(self) -> str:
        """The next line, or an empty string if the program has ended."""
        return self.lines.readline()

    def close(self) -> None:
        self.questions.close()
        self.process.join()
        self.lines.close()


# Prepended to code that must not use this package: importing it is an error.
WITHOUT_THIS_PACKAGE = """
import sys

for name in [name for name in sys.modules if name.partition(".")[0] == "sgdmix_hub"]:
    del sys.modules[name]
sys.modules["sgdmix_hub"] = None
"""


def run_forked(
    words: list, environment: dict[str, str], cwd: Path = ROOT, timeout: float = 600
) -> Ended:
    """Runs `python words...` to its end. Raises `TimeoutExpired`."""
    started = Started(words, environment, cwd)
    stdout, stderr = started.communicate(timeout)
    return Ended(started.returncode, stdout, stderr)


def log_into(logs: Path) -> None:
    """Redirects stdout and stderr of this process to two files in `logs`."""
    for stream, name in enumerate(STREAMS, 1):
        file = os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)


def _program(
    words: list[str],
    environment: dict[str, str],
    cwd: Path,
    logs: Path,
    start_new_session: bool,
) -> None:
    if start_new_session:
        os.setsid()
    log_into(logs)
    os.chdir(cwd)
    _become(words, environment)


def _answer(words: list[str], environment: dict[str, str], logs: Path, questions, answers) -> None:
    log_into(logs)
    os.dup2(questions.fileno(), 0)
    os.dup2(answers.fileno(), 1)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(ROOT)
    _become(words, environment)


def _become(words: list[str], environment: dict[str, str]) -> None:
    """Runs `python words...` in this freshly forked process, then exits with its exit code."""
    os.closerange(3, 65536)
    resource_tracker._resource_tracker = resource_tracker.ResourceTracker()
    multiprocessing.set_start_method("fork", force=True)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    changed = {
        name
        for name in os.environ.keys() | environment.keys()
        if os.environ.get(name) != environment.get(name)
    }
    os.environ.clear()
    os.environ.update(environment)
    if "RANK" in environment:
        # `/proc` does not show the new environment, so the process name carries the rank.
        ctypes.CDLL(None).prctl(PR_SET_NAME, f"rank {environment['RANK']}".encode())
    tempfile.tempdir = None  # TMPDIR is read once
    if any(name.startswith(READ_AT_IMPORT) for name in changed):
        _read_environment_again()
    while words[0] == "-u":
        words = words[1:]
    code = 0
    try:
        _fork_what_programs_start()
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), vars(main))
        elif words[0] == "-m":
            sys.argv = list(words[1:])
            sys.modules.pop(words[1], None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(words)
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # joins non-daemon threads
    util._exit_function()  # ends worker processes
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _read_environment_again() -> None:
    """Reloads the library modules that read the environment at import.

    Values that changed are also replaced in the modules that imported them by name.
    """
    for name in (
        "huggingface_hub.constants",
        "datasets.config",
        "evaluate.config",
        "diffusers.utils.constants",
    ):
        module = sys.modules[name]
        before = dict(vars(module))
        importlib.reload(module)
        changed = {
            key: value
            for key, value in before.items()
            if isinstance(value, str | bool | Path) and value != getattr(module, key)
        }
        for other in list(sys.modules.values()):
            for key, value in changed.items():
                if getattr(other, "__dict__", {}).get(key) == value:
                    setattr(other, key, getattr(module, key))
    huggingface_hub.hf_api.api.endpoint = huggingface_hub.constants.ENDPOINT


def _fork_what_programs_start() -> None:
    """Makes accelerate, torchrun and `subprocess.run` fork the Python programs that they start."""
    import accelerate.commands.launch as accelerate
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    accelerate.subprocess = SimpleNamespace(
        Popen=_Forked, CalledProcessError=subprocess.CalledProcessError
    )
    subprocess_handler.Popen = _Forked
    start_program = subprocess.run

    def run(command, *args, **options):
        is_program = command[0] == sys.executable and {"env"} <= options.keys() <= _RUN_OPTIONS
        return _run(command, **options) if is_program else start_program(command, *args, **options)

    subprocess.run = run


_RUN_OPTIONS = {"env", "cwd", "capture_output", "text"}


def _run(command, env, cwd=".", capture_output=False, text=False) -> Ended:
    """`subprocess.run` of a Python program whose output is captured, in a fork."""
    assert capture_output and text, command
    with tempfile.TemporaryDirectory() as logs:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _program([str(word) for word in command[1:]], env, Path(cwd), Path(logs), False)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return Ended(code, *((Path(logs) / name).read_text() for name in STREAMS))


class _Forked:
    """A forked Python program, with the part of the `subprocess.Popen` API that launchers use."""

    def __init__(self, args, env, stdout=None, stderr=None, start_new_session=False):
        assert args[0] == sys.executable and stdout is None and stderr is None, args
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            if start_new_session:
                os.setsid()
            _become(args[1:], env)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a rank", timeout)
            time.sleep(0.01)
        return self.returncode
