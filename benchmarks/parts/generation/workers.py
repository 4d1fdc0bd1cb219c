"""Processes that each hold a loaded sampler and run it on request, to measure in turns."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from parts.generation.samplers import HANDING_OVER, SAMPLERS, Ours, Task

from sgdmix_hub.runtime.launch import quiet_other_ranks
from sgdmix_hub.runtime.ranks import start_processes

# The libraries are imported once, in a process from which every worker is forked; but a fork cannot
# use the GPU, since a library has asked for it before.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["sgdmix_hub.augment", "sgdmix_hub.train_adapter"])
spawned = multiprocessing.get_context("spawn")


class Worker:
    """One process with one sampler; `core` is the one that it and all its helpers stay on."""

    def __init__(self, kind: str, task: Task, core: int | None = None, on_gpu: bool = False):
        context = spawned if on_gpu else forks
        self._pipe, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, kind, task, core, on_gpu))
        self._process.start()
        other_end.close()

    def ask(self, timed: bool = False) -> None:
        """Has the sampler run once."""
        self._pipe.send(timed)

    def answer(self) -> dict | None:
        """The result of the requested run; the first answer says that the sampler is loaded.

        Raises `RuntimeError` if the process failed; the process itself prints why.
        """
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("a worker of the benchmark has failed") from None

    def run(self, timed: bool = False) -> dict:
        self.ask(timed)
        return self.answer()

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


@contextmanager
def loaded(*workers: Worker) -> Iterator[tuple[Worker, ...]]:
    """The workers once all are ready; they end with the block."""
    try:
        for worker in workers:
            worker.answer()
        yield workers
    finally:
        for worker in workers:
            worker.end()


def run_together(workers: Sequence[Worker]) -> float:
    """Rows a second of workers that run at the same moment, until the last has ended."""
    for worker in workers:
        worker.ask()
    answers = [worker.answer() for worker in workers]
    return sum(answer["rows"] for answer in answers) / max(answer["seconds"] for answer in answers)


def in_process(function: Callable, *args, on_gpu: bool = False) -> None:
    """Calls a function in a process of its own. Raises `RuntimeError` when it fails."""
    process = (spawned if on_gpu else forks).Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} has failed")


def _serve(asked: Connection, kind: str, task: Task, core: int | None, on_gpu: bool) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    state = start_processes(1)
    quiet_other_ranks()
    with TemporaryDirectory() as folder:
        sampler = SAMPLERS[kind](task, state.device, Path(folder))
        asked.send(None)
        while True:
            try:
                timed = asked.recv()
            except EOFError:
                return
            asked.send((_timed_run if timed else _run)(sampler, state.device))


def _run(sampler, device: torch.device) -> dict:
    """Rows, seconds, the seconds that all cores together were at it, and the GPU's peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    cpu, started = _cpu_seconds(), time.perf_counter()
    rows = sampler.run()
    seconds = time.perf_counter() - started
    found = {
        "rows": rows,
        "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu,
        "mean_pixel": sampler.mean_pixel(),
    }
    if device.type == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def _timed_run(sampler: Ours, device: torch.device) -> dict:
    """A run with its times: wall time of the main thread; without a GPU, all CPU time."""
    own, children = time.process_time(), _children_seconds()
    with sampler.clock.running(HANDING_OVER):
        found = _run(sampler, device)
    clock = sampler.clock
    threads = time.process_time() - own - sum(clock.cpu_seconds.values())
    found["wall"] = dict(clock.seconds)
    if device.type == "cuda":
        return found
    helpers = {"helper threads": threads, "encoding processes": _children_seconds() - children}
    return found | {"cpu": dict(clock.cpu_seconds) | helpers}


def _cpu_seconds() -> float:
    return time.process_time() + _children_seconds()


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
