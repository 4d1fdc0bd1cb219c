"""Whole generations: the same bytes whatever happens on the way, the rows that were promised, and
an honest end.
"""

import fcntl
import io
import json
import random
import shutil
import signal
import time
from collections import Counter

import psutil
import pytest
import yaml
from forking import Started
from generations import (
    NUM_SHARDS,
    ROWS,
    SCRIPT,
    alive_in_the_end,
    arguments,
    digests,
    digests_but_pictures,
    kill_all,
    manifest_of,
    one_line,
    processes_of,
    published_rows,
    records,
    run_script,
    shards_of,
    snapshot,
    start,
    wait_for_records,
)
from halting import Halting
from launching import launch, launch_command, launch_environment, launched_now
from PIL import Image

from sgdmix_hub import train_adapter
from sgdmix_hub.settings.adapter_training import AdapterSettings


@pytest.fixture
def settings(generation_settings):
    return generation_settings


@pytest.fixture
def reference(finished_generation):
    return finished_generation


# ---- the same bytes ----


@pytest.mark.slow
def test_published_bytes_do_not_depend_on_the_number_of_processes(settings, reference, tmp_path):
    """Three with a worker each, against one with two workers."""
    more = {"output_dir": tmp_path / "run", "num_workers": 1}
    done = launch([SCRIPT, *arguments(settings | more)], 3)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run" / "repo") == digests(reference / "repo")


@pytest.mark.slow
def test_killed_run_is_continued_to_the_same_bytes(settings, reference, tmp_path):
    output = tmp_path / "run"
    args = arguments(settings | {"output_dir": output})
    halting = Halting(tmp_path, shard=4)
    launched = launched_now([halting.script, *args], 2)
    wait_for_records(launched, output, 2)
    halting.wait()
    processes = psutil.Process(launched.pid).children(recursive=True)
    kill_all([launched, *processes])
    launched.communicate()
    assert not alive_in_the_end(processes)
    before = records(output)
    assert 2 <= len(before) < NUM_SHARDS and not (output / "repo").exists()
    shards = shards_of(output, settings["rows_per_shard"])
    assert all(shards.is_finished(number) for number in before)
    cut, whole = before[0], before[1:]
    shards.path(cut).write_bytes(shards.path(cut).read_bytes()[:-100])
    kept = {number: shards.path(number).stat().st_mtime_ns for number in whole}
    ended = run_script(args, tmp_path / "logs")
    assert ended.returncode == 0, ended.stderr
    assert digests(output / "repo") == digests(reference / "repo")
    assert kept == {number: shards.path(number).stat().st_mtime_ns for number in whole}


@pytest.mark.slow
def test_sigterm_ends_with_75_and_the_same_command_finishes(settings, reference, tmp_path):
    output = tmp_path / "run"
    args = arguments(settings | {"output_dir": output})
    halting = Halting(tmp_path, shard=2)
    process = Started([halting.script, *args], launch_environment())
    halting.wait()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 75 and "Traceback" not in stderr, stderr
    assert json.loads((output / "state" / "error.json").read_text())["exit_code"] == 75
    before = records(output)
    assert len(before) < NUM_SHARDS and not (output / "repo").exists()
    shards = shards_of(output, settings["rows_per_shard"])
    assert all(shards.is_finished(number) for number in before)
    ended = run_script(args, tmp_path / "logs")
    assert ended.returncode == 0, ended.stderr
    assert digests(output / "repo") == digests(reference / "repo")
    assert not (output / "state" / "error.json").exists()


@pytest.mark.slow
def test_published_bytes_do_not_depend_on_the_workers(settings, reference, tmp_path):
    ended = run_script(
        arguments(settings | {"output_dir": tmp_path / "run", "num_workers": 4}), tmp_path / "logs"
    )
    assert ended.returncode == 0, ended.stderr
    assert digests(tmp_path / "run" / "repo") == digests(reference / "repo")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_published_bytes_are_those_of_five_processes_too(settings, reference, tmp_path):
    done = launch([SCRIPT, *arguments(settings | {"output_dir": tmp_path / "run"})], 5)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run" / "repo") == digests(reference / "repo")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_twenty_kills_end_in_the_same_bytes(settings, tmp_path):
    """Each at another moment, every second one while a shard or its record is about to be renamed,
    each time with other processes.
    """
    many = settings | {"rows_per_shard": 2, "num_variants": 4}  # 48 shards
    ended = run_script(arguments(many | {"output_dir": tmp_path / "whole"}), tmp_path / "logs")
    assert ended.returncode == 0, ended.stderr
    rng, output, renaming = random.Random(0), tmp_path / "run", 0
    for kill in range(20):
        launched = start(
            launch_command(
                [SCRIPT, *arguments(many | {"output_dir": output})], rng.choice([1, 2, 3, 5])
            )
        )
        wanted = len(records(output)) + 1
        while launched.poll() is None and len(records(output)) < wanted:
            time.sleep(0.001)
        if kill % 2:
            time.sleep(rng.random() / 2)
        else:
            while launched.poll() is None and not list(
                (output / "state" / "shards").glob(".shard-*.tmp")
            ):
                pass
        kill_all([*processes_of(output), launched])
        launched.communicate()
        assert not alive_in_the_end(processes_of(output))
        renaming += bool(list((output / "state" / "shards").glob(".shard-*.tmp")))
        assert all(shards_of(output, 2).is_finished(number) for number in records(output))
        print(
            f"kill {kill}: {len(records(output))} of 48 shards, "
            f"{renaming} kills left a file that was not renamed"
        )
    done = launch([SCRIPT, *arguments(many | {"output_dir": output})], 3)
    assert done.returncode == 0, done.stderr
    whole = digests_but_pictures(tmp_path / "whole" / "repo")
    assert digests_but_pictures(output / "repo") == whole
    rows = published_rows(output)
    assert [(row["source_index"], row["variant"]) for row in rows] == [
        (s, v) for s in range(ROWS) for v in range(4)
    ]


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


