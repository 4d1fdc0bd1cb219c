"""Names of the files in a run's `output_dir`. Imports nothing of the package."""

from __future__ import annotations

from pathlib import Path

STATE = "state"  # the subfolder that is never published
ERROR = "error.json"


class OutputFolder:
    """Paths in one `output_dir`: `repo/` is published, `state/` is what a rerun continues from."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def repo(self) -> Path:
        """The finished dataset. It appears in one rename, complete."""
        return self.path / "repo"

    @property
    def state(self) -> Path:
        return self.path / STATE

    @property
    def error(self) -> Path:
        """Why the last launch failed."""
        return self.state / ERROR

    @property
    def shards(self) -> Path:
        """Finished shards and their records."""
        return self.state / "shards"

    @property
    def saliency(self) -> Path:
        """Saliency maps, unless `saliency_dir` is set."""
        return self.state / "saliency"

    @property
    def strengths(self) -> Path:
        """What a pilot measured, and the strength that it chose for every class."""
        return self.state / "strengths.json"

    @property
    def dry_run_plan(self) -> Path:
        """The plan of a dry run, which the dry run removes."""
        return self.state / "dry_run.parquet"

    @property
    def building(self) -> Path:
        """`repo/` while it is being written."""
        return self.state / "repo.building"

    @property
    def all_made(self) -> Path:
        """Tells the ranks of a launch that all shards are finished."""
        return self.state / "all_made.json"

    @property
    def finished(self) -> Path:
        """Record of the finished `repo/`: the sha256 of its manifest."""
        return self.state / "repo.json"

    @property
    def card(self) -> Path:
        """Prose for the card of an evaluated dataset."""
        return self.state / "card.md"

    @property
    def views(self) -> Path:
        """What the judge saw of each image."""
        return self.state / "views"

    @property
    def judged(self) -> Path:
        """Saliency maps of the images that an adapter is judged on."""
        return self.state / "judged"

    @property
    def checkpoints(self) -> Path:
        return self.state / "checkpoints"

    @property
    def training_log(self) -> Path:
        return self.state / "log.jsonl"

    @property
    def best_weights(self) -> Path:
        return self.state / "best"


def repo_in(folder: Path) -> Path:
    """`repo/` of an output folder; any other folder is taken as the repository itself."""
    repo = OutputFolder(folder).repo
    return repo if repo.is_dir() else folder
