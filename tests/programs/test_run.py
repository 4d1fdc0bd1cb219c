"""All stages in a row, as a user launches them: what they leave, what they say, and what a second
launch does.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from forking import Ended, run_forked
from launching import launch, launch_environment
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from sgdmix_hub.errors import UserError
from sgdmix_hub.figures.panels import PANEL
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.run import all_stages
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.programs import RunSettings

RECIPE = {
    "adapter.yaml": {
        "rank": 4,
        "lora_alpha": 8,
        "num_train_samples": 8,
        "total_batch_size": 4,
        "num_inference_steps": 4,
        "num_judged_images": 1,
    },
    "generate.yaml": {
        "preset": "paper",
        "strength": 0.5,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "num_variants": 2,
        "rows_per_shard": 4,
        "batch_size": 4,
        # Grad-CAM finds nothing in some images where a classifier has learned next to nothing.
        "max_skipped": 0.9,
    },
}
ROOT = Path(__file__).parents[2]
STAGES = ("classifier", "adapter", "repo", "downstream")


def write_recipe(folder: Path, model: Path, **changes: dict) -> Path:
    """A recipe folder whose classifiers are made like `model`; `changes` by file, without its
    ending, are put over it.
    """
    trained = {
        "model": str(model),
        "from_scratch": True,
        "eval_split": "test",
        "num_train_epochs": 1,
        "synthetic_probability": 0.5,
    }
    folder.mkdir(parents=True)
    for name, values in ({"classifier.yaml": trained} | RECIPE).items():
        (folder / name).write_text(
            yaml.safe_dump(values | changes.get(name.removesuffix(".yaml"), {}))
        )
    (folder / "card.md").write_text("Prose of this very recipe.\n")
    return folder


def run_arguments(birds: Path, tiny_base: Path, recipe: Path, output: Path) -> list[str]:
    return [
        "scripts/run.py",
        f"--dataset_name={birds}",
        f"--pretrained_model_name_or_path={tiny_base}",
        f"--recipe={recipe}",
        f"--output_dir={output}",
        "--metaclass=bird",
        "--resolution=32",
        "--license=apache-2.0",
    ]


def run_script(args: list[str]) -> Ended:
    """The script without a launcher: one process, with its true exit code."""
    return run_forked(args, launch_environment())


def stage_files(output: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """By stage, the modification time and size of every file it left."""
    return {
        stage: {
            path.relative_to(output).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in (output / stage).rglob("*")
            if path.is_file()
        }
        for stage in STAGES
    }


@pytest.fixture(scope="module")
def whole_run(few_birds, tiny_base, classifier, tmp_path_factory):
    """Arguments, output folder and result of one run in two processes."""
    folder = tmp_path_factory.mktemp("run")
    args = run_arguments(
        few_birds,
        tiny_base,
        write_recipe(folder / "recipe", classifier),
        folder / "outputs" / "run",
    )
    done = launch(args, 2)
    assert done.returncode == 0, done.stderr
    return args, folder / "outputs" / "run", done


@pytest.mark.slow
def test_run_ends_with_what_there_is_and_how_to_use_it(whole_run, tmp_path):
    _, output, done = whole_run
    ((folder, images, skipped),) = re.findall(
        r"^Augmented dataset +(\S+)  \((\d+) images, (\d+) skipped\)$", done.stdout, re.MULTILINE
    )
    assert Path(folder) == output / "repo"
    assert int(images) > 0 and int(images) + int(skipped) == 16
    (line,) = re.findall(r"^Load it +(.+)$", done.stdout, re.MULTILINE)
    program = (
        f"from datasets import load_dataset; dataset = {line}; "
        "print(len(dataset), dataset[0]['image'].size)"
    )
    environment = launch_environment({"HF_HOME": str(tmp_path / "home")})
    loaded = run_forked(["-c", program], environment, tmp_path)
    assert loaded.returncode == 0 and loaded.stdout.splitlines()[-1] == f"{images} (32, 32)", loaded
    (picture,) = re.findall(r"^See it +(.+)$", done.stdout, re.MULTILINE)
    with Image.open(picture) as sheet:
        sheet.load()
        assert sheet.width > 6 * PANEL and sheet.height > PANEL  # one row of seven pictures
    ((split, real, augmented),) = re.findall(
        r"^Accuracy on (\w+) +real images only ([\d.]+), with SGD-Mix ([\d.]+)",
        done.stdout,
        re.MULTILINE,
    )
    assert split == "test"
    for name, said in (("classifier", real), ("downstream", augmented)):
        facts = json.loads((output / name / "classifier.json").read_text())
        assert f"{facts['metrics']['accuracy']:.3f}" == said


@pytest.mark.slow
def test_every_line_is_said_once_however_many_processes(whole_run):
    _, _, done = whole_run
    for number in range(1, 5):
        assert len(re.findall(rf"^{number}/4 ", done.stdout, re.MULTILINE)) == 1
    assert done.stdout.count("Augmented dataset") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_stages_are_linked_and_the_recipe_reaches_them(whole_run):
    _, output, _ = whole_run
    adapter = json.loads((output / "adapter" / "adapter.json").read_text())
    assert adapter["metaclass"] == "bird"
    assert adapter["settings"]["rank"] == 4
    assert adapter["settings"]["resolution"] == 32
    config = yaml.safe_load((output / "repo" / "sgdmix" / "default" / "config.yaml").read_text())
    assert (config["strength"], config["num_variants"], config["num_candidates"]) == (0.5, 2, 50)
    assert config["classifier"].startswith("classifier@")
    assert config["adapter"].startswith("adapter@")
    card = (output / "repo" / "README.md").read_text()
    assert "Prose of this very recipe." in card and "license: apache-2.0" in card
    real, downstream = (
        json.loads((output / name / "classifier.json").read_text())
        for name in ("classifier", "downstream")
    )
    assert real["synthetic"] is None and downstream["synthetic"].startswith("repo@")
    different = {
        name for name in real["settings"] if real["settings"][name] != downstream["settings"][name]
    }
    assert not different
    assert real["subset"] == downstream["subset"] == adapter["subset"]


@pytest.mark.slow
def test_classifiers_of_two_processes_are_what_transformers_loads(whole_run, class_names):
    _, output, _ = whole_run
    for name in ("classifier", "downstream"):
        model = AutoModelForImageClassification.from_pretrained(output / name, use_safetensors=True)
        assert [model.config.id2label[label] for label in range(len(class_names))] == class_names
        assert model.config.label2id == {
            class_name: label for label, class_name in enumerate(class_names)
        }
        assert AutoImageProcessor.from_pretrained(output / name).size["height"] == 64
        assert (
            json.loads((output / name / "classifier.json").read_text())["class_names"]
            == class_names
        )
    assert not [path for path in output.iterdir() if path.name.endswith(".working")]


@pytest.mark.slow
def test_second_launch_makes_nothing_and_a_removed_stage_alone_is_made_again(whole_run, tmp_path):
    args, finished, _ = whole_run
    output = shutil.copytree(finished, tmp_path / "run")
    args = [f"--output_dir={output}" if word.startswith("--output_dir=") else word for word in args]
    before = stage_files(output)
    model_files = {name for name in before["downstream"] if "/state/" not in name}
    again = run_script(args)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is complete, nothing to ") == 4
    assert stage_files(output) == before
    shutil.rmtree(output / "downstream")
    partly = run_script(args)
    assert partly.returncode == 0, partly.stderr
    assert partly.stdout.count("is complete, nothing to ") == 3
    after = stage_files(output)
    # the state of another number of processes is in other files
    assert {name for name in after["downstream"] if "/state/" not in name} == model_files
    assert all(after[stage] == before[stage] for stage in STAGES if stage != "downstream")


@pytest.mark.slow
def test_what_a_run_made_is_published_to_a_hub_on_this_machine_and_comes_back(whole_run, tmp_path):
    """`make demo-hub`, at this size. The run's own files stay as they are."""
    args, finished, _ = whole_run
    output = shutil.copytree(finished, tmp_path / "run")
    run = dict(word.removeprefix("--").split("=") for word in args[1:]) | {
        "output_dir": str(output),
        "segmenter": str(ROOT / "sgdmix_hub" / "demo" / "tiny_segmenter"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    (output / "hub" / "adapter").mkdir(parents=True)  # as an earlier launch leaves it
    before = stage_files(output)
    done = run_script(["-m", "sgdmix_hub.demo.publish_birds", f"--config={tmp_path / 'run.yaml'}"])
    assert done.returncode == 0, done.stderr
    printed = ".*".join(
        [
            "  pushed as birds/demo-classifier@",
            "  pushed as birds/demo-adapter@",
            "  published as birds/demo-birds-sgdmix@v1.0.0",
            r"  v1.0.0: \d+ rows, S = 0.5, ",
            "  v1.1.0: 16 rows, S = 0.0, ",
            "  v1.1.0 made again: the same plan and the same 4 shards",
        ]
    )
    assert re.search(printed, done.stdout, re.DOTALL), done.stdout
    assert (
        "holds data/train-00000-of-00004.parquet (4 of them), .gitattributes, README.md"
        in done.stdout
    )
    assert "hf_" not in done.stdout + done.stderr
    assert stage_files(output) == before


@pytest.mark.slow
def test_a_run_that_is_not_there_is_not_published(tmp_path):
    (tmp_path / "run.yaml").write_text(f"output_dir: {tmp_path / 'run'}\n")
    done = run_script(["-m", "sgdmix_hub.demo.publish_birds", f"--config={tmp_path / 'run.yaml'}"])
    assert done.returncode == 2
    assert done.stderr == (
        f"publish_birds: {tmp_path}/run/classifier/classifier.json is missing: "
        "run `make demo` first\n"
    )


@pytest.mark.slow
def test_bad_value_for_the_last_stage_stops_before_the_first(
    birds, tiny_base, classifier, tmp_path
):
    recipe = write_recipe(tmp_path / "recipe", classifier)
    (recipe / "downstream.yaml").write_text("synthetic_probability: 1.5\n")
    done = run_script(run_arguments(birds, tiny_base, recipe, tmp_path / "run"))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("sgdmix_hub: ")]
    assert "downstream" in line and "synthetic_probability" in line
    assert "1/4" not in done.stdout
    assert not any((tmp_path / "run" / made).exists() for made in STAGES)


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("classifier", {"learning_rate": -1}),
        ("adapter", {"num_train_samples": 0}),
        ("generate", {"strength": 1.5}),
        ("generate", {"strenght": 0.5}),
    ],
)
def test_bad_value_in_a_recipe_names_its_stage(file, wrong, birds, tiny_base, classifier, tmp_path):
    recipe = write_recipe(tmp_path / "recipe", classifier, **{file: wrong})
    settings = parse_settings(
        RunSettings, run_arguments(birds, tiny_base, recipe, tmp_path / "run")[1:]
    )
    (name,) = wrong
    with pytest.raises(UserError, match=rf"{file}.*{name}"):
        all_stages(settings)


