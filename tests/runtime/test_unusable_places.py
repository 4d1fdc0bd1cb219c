"""Places that a run cannot read or write: one line that says what to do, exit code 2, whatever the
system calls it.
"""

import errno
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from generations import arguments, one_line, run_script

from sgdmix_hub import augment
from sgdmix_hub.errors import LONGEST_LINE, UserError
from sgdmix_hub.files import clear_abandoned, temporary_beside
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.runtime.launch import check_named, reason, report
from sgdmix_hub.runtime.places import ADVICE, useless_place
from sgdmix_hub.runtime.resource_errors import where_it_is_full
from sgdmix_hub.runtime.shared_memory import check_shared_memory, free_bytes, loader_bytes
from sgdmix_hub.runtime.stopping import lock_folder
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.training import ClassifierSettings
from sgdmix_hub.train_classifier import check_loaders
from sgdmix_hub.training.share import Share


def a_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    return path


def a_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def a_link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


# What is made at an output folder, and what the line names.
PLACES = {
    "a file": lambda out: (a_file(out), out),
    "below a file": lambda out: (a_file(out) / "deeper", out),
    "/dev/null": lambda out: (Path("/dev/null"), "/dev/null"),
    "below /dev/null": lambda out: (Path("/dev/null/out"), "/dev/null"),
    "/proc": lambda out: (Path("/proc/sgdmix_hub/out"), "/proc/sgdmix_hub"),
    "/sys": lambda out: (Path("/sys/sgdmix_hub"), "/sys/sgdmix_hub"),
    "a dangling link": lambda out: (a_link(out, out.parent / "gone"), out),
    "a link to itself": lambda out: (a_link(out, out), out),
    "a zero byte": lambda out: (f"{out}\0", "zero byte"),
    "nothing": lambda out: ("", "output_dir is empty"),
    "a name that is too long": lambda out: (out / ("x" * 300), "too long"),
    "state is a file": lambda out: (a_file(out / "state").parents[0], out / "state"),
    "shards is a file": lambda out: (
        a_file(out / "state" / "shards").parents[1],
        out / "state" / "shards",
    ),
    "saliency is a file": lambda out: (
        a_file(out / "state" / "saliency").parents[1],
        out / "state" / "saliency",
    ),
    "lock is a folder": lambda out: (
        a_folder(out / "state" / "lock").parents[1],
        out / "state" / "lock",
    ),
    "run.json is a folder": lambda out: (
        a_folder(out / "state" / "run.json").parents[1],
        out / "state" / "run.json",
    ),
    "the plan is a folder": lambda out: (
        a_folder(out / "state" / "plan.parquet").parents[1],
        out / "state",
    ),
    "repo.building is a file": lambda out: (
        a_file(OutputFolder(out).building).parents[1],
        OutputFolder(out).building,
    ),
    "a record is a folder": lambda out: (
        a_folder(out / "state" / "shards" / "shard-00000.json").parents[2],
        out / "state" / "shards",
    ),
}


def refusal(settings: dict, output: object) -> UserError:
    """What a run into a place ends with, as the program says it."""
    try:
        check_named(str(output))
        places = {"dataset_name": str(settings["dataset_name"]), "output_dir": str(output)}
        augment.main(AugmentSettings(**settings | places))
    except Exception as error:
        found = reason(error, None)
        assert isinstance(found, UserError), found
        return found
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize("place", PLACES)
def test_places_that_cannot_be_written_are_refused_in_one_line(place, mixing, tmp_path):
    output, named = PLACES[place](tmp_path / "run")
    line = str(refusal(mixing | {"strength": 0.0}, output))
    assert (
        "/".join(Path(named).parts[-2:]) in line and "\n" not in line and len(line) < LONGEST_LINE
    ), line
    assert any(words in line for words in ("choose", "give", "move", "remove")), line


@pytest.mark.slow
def test_the_program_ends_with_2_and_one_line(mixing, tmp_path):
    one_line(
        run_script(
            arguments(mixing | {"output_dir": a_file(tmp_path / "file")}), tmp_path / "logs"
        ),
        str(tmp_path / "file"),
    )
    one_line(
        run_script(arguments(mixing | {"output_dir": "/dev/null/out"}), tmp_path / "logs"),
        "/dev/null",
    )
    one_line(
        run_script(arguments(mixing | {"output_dir": "/proc/out"}), tmp_path / "logs"), "/proc/out"
    )


@pytest.mark.slow
def test_on_a_read_only_place_a_finished_run_is_complete_and_others_are_refused(
    mixing, read_only, capsys
):
    folder, close = read_only
    settings = AugmentSettings(
        **mixing
        | {
            "dataset_name": str(mixing["dataset_name"]),
            "strength": 0.0,
            "output_dir": str(folder / "run"),
        }
    )
    augment.main(settings)
    shutil.copytree(folder / "run", folder / "half")
    shutil.rmtree(folder / "half" / "repo")
    close()
    capsys.readouterr()
    augment.main(settings)
    assert "is complete, nothing to do" in capsys.readouterr().out
    for output in (folder / "new", folder / "half"):
        line = str(refusal(mixing | {"strength": 0.0}, output))
        assert str(output) in line and "read-only file system" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions stop nobody who is root")
def test_a_place_without_permission_is_refused_in_one_line(mixing, tmp_path):
    closed = a_folder(tmp_path / "closed")
    closed.chmod(0o500)
    line = str(refusal(mixing | {"strength": 0.0}, closed / "run"))
    assert "permission denied" in line and str(closed) in line