@pytest.mark.soak
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


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_folder_in_use_is_refused_and_untouched(num_processes, settings, reference, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(reference, output)
    shutil.rmtree(output / "repo")
    before = snapshot(output)
    args = arguments(settings | {"output_dir": output})
    with open(output / "state" / "lock", "a") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        if num_processes == 1:
            one_line(run_script(args, tmp_path), "in use")
        else:
            done = launch([SCRIPT, *args], num_processes)
            assert done.returncode != 0
            assert sum(line.startswith("sgdmix_hub: ") for line in done.stderr.splitlines()) == 1, (
                done.stderr
            )
    assert snapshot(output) == before


# ---- what is published ----


def test_every_row_keeps_its_label_and_every_source_gets_its_variants(
    settings, reference, source_rows
):
    rows = published_rows(reference)
    labels = [row["label"] for row in source_rows]
    assert Counter((row["source_index"], row["variant"]) for row in rows) == Counter(
        (s, v) for s in range(ROWS) for v in range(2)
    )
    assert [(row["source_index"], row["variant"]) for row in rows] == [
        (s, v) for s in range(ROWS) for v in range(2)
    ]
    for row in rows:
        assert row["label"] == labels[row["source_index"]]
        assert row["target_label"] == labels[row["target_index"]]
        assert row["target_index"] != row["source_index"]
        assert row["prompt"] == f"a photo of a <class_{row['label']}> bird"
        assert (row["strength"], row["effective_strength"], row["foreground_strength"]) == (
            0.6,
            0.5,
            0.6,
        )
        assert 0 < row["foreground_area"] <= 1 and row["saliency_distance"] >= 0
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.mode, image.size, image.format) == ("RGB", (32, 32), "PNG")
    assert all(
        first["target_index"] != second["target_index"]
        for first, second in zip(rows[::2], rows[1::2], strict=True)
    )
    assert (
        len({row["seed"] for row in rows})
        == len(rows)
        == len({row["image"]["bytes"] for row in rows})
    )


def test_manifest_names_every_file_and_the_config_no_place(settings, reference):
    manifest = manifest_of(reference)
    found = digests(reference / "repo")
    del found["README.md"], found["sgdmix/default/manifest.json"]
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == found
    assert (manifest["rows"], manifest["planned_rows"], manifest["skipped"]) == (48, 48, [])
    config = yaml.safe_load((reference / "repo" / "sgdmix" / "default" / "config.yaml").read_text())
    assert not {"output_dir", "saliency_dir", "card", "max_skipped"} & config.keys()
    assert config["strength"] == 0.6 and config["dataset_name"] == manifest["pins"]["dataset_name"]
    places = [
        str(place).encode()
        for place in (reference.parent, settings["dataset_name"], settings["adapter"])
    ]
    for path in (reference / "repo").rglob("*"):
        assert path.is_dir() or not any(place in path.read_bytes() for place in places)


@pytest.mark.slow
def test_adapter_of_another_subset_is_refused_unless_asked_for(
    settings, tiny_base, birds, tmp_path
):
    train_adapter.main(
        AdapterSettings(
            dataset_name=str(birds),
            output_dir=str(tmp_path / "adapter"),
            pretrained_model_name_or_path=str(tiny_base),
            metaclass="bird",
            examples_per_class=2,
            num_train_samples=2,
            resolution=32,
        )
    )
    chosen = settings | {
        "adapter": tmp_path / "adapter",
        "output_dir": tmp_path / "run",
        "num_variants": 1,
    }
    one_line(run_script(arguments(chosen), tmp_path), "adapter", "another subset")
    assert not (tmp_path / "run" / "repo").exists()
    allowed = run_script([*arguments(chosen), "--allow_other_subset"], tmp_path)
    assert allowed.returncode == 0, allowed.stderr
    assert len(published_rows(tmp_path / "run")) == ROWS


def test_adapter_of_another_base_is_refused(settings, tiny_base, tmp_path):
    other = tmp_path / "other-base"
    shutil.copytree(tiny_base, other)
    config = json.loads((other / "scheduler" / "scheduler_config.json").read_text())
    (other / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(config | {"beta_end": 0.02})
    )
    refused = run_script(
        arguments(
            settings | {"pretrained_model_name_or_path": other, "output_dir": tmp_path / "run"}
        ),
        tmp_path,
    )
    one_line(refused, "adapter", "other-base")
    assert not (tmp_path / "run" / "repo").exists()


@pytest.mark.slow
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
