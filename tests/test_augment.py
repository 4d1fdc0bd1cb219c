"""Whole generations: the same bytes whatever happens on the way, the rows that were promised, and an honest end."""

import fcntl
import io
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from launching import launch, launch_command, launch_environment
from PIL import Image

from sgdmix_hub import train_adapter
from sgdmix_hub.config import AdapterSettings, AugmentSettings, apply_preset
from sgdmix_hub.inputs import resolve_inputs
from sgdmix_hub.pins import file_sha256
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.saliency_store import compute_maps
from sgdmix_hub.shards import Shards

ROOT = Path(__file__).parents[1]
SCRIPT = "scripts/augment_dataset.py"
ROWS = 24  # of the birds' training split
NUM_SHARDS = 8

# The libraries are imported once, in a process from which every `run_script` is forked.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["sgdmix_hub.augment"])


@dataclass
class Ended:
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str


def arguments(settings: dict) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def run_script(args: list[str], logs: Path) -> Ended:
    """`python scripts/augment_dataset.py ...` without a launcher, in a process of its own, with its true exit code."""
    logs.mkdir(exist_ok=True)
    process = forks.Process(target=_script, args=(args, logs))
    process.start()
    process.join()
    return Ended(process.exitcode, *((logs / name).read_text() for name in ("stdout", "stderr")))


def _script(args: list[str], logs: Path) -> None:
    for name, stream in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(ROOT)
    sys.argv = [SCRIPT, *args]
    runpy.run_path(SCRIPT, run_name="__main__")


