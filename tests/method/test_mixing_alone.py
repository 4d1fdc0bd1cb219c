"""Generations without a diffusion model: what is mixed, and the rows that cannot be made."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from generations import (
    ROWS,
    SCRIPT,
    arguments,
    digests,
    manifest_of,
    one_line,
    pixels_of,
    png,
    published_rows,
    run_script,
    write_dataset,
)
from launching import ROOT, launch, launch_environment
from PIL import Image
from rowstores import many_rows

from sgdmix_hub.generation.inputs import resolve_inputs
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.method.mixer import Mixer
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset


@pytest.mark.slow
def test_strength_zero_is_mixing_alone(mixing, tmp_path):
    chosen = mixing | {"output_dir": tmp_path / "run", "num_candidates": 5}
    ended = run_script(arguments(chosen), tmp_path)
    assert ended.returncode == 0, ended.stderr
    settings = apply_preset(
        AugmentSettings(
            **{name: str(v) if isinstance(v, Path) else v for name, v in chosen.items()}
        )
    )
    inputs = resolve_inputs(settings, tmp_path / "run" / "state")
    maps = compute_maps(settings, inputs.split, None, 0, 1, torch.device("cpu"))
    mixer = Mixer(settings)
    rows = published_rows(tmp_path / "run")
    assert len(rows) == ROWS
    for row in rows:
        source, target = (
            mixer.mask(inputs.split.image(i), maps[i])
            for i in (row["source_index"], row["target_index"])
        )
        mixture = mixer.mix(source, target)
        published = pixels_of(row)
        assert np.array_equal(published, mixture.mixed)
        assert np.array_equal(
            published,
            np.where((source.mask | target.mask)[..., None], source.pixels, target.pixels),
        )
        assert (
            row["foreground_area"] == mixture.foreground_area == (source.mask | target.mask).mean()
        )
        assert row["effective_strength"] == 0 and row["prompt"] == ""


ALONE = """
import sys
from sgdmix_hub.augment import main
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings

main(parse_settings(AugmentSettings))
loaded = {
    "diffusers",
    "peft",
    "pytorch_grad_cam",
    "torch._dynamo",
    "transformers.modeling_utils",
} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.slow
def test_mixing_alone_loads_no_library_of_models(mixing, tmp_path):
    """They are half of the start of a program."""
    command = [sys.executable, "-c", ALONE, *arguments(mixing | {"output_dir": tmp_path / "run"})]
    done = subprocess.run(
        command, cwd=ROOT, env=launch_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and len(published_rows(tmp_path / "run")) == ROWS, done.stderr


@pytest.mark.soak
def test_new_backgrounds_for_everybody_are_the_same_from_two_processes(
    mixing, source_rows, tmp_path
):
    """Background features are made by every process and read by one; a limit on reuse makes a
    choice depend on all before it.
    """
    data = many_rows(tmp_path / "data", source_rows, 136)  # two blocks of a store
    chosen = mixing | {"dataset_name": data, "rows_per_shard": 40, "num_candidates": 5}
    chosen |= {"selection_method": "novel-background", "max_target_reuse": 2}
    one = run_script(arguments(chosen | {"output_dir": tmp_path / "one"}), tmp_path / "logs")
    assert one.returncode == 0, one.stderr
    two = launch([SCRIPT, *arguments(chosen | {"output_dir": tmp_path / "two"})], 2)
    assert two.returncode == 0, two.stderr
    assert digests(tmp_path / "one" / "repo") == digests(tmp_path / "two" / "repo")
    rows = published_rows(tmp_path / "one")
    assert len(rows) == 136 and max(Counter(row["target_index"] for row in rows).values()) <= 2
    stores = [
        {path.name for path in (tmp_path / name / "state" / "saliency").iterdir()}
        for name in ("one", "two")
    ]
    assert stores[0] == stores[1]
    assert sum(name.startswith("backgrounds-") for name in stores[0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mask_dilation": 2}, ["mask_dilation", "[0, 0.5]"]),
        (
            {"inpainting_method": "diffusion", "mixing_method": "inpaint"},
            ["inpainting_method", "strength"],
        ),
        ({"saliency_method": "score-cam"}, ["score-cam", "--classifier"]),
    ],
)
def test_choices_that_cannot_be_made_end_in_one_line_before_anything_is_written(
    wrong, named, mixing, tmp_path
):
    ended = run_script(
        arguments(mixing | wrong | {"output_dir": tmp_path / "run"}), tmp_path / "logs"
    )
    one_line(ended, *named)
    assert len(ended.stderr.splitlines()) == 1
    assert not ended.stdout
    assert not (tmp_path / "run").exists()


# ---- rows that cannot be made ----


@pytest.mark.slow
def test_corrupt_image_is_skipped_named_and_never_a_target(mixing, source_rows, tmp_path):
    corrupt = 5
    images = [row["image"]["bytes"] for row in source_rows]
    images[corrupt] = images[corrupt][: len(images[corrupt]) // 2]
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows])
    chosen = mixing | {"dataset_name": data, "output_dir": tmp_path / "run"}
    ended = run_script(arguments(chosen), tmp_path)
    assert ended.returncode == 3
    assert "1 of 24 rows" in ended.stderr
    assert "Traceback" not in ended.stderr
    rows, manifest = published_rows(tmp_path / "run"), manifest_of(tmp_path / "run")
    assert [row["source_index"] for row in rows] == [i for i in range(ROWS) if i != corrupt]
    assert corrupt not in {row["target_index"] for row in rows}
    (skipped,) = manifest["skipped"]
    assert (skipped["source_index"], skipped["variant"]) == (corrupt, 0)
    assert skipped["reason"].startswith("corrupt image")
    assert "1 x corrupt image" in (tmp_path / "run" / "repo" / "README.md").read_text()
    # The same command says the same again; where more may be skipped, it is fine. Nothing is made
    # anew.
    before = digests(tmp_path / "run" / "repo")
    assert run_script(arguments(chosen), tmp_path).returncode == 3
    assert run_script(arguments(chosen | {"max_skipped": 0.2}), tmp_path).returncode == 0
    assert digests(tmp_path / "run" / "repo") == before


