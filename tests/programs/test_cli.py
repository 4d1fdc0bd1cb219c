"""`sgdmix`, the one command: what it starts, how fast it answers, and what ships with it."""

import contextlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from forking import run_forked
from generations import arguments
from launching import ROOT, launch_environment

from sgdmix_hub import cli
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.shipped import (
    ACCELERATE_CONFIGS,
    RECIPES,
    accelerate_config,
    recipe_folder,
)

HEAVY = ("torch", "datasets", "diffusers", "cv2", "accelerate", "matplotlib")
LIBRARIES = ("numpy", "yaml", "huggingface_hub", "transformers", *HEAVY)
ANSWER = """
import sys
from sgdmix_hub import cli

try:
    cli.main(sys.argv[1:])
finally:
    print("loaded:", *(name for name in {heavy} if name in sys.modules))
"""


def answer(*words: str, heavy=HEAVY) -> subprocess.CompletedProcess:
    """What `sgdmix WORDS` says, and which heavy libraries it loaded to say it."""
    code = ANSWER.format(heavy=heavy)
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=launch_environment(),
    )


def test_the_help_names_every_program(capsys):
    cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in (*cli.PROGRAMS, *cli.OTHERS))
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize("name", cli.OTHERS)
def test_the_other_programs_print_their_usage(name, capsys):
    with contextlib.suppress(SystemExit):  # argparse exits
        cli.main([name, "--help"])
    assert f"usage: sgdmix {name}" in capsys.readouterr().out


def test_the_list_of_programs_loads_no_library_at_all():
    assert answer("--help", heavy=LIBRARIES).stdout.endswith("loaded:\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", cli.PROGRAMS)
def test_a_programs_help_loads_no_heavy_library(name):
    done = answer(name, "--help")
    assert done.returncode == 0 and f"usage: sgdmix {name}" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["agument"], "no program 'agument'"),
        (
            ["augment", "--dataset_name", "a/b", "--output_dir", "out", "--strenght", "1"],
            "no such setting: --strenght",
        ),
        (["augment", "--accelerate", "gpu9"], "no accelerate configuration 'gpu9'"),
        (["augment", "--accelerate"], "--accelerate needs a value"),
        (["augment", "--num_processes", "2"], "give --accelerate too"),
        (
            [
                "run",
                "--recipe",
                "cub",
                "--dataset_name",
                "a/b",
                "--metaclass",
                "bird",
                "--output_dir",
                "out",
            ],
            "no recipe 'cub'",
        ),
        (["env", "--all"], "takes no settings"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, said, tmp_path):
    words = [str(tmp_path / word) if word == "out" else word for word in words]
    done = run_forked(["-m", "sgdmix_hub.cli", *words], launch_environment())
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("sgdmix_hub: ") and said in line


def test_more_processes_than_gpus_are_refused_before_they_start(monkeypatch):
    nodes, gpu8 = (str(accelerate_config(name)) for name in ("nodes", "gpu8"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="starts 8 processes on a machine with 0 GPUs"):
        cli.check_gpus(gpu8, [])
    cli.check_gpus(str(accelerate_config("cpu2")), [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match="add --num_processes 4"):
        cli.check_gpus(nodes, [])
    for name, options in ((gpu8, ["--num_processes", "4"]), (nodes, ["--num_processes", "8"])):
        cli.check_gpus(name, options)


def test_launch_options_are_taken_out_of_the_programs_settings():
    words = [
        "--seed",
        "1",
        "--accelerate=gpu8",
        "--num_processes",
        "4",
        "--strength",
        "0.3",
        "0.5",
        "--machine_rank=1",
    ]
    config = str(ACCELERATE_CONFIGS / "gpu8.yaml")
    options = ["--num_processes", "4", "--machine_rank", "1"]
    assert cli.take_launch_options(words) == (
        config,
        options,
        ["--seed", "1", "--strength", "0.3", "0.5"],
    )


def test_launch_settings_may_be_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("num_processes: 1\n")
    assert accelerate_config(str(file)) == file


def test_recipes_are_found_by_their_names_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_folder("cub-sgdmix") == RECIPES / "cub-sgdmix"
    settings = parse_settings(AugmentSettings, ["--config", "cub-sgdmix/generate.yaml"])
    assert settings.card == str(RECIPES / "cub-sgdmix" / "card.md")
    with pytest.raises(UserError, match="no such file"):
        parse_settings(AugmentSettings, ["--config", "cub-sgdmix/../../cli.py"])


def test_a_folder_of_ones_own_comes_before_a_recipe_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cub-sgdmix").mkdir()
    assert recipe_folder("cub-sgdmix") == Path("cub-sgdmix")


@pytest.mark.slow
def test_it_starts_the_processes_of_its_launch_settings(birds, tmp_path, monkeypatch):
    """The command that it becomes, run in forks."""
    became = []
    monkeypatch.setattr(os, "execv", lambda program, command: became.append((program, command)))
    monkeypatch.setattr(sys, "argv", ["sgdmix"])
    settings = {
        "dataset_name": birds,
        "output_dir": tmp_path / "out",
        "strength": 0,
        "preset": "paper",
        "saliency_method": "spectral-residual",
        "resolution": 32,
    }
    cli.main(["augment", "--accelerate", "cpu2", *arguments(settings)])
    ((program, command),) = became
    assert program == command[0] == sys.executable
    environment = launch_environment({"PYTHONPATH": str(ROOT)})
    done = run_forked(command[1:], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "repo" / "README.md").is_file()


@pytest.mark.slow
def test_the_wheel_holds_recipes_launch_settings_templates_and_the_demos_models(tmp_path):
    shutil.copytree(
        ROOT / "sgdmix_hub", tmp_path / "sgdmix_hub", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [
        path
        for folder in (RECIPES, ACCELERATE_CONFIGS)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert {path.relative_to(ROOT).as_posix() for path in shipped} <= names
    assert "sgdmix_hub/py.typed" in names
    assert "sgdmix_hub/demo/tiny_base/model_index.json" in names
    assert "sgdmix_hub/templates/dataset_card.md" in names