def digests(repo: Path) -> dict[str, str]:
    """sha256 of every published file."""
    return {path.relative_to(repo).as_posix(): file_sha256(path) for path in repo.rglob("*") if path.is_file()}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Modification time and size of every file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def published_rows(output: Path) -> list[dict]:
    shards = sorted((output / "repo" / "data").glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def manifest_of(output: Path) -> dict:
    return json.loads((output / "repo" / "sgdmix" / "default" / "manifest.json").read_text())


def pixels_of(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def records(output: Path) -> list[int]:
    """Numbers of the shards that have their record."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in (output / "state" / "shards").glob("shard-*.json"))


def shards_of(output: Path, rows_per_shard: int) -> Shards:
    return Shards(output / "state" / "shards", output / "state" / "plan.parquet", rows_per_shard)


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=launch_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_records(process: subprocess.Popen, output: Path, number: int = 1) -> None:
    while len(records(output)) < number:
        assert process.poll() is None, "the run ended before it could be disturbed:\n" + process.communicate()[1]
        time.sleep(0.001)


def processes_of(output: Path) -> list[psutil.Process]:
    """Every process of the machine that was started with this output folder, launchers included."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(output) in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def alive_in_the_end(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended after a minute: a process may finish the batch it is at. What is still there is killed."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    for process in alive:
        process.kill()
    return alive


def one_line(ended: Ended, *words: str) -> None:
    """A mistake of the user: exit code 2 and one line, which holds these words."""
    lines = [line for line in ended.stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert ended.returncode == 2 and len(lines) == 1 and "Traceback" not in ended.stderr, ended
    assert all(word in lines[0] for word in words), lines[0]


def write_dataset(folder: Path, images: list[bytes], labels: list[int]) -> Path:
    """A folder dataset of one split, from encoded images."""
    names = [f"class {label}" for label in range(max(labels) + 1)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    rows = [{"image": {"bytes": image, "path": None}, "label": label} for image, label in zip(images, labels, strict=True)]
    (folder / "data").mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def source_rows(birds):
    """The rows of the birds' training split, images encoded."""
    (path,) = (birds / "data").glob("train-*.parquet")
    return pq.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def settings(birds, classifier, adapter, tiny_base):
    """48 rows in 8 shards, with everything that SGD-Mix has. 0.6 of 4 steps are 2 steps."""
    return {
        "dataset_name": birds,
        "classifier": classifier,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "resolution": 32,
        "strength": 0.6,
        "num_inference_steps": 4,
        "guidance_scale": 1,
        "batch_size": 4,
        "rows_per_shard": 6,
        "num_variants": 2,
    }


@pytest.fixture(scope="module")
def mixing(birds):
    """Mixing alone, without any model."""
    return {"dataset_name": birds, "saliency_method": "spectral-residual", "strength": 0, "resolution": 32}


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory):
    """The output folder of `settings`, made by one process in one go."""
    output = tmp_path_factory.mktemp("reference") / "run"
    ended = run_script(arguments(settings | {"output_dir": output}), output.parent / "logs")
    assert ended.returncode == 0, ended.stderr
    assert len(records(output)) == NUM_SHARDS
    return output


# ---- the same bytes ----


@pytest.mark.parametrize("num_processes", [2, 3])
def test_published_bytes_do_not_depend_on_the_number_of_processes(num_processes, settings, reference, tmp_path):
    done = launch([SCRIPT, *arguments(settings | {"output_dir": tmp_path / "run"})], num_processes)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run" / "repo") == digests(reference / "repo")


def test_killed_run_is_continued_to_the_same_bytes(settings, reference, tmp_path):
    output = tmp_path / "run"
    launched = start(launch_command([SCRIPT, *arguments(settings | {"output_dir": output})], 2))
    wait_for_records(launched, output, 1)
    everyone = [launched, *psutil.Process(launched.pid).children(recursive=True)]
    wait_for_records(launched, output, 2)
    for process in everyone:
        process.kill()
    launched.communicate()
    assert not alive_in_the_end(processes_of(output))
    before = records(output)
    assert 2 <= len(before) < NUM_SHARDS and not (output / "repo").exists()
    shards = shards_of(output, settings["rows_per_shard"])
    assert all(shards.is_finished(number) for number in before)
    cut, whole = before[0], before[1:]
    shards.path(cut).write_bytes(shards.path(cut).read_bytes()[:-100])
    kept = {number: shards.path(number).stat().st_mtime_ns for number in whole}
    ended = run_script(arguments(settings | {"output_dir": output}), tmp_path / "logs")
    assert ended.returncode == 0, ended.stderr
    assert digests(output / "repo") == digests(reference / "repo")
    assert kept == {number: shards.path(number).stat().st_mtime_ns for number in whole}


def test_sigterm_ends_with_75_and_the_same_command_finishes(settings, reference, tmp_path):
    output = tmp_path / "run"
    process = start([sys.executable, SCRIPT, *arguments(settings | {"output_dir": output})])
    wait_for_records(process, output)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 75 and "Traceback" not in stderr, stderr
    assert json.loads((output / "state" / "error.json").read_text())["exit_code"] == 75
    before = records(output)
    assert len(before) < NUM_SHARDS and not (output / "repo").exists()
    shards = shards_of(output, settings["rows_per_shard"])
    assert all(shards.is_finished(number) for number in before)
    ended = run_script(arguments(settings | {"output_dir": output}), tmp_path / "logs")
    assert ended.returncode == 0, ended.stderr
    assert digests(output / "repo") == digests(reference / "repo")
    assert not (output / "state" / "error.json").exists()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_any_row_of_kills_ends_in_the_same_bytes(settings, reference, tmp_path):
    rng = random.Random(0)
    for attempt in range(3):
        output = tmp_path / str(attempt)
        for _ in range(3):
            launched = start(launch_command([SCRIPT, *arguments(settings | {"output_dir": output})], rng.choice([1, 2, 3])))
            wanted = len(records(output)) + 1
            while launched.poll() is None and len(records(output)) < wanted:
                time.sleep(0.001)
            time.sleep(rng.random() / 5)
            if rng.random() < 0.5:
                launched.send_signal(signal.SIGTERM)
            else:
                for process in (*processes_of(output), launched):
                    process.kill()
            launched.communicate()
            assert not alive_in_the_end(processes_of(output))
        done = launch([SCRIPT, *arguments(settings | {"output_dir": output})], rng.choice([1, 2, 3]))
        assert done.returncode == 0, done.stderr
        assert digests(output / "repo") == digests(reference / "repo")


# ---- one folder, one run ----


def test_finished_run_is_left_alone_and_other_settings_are_refused(settings, reference, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(reference, output)
    mine = settings | {"output_dir": output}
    before = snapshot(output)
    again = run_script(arguments(mine), tmp_path)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert snapshot(output) == before
    refused = run_script(arguments(mine | {"strength": 0.75}), tmp_path)
    one_line(refused, "strength", "0.6", "0.75")
    after = snapshot(output)
    assert after.pop("state/error.json")  # the report of the refusal
    assert after == before
    other_batch = run_script(arguments(mine | {"batch_size": 3}), tmp_path)
    assert other_batch.returncode == 0 and "warning: batch_size" in other_batch.stdout
    # A run that ended well leaves no report of an older failure behind.
    assert snapshot(output) == before


def test_unfinished_run_refuses_other_settings_in_every_process(settings, reference, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(reference, output)
    shutil.rmtree(output / "repo")
    before = snapshot(output)
    done = launch([SCRIPT, *arguments(settings | {"output_dir": output, "num_candidates": 7})], 2)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert len(lines) == 1 and "num_candidates 50 -> 7" in lines[0], done.stderr
    after = snapshot(output)
    assert after.pop("state/error.json")
    assert after == before
    assert json.loads((output / "state" / "error.json").read_text())["exit_code"] == 2


@pytest.mark.parametrize("num_processes", [1, 2])
def test_folder_in_use_is_refused_and_untouched(num_processes, settings, reference, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(reference, output)
    shutil.rmtree(output / "repo")
    before = snapshot(output)
    args = arguments(settings | {"output_dir": output})
    with open(output / "state" / "lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if num_processes == 1:
            one_line(run_script(args, tmp_path), "in use")
        else:
            done = launch([SCRIPT, *args], num_processes)
            assert done.returncode != 0
            assert sum(line.startswith("sgdmix_hub: ") for line in done.stderr.splitlines()) == 1, done.stderr
    assert snapshot(output) == before


# ---- what is published ----


def test_every_row_keeps_its_label_and_every_source_gets_its_variants(settings, reference, source_rows):
    rows = published_rows(reference)
    labels = [row["label"] for row in source_rows]
    assert Counter((row["source_index"], row["variant"]) for row in rows) == Counter((s, v) for s in range(ROWS) for v in range(2))
    assert [(row["source_index"], row["variant"]) for row in rows] == [(s, v) for s in range(ROWS) for v in range(2)]
    for row in rows:
        assert row["label"] == labels[row["source_index"]]
        assert row["target_label"] == labels[row["target_index"]]
        assert row["target_index"] != row["source_index"]
        assert row["prompt"] == f"a photo of a <class_{row['label']}> bird"
        assert (row["strength"], row["effective_strength"], row["foreground_strength"]) == (0.6, 0.5, 0.6)
        assert 0 < row["foreground_area"] <= 1 and row["saliency_distance"] >= 0
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.mode, image.size, image.format) == ("RGB", (32, 32), "PNG")
    assert all(first["target_index"] != second["target_index"] for first, second in zip(rows[::2], rows[1::2], strict=True))
    assert len({row["seed"] for row in rows}) == len(rows) == len({row["image"]["bytes"] for row in rows})


def test_manifest_names_every_file_and_the_config_no_place(settings, reference):
    manifest = manifest_of(reference)
    found = digests(reference / "repo")
    del found["README.md"], found["sgdmix/default/manifest.json"]
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == found
    assert (manifest["rows"], manifest["planned_rows"], manifest["skipped"]) == (48, 48, [])
    config = yaml.safe_load((reference / "repo" / "sgdmix" / "default" / "config.yaml").read_text())
    assert not {"output_dir", "saliency_dir", "card", "max_skipped"} & config.keys()
    assert config["strength"] == 0.6 and config["dataset_name"] == manifest["pins"]["dataset_name"]
    places = [str(place).encode() for place in (reference.parent, settings["dataset_name"], settings["adapter"])]
    for path in (reference / "repo").rglob("*"):
        assert path.is_dir() or not any(place in path.read_bytes() for place in places)


def test_strength_zero_is_mixing_alone(mixing, tmp_path):
    chosen = mixing | {"output_dir": tmp_path / "run", "num_candidates": 5}
    ended = run_script(arguments(chosen), tmp_path)
    assert ended.returncode == 0, ended.stderr
    settings = apply_preset(AugmentSettings(**{name: str(v) if isinstance(v, Path) else v for name, v in chosen.items()}))
    inputs = resolve_inputs(settings, tmp_path / "run" / "state")
    maps = compute_maps(settings, inputs.split, None, 0, 1, torch.device("cpu"))
    pipeline = SGDMixPipeline(settings, refiner=None)
    rows = published_rows(tmp_path / "run")
    assert len(rows) == ROWS
    for row in rows:
        source, target = (pipeline.mask(inputs.split.image(i), maps[i]) for i in (row["source_index"], row["target_index"]))
        mixture = pipeline.mix(source, target)
        published = pixels_of(row)
        assert np.array_equal(published, mixture.mixed)
        assert np.array_equal(published, np.where((source.mask | target.mask)[..., None], source.pixels, target.pixels))
        assert row["foreground_area"] == mixture.foreground_area == (source.mask | target.mask).mean()
        assert row["effective_strength"] == 0 and row["prompt"] == ""


# ---- rows that cannot be made ----


def test_corrupt_image_is_skipped_named_and_never_a_target(mixing, source_rows, tmp_path):
    corrupt = 5
    images = [row["image"]["bytes"] for row in source_rows]
    images[corrupt] = images[corrupt][: len(images[corrupt]) // 2]
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows])
    chosen = mixing | {"dataset_name": data, "output_dir": tmp_path / "run"}
    ended = run_script(arguments(chosen), tmp_path)
    assert ended.returncode == 3 and "1 of 24 rows" in ended.stderr and "Traceback" not in ended.stderr
    rows, manifest = published_rows(tmp_path / "run"), manifest_of(tmp_path / "run")
    assert [row["source_index"] for row in rows] == [i for i in range(ROWS) if i != corrupt]
    assert corrupt not in {row["target_index"] for row in rows}
    (skipped,) = manifest["skipped"]
    assert (skipped["source_index"], skipped["variant"]) == (corrupt, 0) and skipped["reason"].startswith("corrupt image")
    assert "1 x corrupt image" in (tmp_path / "run" / "repo" / "README.md").read_text()
    # The same command says the same again; where more may be skipped, it is fine. Nothing is made anew.
    before = digests(tmp_path / "run" / "repo")
    assert run_script(arguments(chosen), tmp_path).returncode == 3
    assert run_script(arguments(chosen | {"max_skipped": 0.2}), tmp_path).returncode == 0
    assert digests(tmp_path / "run" / "repo") == before


def test_too_many_skipped_rows_are_reported_once_by_two_processes(mixing, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows]
    images[3] = b""
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows])
    output = tmp_path / "run"
    done = launch([SCRIPT, *arguments(mixing | {"dataset_name": data, "output_dir": output, "rows_per_shard": 4})], 2)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert "1 of 24 rows" in line
    report = json.loads((output / "state" / "error.json").read_text())
    assert report["exit_code"] == 3 and f"sgdmix_hub: {report['message']}" == line
    assert len(published_rows(output)) == ROWS - 1


def test_more_may_be_skipped_where_the_user_says_so(mixing, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows]
    images[0] = b"no image at all"
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows])
    ended = run_script(arguments(mixing | {"dataset_name": data, "output_dir": tmp_path / "run", "max_skipped": 0.2}), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert [record["source_index"] for record in manifest_of(tmp_path / "run")["skipped"]] == [0]
    assert len(published_rows(tmp_path / "run")) == ROWS - 1


def test_class_with_one_image_and_more_candidates_than_images(mixing, source_rows, tmp_path):
    images, labels = [row["image"]["bytes"] for row in source_rows[:6]], [0, 1, 1, 1, 1, 1]
    data = write_dataset(tmp_path / "data", images, labels)
    chosen = mixing | {"dataset_name": data, "output_dir": tmp_path / "run", "target_classes": "other", "num_variants": 2}
    ended = run_script(arguments(chosen), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "warning: num_candidates 50" in ended.stdout
    rows = published_rows(tmp_path / "run")
    assert len(rows) == 12 and all(row["target_label"] != row["label"] for row in rows)
    alone = [row["target_index"] for row in rows if row["source_index"] == 0]
    assert len(set(alone)) == 2


def test_no_candidate_anywhere_skips_every_row(mixing, source_rows, tmp_path):
    data = write_dataset(tmp_path / "data", [row["image"]["bytes"] for row in source_rows[:3]], [0, 0, 0])
    ended = run_script(arguments(mixing | {"dataset_name": data, "output_dir": tmp_path / "run", "target_classes": "other"}), tmp_path)
    assert ended.returncode == 3 and "Traceback" not in ended.stderr, ended.stderr
    manifest = manifest_of(tmp_path / "run")
    assert manifest["rows"] == 0 and [record["reason"] for record in manifest["skipped"]] == ["no candidate"] * 3


def test_blank_images_are_skipped_and_never_targets(mixing, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows[:8]]
    blank = {2: 128, 5: 0, 7: 255}
    for row, grey in blank.items():
        images[row] = png(Image.new("RGB", (32, 32), (grey, grey, grey)))
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows[:8]])
    ended = run_script(arguments(mixing | {"dataset_name": data, "output_dir": tmp_path / "run", "max_skipped": 1}), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert {(r["source_index"], r["reason"]) for r in manifest_of(tmp_path / "run")["skipped"]} == {
        (row, "blank saliency map") for row in blank
    }
    assert not blank.keys() & {row["target_index"] for row in published_rows(tmp_path / "run")}


# ---- inputs that do not belong together ----


def test_adapter_of_another_subset_is_refused_unless_asked_for(settings, tiny_base, birds, tmp_path):
    train_adapter.main(
        AdapterSettings(
            dataset_name=str(birds),
            output_dir=str(tmp_path / "adapter"),
            pretrained_model_name_or_path=str(tiny_base),
            metaclass="bird",
            examples_per_class=2,
            max_train_steps=1,
            resolution=32,
        )
    )
    chosen = settings | {"adapter": tmp_path / "adapter", "output_dir": tmp_path / "run", "num_variants": 1}
    one_line(run_script(arguments(chosen), tmp_path), "adapter", "another subset")
    assert not (tmp_path / "run" / "repo").exists()
    allowed = run_script([*arguments(chosen), "--allow_other_subset"], tmp_path)
    assert allowed.returncode == 0, allowed.stderr
    assert len(published_rows(tmp_path / "run")) == ROWS


def test_adapter_of_another_base_is_refused(settings, tiny_base, tmp_path):
    other = tmp_path / "other-base"
    shutil.copytree(tiny_base, other)
    config = json.loads((other / "scheduler" / "scheduler_config.json").read_text())
    (other / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"beta_end": 0.02}))
    refused = run_script(arguments(settings | {"pretrained_model_name_or_path": other, "output_dir": tmp_path / "run"}), tmp_path)
    one_line(refused, "adapter", "other-base")
    assert not (tmp_path / "run" / "repo").exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--num_cand=5"], "num_cand"),
        (["--strenght=0.5"], "strenght"),
        (["--strength=1.5"], "strength"),
        (["--strength=nan"], "strength"),
        (["--strength=0.2"], "0.2 at 4 steps"),
        (["--num_variants=two"], "num_variants"),
        (["--mixing_method=blend"], "mixing_method"),
        (["--config", "null.yaml"], "num_variants"),
        (["--config", "unknown.yaml"], "nmu_variants"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_settings_end_in_one_line_before_anything_is_written(wrong, named, settings, tmp_path):
    (tmp_path / "null.yaml").write_text("num_variants:\n")
    (tmp_path / "unknown.yaml").write_text("nmu_variants: 2\n")
    wrong = [str(tmp_path / word) if word.endswith(".yaml") else word for word in wrong]
    output = tmp_path / "run"
    ended = run_script([*arguments(settings | {"output_dir": output}), *wrong], tmp_path / "logs")
    one_line(ended, named)
    assert len(ended.stderr.splitlines()) == 1 and not ended.stdout
    assert not output.exists()


# ---- processes that die ----


def long_run(settings: dict, output: Path) -> subprocess.Popen:
    """A launch in two processes whose every batch takes a while, with its first shard finished."""
    slow = settings | {"output_dir": output, "num_inference_steps": 200, "rows_per_shard": 4, "num_variants": 4}
    launched = start(launch_command([SCRIPT, *arguments(slow)], 2))
    wait_for_records(launched, output)
    return launched


def test_dead_rank_fails_the_launch_and_leaves_no_orphan(settings, reference, tmp_path):
    output = tmp_path / "run"
    launched = long_run(settings, output)
    processes = processes_of(output)
    (rank_one,) = [p for p in processes if p.environ().get("RANK") == "1"]
    rank_one.kill()
    launched.communicate()
    assert launched.returncode != 0
    assert not alive_in_the_end(processes)
    shards = shards_of(output, 4)
    assert not (output / "repo").exists() and len(records(output)) < len(shards)
    assert all(shards.is_finished(number) for number in records(output))


def test_killed_launcher_leaves_no_orphan(settings, reference, tmp_path):
    output = tmp_path / "run"
    launched = long_run(settings, output)
    processes = [process for process in processes_of(output) if process.pid != launched.pid]
    assert len(processes) >= 2
    launched.kill()
    launched.communicate()
    assert not alive_in_the_end(processes)
    assert not (output / "repo").exists()
