"""Published files of several shards: no file is read twice for its sha256, whoever makes it, and
what one process has hashed no other hashes again.
"""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from generations import arguments, digests, flip, shards_of, tiny_run
from launching import launch

from sgdmix_hub import augment, files
from sgdmix_hub.files import DamagedFile
from sgdmix_hub.generation import published_files
from sgdmix_hub.generation.published_files import PublishedFiles
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.layout import RepoLayout
from sgdmix_hub.publishing.parquet import files_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.storage.stores import HERE

SHARDS = 16


def two_in_a_file(sizes: list[int]) -> list[range]:
    return files_of(sizes, file_bytes=2 * max(sizes) + 1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """8 images, 2 variants, a shard a row."""
    return tiny_run(tmp_path_factory.mktemp("hashing") / "birds", rows_per_shard=1)


@pytest.fixture(scope="module")
def shards_made(settings, tmp_path_factory):
    """The output folder of a run whose shards are made and whose `repo/` is not."""
    output = tmp_path_factory.mktemp("made") / "run"
    for stage in ("plan", "shards"):
        augment.main(AugmentSettings(**settings, output_dir=str(output), stage=stage))
    return output


@pytest.fixture
def output(shards_made, tmp_path, monkeypatch):
    """A copy of it, whose published files hold two shards each."""
    monkeypatch.setattr(published_files, "files_of", two_in_a_file)
    return OutputFolder(shutil.copytree(shards_made, tmp_path / "run"))


@pytest.fixture
def hashed(monkeypatch):
    """How often each shard was read for its sha256, by its name; `made`: all published files."""
    counts = Counter()

    def counted(path, *words, **options):
        name, folder = Path(path).name, Path(path).parent.name
        if folder == "shards" and not name.endswith(".json"):
            counts[name] += 1
        elif folder in ("files", "data") and "run" in Path(path).parts:
            counts["made"] += 1
        return open(path, *words, **options)

    monkeypatch.setattr(files, "open", counted, raising=False)
    return counts


def made_by(output: OutputFolder) -> PublishedFiles:
    return PublishedFiles(shards_of(output.path, 1), RepoLayout("default"), output, HERE)


def finish(settings: dict, output: OutputFolder) -> None:
    augment.main(AugmentSettings(**settings, output_dir=str(output), stage="finish"))


@pytest.mark.slow
def test_finish_reads_every_shard_and_every_file_once(settings, output, hashed):
    finish(settings, output)
    made = hashed.pop("made")
    assert hashed == {f"shard-{number:05d}.parquet": 1 for number in range(SHARDS)}
    assert made == len(list(output.repo.glob("data/*.parquet"))) < SHARDS
    assert not (output.state / "files").exists(), "all files are in repo/"


RANK = """
import os
from pathlib import Path

from sgdmix_hub import files
from sgdmix_hub.augment import main
from sgdmix_hub.generation import published_files
from sgdmix_hub.publishing.parquet import files_of
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.generation import AugmentSettings

def counted(path, *words, **options):
    if Path(path).parent.name in ("shards", "files", "data") and "run" in Path(path).parts:
        with open(Path(os.environ["HASHED"], os.environ["RANK"]), "a") as log:
            print(Path(path).name, file=log)
    return open(path, *words, **options)

files.open = counted
published_files.files_of = lambda sizes: files_of(sizes, file_bytes=2 * max(sizes) + 1)
launch(main, AugmentSettings)
"""


@pytest.mark.slow
def test_the_ranks_of_a_launch_share_the_work_and_nobody_repeats_it(settings, output, tmp_path):
    """Each shard and each file is read once, by one of them, for the bytes of one process."""
    alone = OutputFolder(shutil.copytree(output.path, tmp_path / "alone" / "run"))
    finish(settings, alone)
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    words = arguments(settings | {"output_dir": output, "stage": "finish"})
    done = launch([script, *words], 2, env={"HASHED": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert digests(output.repo) == digests(alone.repo)
    first, second = ((tmp_path / rank).read_text().split() for rank in ("0", "1"))
    shards = [name for name in first + second if name.startswith("shard-")]
    assert sorted(shards) == [f"shard-{number:05d}.parquet" for number in range(SHARDS)]
    assert abs(len(first) - len(second)) <= 3, "two shards and their file"
    files_made = len(list(output.repo.glob("data/*.parquet")))
    assert len(first) + len(second) == SHARDS + files_made


@pytest.mark.slow
def test_an_interrupted_finish_makes_again_what_is_missing_or_flipped(output, hashed):
    published = made_by(output)
    facts = published.make_all()
    count = len(facts)
    files = [output.state / "files" / Path(published.name(number)).name for number in range(count)]
    hashed.clear()
    assert made_by(output).make_all() == facts
    assert sum(hashed.values()) == count, "each file once, and no shard"
    files[1].unlink()
    flipped = bytearray(files[0].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    files[0].unlink()  # it may be a second name of a shard
    files[0].write_bytes(flipped)
    assert made_by(output).make_all() == facts
    assert made_by(output).make_all() == facts


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_shard_that_changes_on_its_way_into_the_repository_is_named(output, count, tmp_path):
    shards = shards_of(output.path, 1)
    assert shards.unfinished() == [], "this process knows all of them"
    flip(shards.path(3), 0)
    with pytest.raises(DamagedFile, match=r"shard-00003\.parquet"):
        shards.publish(range(3, 3 + count), tmp_path / "file.parquet")
    assert shards.unfinished() == [3], "it is made again"


@pytest.mark.slow
def test_a_copy_where_there_are_no_links_has_the_bytes_of_the_shard(output, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", partial(refuse, OSError("no links")))
    shards = shards_of(output.path, 1)
    facts = shards.publish(range(5, 6), tmp_path / "file.parquet")
    assert facts["sha256"] == shards.record(5)["sha256"]
    assert (tmp_path / "file.parquet").read_bytes() == shards.path(5).read_bytes()


def refuse(error: Exception, *words) -> None:
    raise error
