"""Every example runs as its docstring says."""

import subprocess
import sys

import pytest
from forking import run_forked
from generations import arguments
from launching import ROOT, launch_environment
from PIL import Image

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings


def run_example(name, *words, cwd):
    environment = launch_environment({"PYTHONPATH": str(ROOT)})
    done = run_forked([ROOT / "examples" / name, *words], environment, cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def published(few_birds, tmp_path_factory):
    """The output folder of a generation at S = 0."""
    folder = tmp_path_factory.mktemp("examples") / "out"
    words = arguments(
        {
            "dataset_name": few_birds,
            "output_dir": folder,
            "strength": 0,
            "preset": "paper",
            "saliency_method": "spectral-residual",
            "resolution": 32,
        }
    )
    augment.main(parse_settings(AugmentSettings, words))
    return folder


@pytest.mark.slow
def test_quickstart(few_birds, tmp_path):
    from datasets import load_dataset

    for number in (0, 4):
        load_dataset(str(few_birds), split="train")[number]["image"].save(
            tmp_path / f"{number}.png"
        )
    run_example("quickstart.py", "0.png", "4.png", "out.png", cwd=tmp_path)
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (512, 512)


@pytest.mark.slow
def test_map_a_split(few_birds, tmp_path):
    assert "8 real and 16 synthetic images" in run_example(
        "map_a_split.py", few_birds, "both", cwd=tmp_path
    )


@pytest.mark.slow
def test_mix_on_the_fly(few_birds, tmp_path):
    said = run_example("mix_on_the_fly.py", few_birds, "prepared", cwd=tmp_path)
    assert said.count("of 8 mixed") == 2
    assert list((tmp_path / "prepared").glob("images-*/values.npy"))


@pytest.mark.slow
def test_train_on_published(few_birds, published, tmp_path):
    said = run_example("train_on_published.py", few_birds, published / "repo", cwd=tmp_path)
    assert said.count("loss") == 2


@pytest.mark.soak
def test_ray_data(few_birds, tmp_path):
    """Started anew: Ray's workers look at how their driver was started."""
    pytest.importorskip("ray", reason="needs Ray")
    command = [sys.executable, str(ROOT / "examples" / "ray_data.py"), str(few_birds), "both"]
    environment = launch_environment({"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"})
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "16 synthetic images of 8 real ones" in done.stdout, done


def test_every_example_has_a_test():
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert examples == tested - {"every_example_has_a_test"}