@pytest.mark.slow
def test_too_many_skipped_rows_are_reported_once_by_two_processes(mixing, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows]
    images[3] = b""
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows])
    output = tmp_path / "run"
    done = launch(
        [
            SCRIPT,
            *arguments(mixing | {"dataset_name": data, "output_dir": output, "rows_per_shard": 4}),
        ],
        2,
    )
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert "1 of 24 rows" in line
    report = json.loads((output / "state" / "error.json").read_text())
    assert report["exit_code"] == 3 and f"sgdmix_hub: {report['message']}" == line
    assert len(published_rows(output)) == ROWS - 1


@pytest.mark.slow
def test_more_may_be_skipped_where_the_user_says_so(mixing, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows]
    images[0] = b"no image at all"
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows])
    ended = run_script(
        arguments(
            mixing | {"dataset_name": data, "output_dir": tmp_path / "run", "max_skipped": 0.2}
        ),
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert [record["source_index"] for record in manifest_of(tmp_path / "run")["skipped"]] == [0]
    assert len(published_rows(tmp_path / "run")) == ROWS - 1


@pytest.mark.slow
def test_class_with_one_image_and_more_candidates_than_images(mixing, source_rows, tmp_path):
    images, labels = [row["image"]["bytes"] for row in source_rows[:6]], [0, 1, 1, 1, 1, 1]
    data = write_dataset(tmp_path / "data", images, labels)
    chosen = mixing | {
        "dataset_name": data,
        "output_dir": tmp_path / "run",
        "target_classes": "other",
        "num_variants": 2,
    }
    ended = run_script(arguments(chosen), tmp_path)
    assert ended.returncode == 0, ended.stderr
    # Rows of class 1 have one candidate, the row of class 0.
    assert "warning: num_candidates 50 is more than the 1 candidates" in ended.stdout
    rows = published_rows(tmp_path / "run")
    assert len(rows) == 12 and all(row["target_label"] != row["label"] for row in rows)
    alone = [row["target_index"] for row in rows if row["source_index"] == 0]
    assert len(set(alone)) == 2


@pytest.mark.slow
def test_no_candidate_anywhere_is_one_line_and_no_dataset(mixing, source_rows, tmp_path):
    data = write_dataset(
        tmp_path / "data", [row["image"]["bytes"] for row in source_rows[:3]], [0, 0, 0]
    )
    chosen = mixing | {
        "dataset_name": data,
        "output_dir": tmp_path / "run",
        "target_classes": "other",
        "max_skipped": 1,
    }
    one_line(
        run_script(arguments(chosen | {"dry_run": True}), tmp_path),
        "not one row could be made (3 x no candidate)",
    )
    one_line(
        run_script(arguments(chosen), tmp_path),
        "not one of 3 rows could be made (3 x no candidate)",
    )
    assert not (tmp_path / "run" / "repo").exists()


@pytest.mark.slow
def test_blank_images_are_skipped_and_never_targets(mixing, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows[:8]]
    blank = {2: 128, 5: 0, 7: 255}
    for row, grey in blank.items():
        images[row] = png(Image.new("RGB", (32, 32), (grey, grey, grey)))
    data = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows[:8]])
    ended = run_script(
        arguments(
            mixing | {"dataset_name": data, "output_dir": tmp_path / "run", "max_skipped": 1}
        ),
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert {(r["source_index"], r["reason"]) for r in manifest_of(tmp_path / "run")["skipped"]} == {
        (row, "blank saliency map") for row in blank
    }
    assert not blank.keys() & {row["target_index"] for row in published_rows(tmp_path / "run")}


# ---- inputs that do not belong together ----