@pytest.mark.parametrize("number", sorted(ADVICE), ids=errno.errorcode.get)
def test_what_the_system_says_of_a_place_becomes_one_line(number):
    """Also from deep in a library, and where two names take part."""
    for error in (
        OSError(number, os.strerror(number), "/some/file"),
        OSError(number, os.strerror(number), "/some/.tmp", None, "/some/file"),
    ):
        wrapped = RuntimeError("a library's words")
        wrapped.__cause__ = error
        for raised in (error, wrapped):
            line = str(reason(raised, None))
            assert line.startswith(f"/some/file: {os.strerror(number).lower()}: ")
            assert len(line) < LONGEST_LINE


def test_errors_that_no_place_explains_stay_what_they_are():
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "/some/file")
    for error in (
        ValueError("a bug"),
        missing,
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        TimeoutError("late"),
    ):
        assert useless_place(error) is None and reason(error, None) is error
    handled = ValueError("a bug, after something that was handled")
    handled.__context__ = FileExistsError(errno.EEXIST, "File exists", "/some/file")
    assert reason(handled, None) is handled


# ---- what is full ----


def test_a_full_cache_behind_a_mistake_of_the_user_is_told():
    full = OSError(errno.ENOSPC, "No space left on device")
    error = UserError(
        "cannot load split 'train' of small: An error occurred while generating the dataset"
    )
    error.__cause__ = RuntimeError("An error occurred while generating the dataset")
    error.__cause__.__cause__ = full
    assert "no space left on device" in str(reason(error, None))
    assert reason(UserError("another mistake"), None).args == ("another mistake",)


def test_the_place_that_is_full_is_named(read_only):
    folder, _ = read_only
    assert where_it_is_full(str(folder)) == f"where {folder} and the caches lie"
    with open(folder / "much", "wb") as file:
        file.truncate(0)
        try:
            for _ in range(60):
                file.write(bytes(2**20))
        except OSError:
            pass
    assert str(folder) in where_it_is_full(str(folder))
    assert "caches" not in where_it_is_full(str(folder))


def test_shared_memory_is_checked_against_what_the_workers_of_loaders_fill(tmp_path):
    assert (
        loader_bytes(num_workers=2, batch_size=32, image_size=448) == 2 * 2 * 32 * 3 * 448 * 448 * 4
    )
    assert loader_bytes(num_workers=0, batch_size=32, image_size=448) == 0
    free = free_bytes(str(tmp_path))
    check_shared_memory(free // 2, "8 workers", "fewer workers, or ", str(tmp_path))
    # A system without /dev/shm.
    check_shared_memory(2**60, "8 workers", "fewer workers, or ", str(tmp_path / "nowhere"))
    with pytest.raises(
        UserError,
        match=r"MB left, 8 workers need up to .* MB: "
        r"fewer workers, or more shared memory \(docker run --shm-size",
    ):
        check_shared_memory(2**60, "8 workers", "fewer workers, or ", str(tmp_path))


# ---- what killed runs leave ----


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_dead_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    mine = a_file(temporary_beside(tmp_path / "state" / "deep" / "plan.parquet"))
    dead = a_file(mine.with_name(f".plan.parquet.{dead_process()}@{socket.gethostname()}.tmp"))
    elsewhere = a_file(mine.with_name(".plan.parquet.1@another-machine.tmp"))
    old = a_file(mine.with_name(".values.npy.1@another-machine.tmp"))
    os.utime(old, (0, 0))
    users = a_file(mine.with_name(".notes.tmp"))
    with lock_folder(tmp_path / "state"):
        assert mine.exists()
        assert elsewhere.exists()
        assert users.exists()
        assert not dead.exists()
        assert not old.exists()
    clear_abandoned(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_next_run_clears_what_a_killed_one_was_at(mixing, tmp_path):
    output = tmp_path / "run"
    a_file(OutputFolder(output).building / "half")
    a_file(output / "state" / "dry_run.parquet")
    left = a_file(
        output
        / "state"
        / "shards"
        / f".shard-00000.parquet.{dead_process()}@{socket.gethostname()}.tmp"
    )
    augment.main(
        AugmentSettings(
            **mixing
            | {
                "dataset_name": str(mixing["dataset_name"]),
                "strength": 0.0,
                "output_dir": str(output),
            }
        )
    )
    assert not any(
        path.exists()
        for path in (OutputFolder(output).building, output / "state" / "dry_run.parquet", left)
    )
    assert not list(output.rglob("*.tmp")) and (output / "repo").exists()


# ---- what is said ----


@pytest.mark.parametrize("code", [1, 2, 3, 75])
def test_whatever_is_said_is_one_printable_line_of_at_most_300_characters(code, capsys):
    for text in (
        "y" * 1000 + "\nsecond line",
        "\x1b[31mred\x07, " + "\udc80" * (code != 1) + "\nsecond line",
    ):
        report(code, ValueError(text))
        lines = capsys.readouterr().err.splitlines()
        (line,) = [line for line in lines if line.startswith("sgdmix_hub: ")]
        assert len(line) <= len("sgdmix_hub: ") + LONGEST_LINE and line.isprintable()
        assert (len(lines) > 1) == (code == 1)  # the traceback


def test_loaders_of_a_training_are_checked_before_its_first_step(birds, tmp_path):
    settings = ClassifierSettings(
        dataset_name=str(birds), output_dir=str(tmp_path), dataloader_num_workers=1
    )
    share = Share(rank=0, num_processes=1, batch_size=32, accumulation=1)
    check_loaders(settings, share, 8, is_evaluated=True)
    with pytest.raises(
        UserError, match="1 workers of data loaders need up to .* fewer --dataloader_num_workers"
    ):
        check_loaders(settings, share, 2**16, is_evaluated=True)
