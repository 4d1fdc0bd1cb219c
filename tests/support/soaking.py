"""Generations in an object store whose workers are killed again and again, in every stage."""

import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from forking import Started
from generations import arguments

from sgdmix_hub.files import read_json, write_json

RUN = """
import served, unreliable
from sgdmix_hub.augment import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.generation import AugmentSettings

launch(main, AugmentSettings)
"""
# Of all kills; what a stage does not take, the next ones do. finish takes as many as there are.
SHARES = {"maps": 0.1, "plan": 0.05, "shards": 0.7, "files": 0.1, "finish": 0.05}
ALONE = ("plan", "finish")
DEADLY_WRITES = "0.3"  # share of the writes that kill a worker, of half the workers
KILLED = -9
NOT_FINISHED = "are not finished"  # what finish says of a listing that lacked records


# name -> the filesystem behind the one that kills, and whether that one is unreliable besides
STORES = {"s3": ("s3", "0"), "memory": ("served", "0"), "unreliable s3": ("s3", "1")}
WORLD_SIZES = (1, 3, 7)
TABLE_HEAD = """# Workers under kills

`make soak SOAK_RESULTS=benchmarks/results/soak.json` makes {planned} runs, and each adds its line.
{which}

8 images, 400 shards of one row, all stages. Every run listed ended with the bytes of one
undisturbed command and with the objects of an undisturbed run. Half of the kills come at a random
moment, half from the store at a write. Sent back: `finish` after listings that lacked records.

| Store | Workers | Seed | Kills | In the middle of a write | Starts | Sent back | Minutes |
|---|---|---|---|---|---|---|---|"""
TABLE_ROW = (
    "| {store} | {world_size} | {seed} | {kills} | {in_writes} | {starts} | {sent_back} | "
    "{minutes} |"
)


@dataclass
class Figures:
    """What one soak did. `in_writes`: kills in the middle of a write to the store."""

    store: str
    world_size: int
    seed: int
    kills: int = 0
    in_writes: int = 0
    starts: int = 0
    sent_back: int = 0
    minutes: float = 0.0
    kills_by_stage: dict[str, int] | None = None

    def add_to(self, path: Path) -> None:
        """Writes the figures into a JSON list, in the place of those of the same soak, and all of
        them into a table beside it.
        """
        rows = read_json(path)["soaks"] if path.exists() else []
        same = (self.store, self.world_size)
        rows = [row for row in rows if (row["store"], row["world_size"]) != same]
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = sorted([*rows, asdict(self)], key=lambda row: (row["store"], row["world_size"]))
        write_json(path, {"soaks": rows})
        path.with_suffix(".md").write_text(table(rows))


def table(rows: list[dict]) -> str:
    """The figures of soaks in Markdown, which says how many of them there should be."""
    made = {(row["store"], row["world_size"]) for row in rows}
    planned = [(store, world_size) for store in STORES for world_size in WORLD_SIZES]
    missing = [f"{store} with {size}" for store, size in planned if (store, size) not in made]
    which = "All have been made."
    if missing:
        which = f"{len(planned) - len(missing)} have been made, not: {', '.join(missing)}."
    head = TABLE_HEAD.format(planned=len(planned), which=which)
    return "\n".join([head, *(TABLE_ROW.format(**row) for row in rows)]) + "\n"


@dataclass
class Worker:
    """A running worker. `until`: when it is killed from outside, on the monotonic clock."""

    process: Started
    log: Path
    until: float


class Soak:
    """One generation under kills. `environment`: of the workers, with TMPDIR in it."""

    def __init__(self, settings: dict, environment: dict, url: str, logs: Path, figures: Figures):
        self.settings, self.environment, self.url = settings, environment, url
        self.logs, self.figures = logs, figures
        self.chance = random.Random(figures.seed)
        self.sessions: set[int] = set()

    def run(self, kills: int) -> None:
        """All stages, under `kills` kills or a few more."""
        began, budget, by_stage = time.monotonic(), 0.0, {}
        for stage, share in SHARES.items():
            budget += share * kills
            left = kills - self.figures.kills if stage == "finish" else round(budget)
            before = self.figures.kills
            self.stage(stage, left)
            by_stage[stage] = self.figures.kills - before
            budget = max(0.0, budget - by_stage[stage])
        self.figures.kills_by_stage = by_stage
        self.figures.minutes = round((time.monotonic() - began) / 60, 2)

    def stage(self, stage: str, kills: int) -> None:
        """One stage by all workers, the first `kills` of which are killed."""
        count = 1 if stage in ALONE else self.figures.world_size
        goal, done = self.figures.kills + kills, set()
        workers: dict[int, Worker] = {}
        while len(done) < count:
            for rank in set(range(count)) - done - workers.keys():
                workers[rank] = self.start(stage, rank, count, self.figures.kills < goal)
            for rank, worker in list(workers.items()):
                if worker.process.poll() is None:
                    if time.monotonic() > worker.until:
                        worker.process.kill()
                        worker.until = float("inf")
                    continue
                del workers[rank]
                if self.ended(worker, stage) == 0:
                    done.add(rank)
            time.sleep(0.01)

    def start(self, stage: str, rank: int, count: int, doomed: bool) -> Worker:
        """A worker; a doomed one is killed at some moment, by the clock or while it writes."""
        self.figures.starts += 1
        log, by_clock = self.logs / str(self.figures.starts), self.chance.random() < 0.5
        more = {
            "UNRELIABLE_KILLS": DEADLY_WRITES if doomed and not by_clock else "0",
            "UNRELIABLE_FOR_GOOD": "1",
            "UNRELIABLE_SEED": str(self.chance.random()),
            "UNRELIABLE_LOG": str(log),
        }
        words = self.settings | {"output_dir": self.url, "stage": stage}
        if stage not in ALONE:
            words |= {"rank": rank, "world_size": count}
        process = Started(
            ["-c", RUN, *arguments(words)], self.environment | more, start_new_session=True
        )
        self.sessions.add(process.pid)
        # On idle cores a worker takes a second or two, and the more there are, the longer each.
        seconds = self.chance.uniform(0, (1 + count) / 3)
        until = time.monotonic() + seconds if doomed and by_clock else float("inf")
        return Worker(process, log, until)

    def ended(self, worker: Worker, stage: str) -> int:
        """Counts an ended worker and returns its exit code."""
        stdout, stderr = worker.process.communicate()
        code = worker.process.returncode
        if code == KILLED:
            self.figures.kills += 1
            signs = worker.log.read_text() if worker.log.exists() else ""
            self.figures.in_writes += signs.count("+") > signs.count("-")
        elif code == 2 and stage == "finish" and NOT_FINISHED in stderr:
            self.figures.sent_back += 1
            self.stage("shards", 0)
        else:
            assert code == 0, f"{stage} ended with {code}:\n{stdout}\n{stderr}"
        return code

    def orphans(self) -> list[psutil.Process]:
        """What the workers have started and left behind; nothing may live ten seconds longer."""
        deadline = time.monotonic() + 10
        while (found := list(filter(self._is_ours, psutil.process_iter()))) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and os.getsid(process.pid) in self.sessions
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False