def test_the_mixtures_for_bootstrapped_saliency_are_of_the_recipes_own_rows(tmp_path):
    """A recipe that names split, columns and subset: all stages work on the same rows."""
    data = (
        "label_column: species\ndataset_split: validation\nimbalance_factor: 0.5\nsubset_seed: 3\n"
    )
    for name in ("classifier", "adapter", "generate"):
        extra = (
            "adapter: a/b\nclassifier: c/d\n"
            if name == "generate"
            else "model: e/f\n"
            if name == "classifier"
            else "metaclass: bird\n"
        )
        (tmp_path / f"{name}.yaml").write_text(data + extra)
    args = {
        "dataset_name": "org/birds",
        "output_dir": str(tmp_path / "run"),
        "metaclass": "bird",
        "recipe": str(tmp_path),
    }
    stages = all_stages(RunSettings(**args, bootstrap_saliency=True))
    assert len(stages) == 6
    for stage in stages:
        chosen = [
            getattr(stage.settings, name)
            for name in ("label_column", "dataset_split", "imbalance_factor", "subset_seed")
        ]
        assert chosen == ["species", "validation", 0.5, 3], stage.title


@pytest.mark.slow
def test_bootstrapped_saliency_reads_a_classifier_that_was_trained_on_model_free_mixtures(
    few_birds, tiny_base, classifier, tmp_path
):
    args = run_arguments(
        few_birds,
        tiny_base,
        write_recipe(tmp_path / "recipe", classifier, generate={"strength": 0}),
        tmp_path / "run",
    )
    done = run_script([*args, "--bootstrap_saliency=true"])
    assert done.returncode == 0, done.stderr
    stages = re.findall(r"^(\d/\d) ", done.stdout, re.MULTILINE)
    assert stages == [f"{n}/6" for n in range(1, 7)]
    bootstrap = tmp_path / "run" / "bootstrap"
    mixtures = json.loads((bootstrap / "repo" / "sgdmix" / "default" / "manifest.json").read_text())
    assert mixtures["saliency"] == {"method": "minimum-barrier", "trust": None, "unmixed": 0}
    assert mixtures["rows"] == 4 * 8
    retrained = json.loads((bootstrap / "classifier" / "classifier.json").read_text())
    assert retrained["synthetic"] == str(resolve(str(bootstrap / "repo"), "dataset"))
    assert retrained["settings"]["synthetic_probability"] == 0.5
    generated = json.loads(
        (tmp_path / "run" / "repo" / "sgdmix" / "default" / "manifest.json").read_text()
    )
    assert generated["saliency"]["method"] == "grad-cam"
    assert generated["pins"]["classifier"] == str(resolve(str(bootstrap / "classifier")))
    config = yaml.safe_load(
        (tmp_path / "run" / "repo" / "sgdmix" / "default" / "config.yaml").read_text()
    )
    assert config["mask_refinement"] == "grabcut" and config["preset"] == "paper"
