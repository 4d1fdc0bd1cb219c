"""What is trained reaches the Hub: in one command, whole and alone, refused before the training or
not at all, and used from there.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forking import run_forked
from generations import arguments, manifest_of, one_line, published_rows, snapshot
from launching import launch, launch_environment
from loopback_hub import READ_TOKEN, WRITE_TOKEN, hub_environment, loopback_hub
from trainings import ADAPTER, CLASSIFIER, adapter_settings, run

from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.models.adapters import FACTS_FILE, LORA_FILE, TOKENS_FILE

ADAPTER_FILES = {
    "README.md",
    FACTS_FILE,
    LORA_FILE,
    TOKENS_FILE,
    "assets/loss.png",
    "assets/samples.png",
}
CLASSIFIER_FILES = {
    "README.md",
    CLASSIFIER_FACTS,
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "assets/loss.png",
}
REPOSITORIES = {ADAPTER: ("model", "birds/adapter"), CLASSIFIER: ("model", "birds/classifier")}
PUSH = {"push_to_hub": True, "license": "mit"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub():
    with loopback_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def commands(birds, tiny_base, classifier, tmp_path_factory):
    """By script, its arguments: what is pushed, and under which name. The classifier's repository
    is private.
    """
    folder = tmp_path_factory.mktemp("pushed")
    settings = {
        ADAPTER: adapter_settings(
            birds, tiny_base, folder / "adapter", num_train_samples=6, checkpointing_steps=2
        ),
        CLASSIFIER: {
            "dataset_name": birds,
            "model": classifier,
            "output_dir": folder / "classifier",
            "num_train_epochs": 1,
            "eval_split": "test",
            "total_batch_size": 8,
            "hub_private_repo": True,
        },
    }
    return {
        script: values | PUSH | {"hub_model_id": REPOSITORIES[script][1]}
        for script, values in settings.items()
    }


def launch_both(hub, commands):
    """Both scripts at once, under `accelerate launch`."""
    with ThreadPoolExecutor() as pool:
        started = {
            script: pool.submit(
                launch, [script, *arguments(values)], env=hub_environment(hub, WRITE_TOKEN)
            )
            for script, values in commands.items()
        }
    ended = {script: future.result() for script, future in started.items()}
    for done in ended.values():
        assert done.returncode == 0, done.stderr
        assert WRITE_TOKEN not in done.stdout + done.stderr
    return ended


@pytest.fixture(scope="module")
def pushed(hub, commands):
    """How the first launches ended."""
    return launch_both(hub, commands)


def commits(hub, script):
    return hub.repository(*REPOSITORIES[script]).history("main")


@pytest.mark.parametrize(
    ("script", "files"), [(ADAPTER, ADAPTER_FILES), (CLASSIFIER, CLASSIFIER_FILES)]
)
def test_exactly_the_models_files_are_pushed_in_one_commit(script, files, pushed, hub, commands):
    """No checkpoint, no optimizer, no log."""
    content = hub.content(*REPOSITORIES[script])
    content.pop(".gitattributes")
    folder = Path(commands[script]["output_dir"])
    assert content == {name: (folder / name).read_bytes() for name in files}
    head, first = commits(hub, script)
    assert head.parent == first.oid and "4 classes" in head.title
    assert f"pushed as {REPOSITORIES[script][1]}@{head.oid}" in pushed[script].stdout
    assert hub.repository(*REPOSITORIES[script]).private == (script == CLASSIFIER)
    assert "license: mit" in content["README.md"].decode()
    assert any((folder / "state" / "checkpoints").iterdir())


def test_the_same_commands_again_train_nothing_and_make_no_second_commit(pushed, hub, commands):
    before = {
        script: (snapshot(Path(commands[script]["output_dir"])), commits(hub, script))
        for script in commands
    }
    ended = launch_both(hub, commands)
    for script, done in ended.items():
        files, history = before[script]
        assert "nothing to train" in done.stdout
        assert commits(hub, script) == history and f"@{history[0].oid}" in done.stdout
        after = snapshot(Path(commands[script]["output_dir"]))
        assert {name: facts for name, facts in after.items() if name != "state/lock"} == {
            name: facts for name, facts in files.items() if name != "state/lock"
        }


def test_the_token_is_written_nowhere(pushed, hub, commands):
    folders = [hub.home, *(Path(values["output_dir"]) for values in commands.values())]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if WRITE_TOKEN.encode() in path.read_bytes()]
    contents = [
        content
        for repository in REPOSITORIES.values()
        for content in hub.content(*repository).values()
    ]
    assert not any(WRITE_TOKEN.encode() in content for content in contents)


def test_a_colleague_generates_with_what_was_pushed(
    pushed, hub, commands, birds, tiny_base, tmp_path
):
    """With a token that reads; the pins are the commits that `main` stood at."""
    settings = {
        "dataset_name": birds,
        "pretrained_model_name_or_path": tiny_base,
        "adapter": "birds/adapter@main",
        "preset": "paper",
        "classifier": "birds/classifier@main",
        "output_dir": tmp_path / "run",
        "strength": 0.5,
        "num_inference_steps": 2,
        "guidance_scale": 1.5,
        "resolution": 32,
        "num_candidates": 5,
        "max_skipped": 0.9,  # a classifier of one epoch finds nothing in some images
    }
    done = launch(
        ["scripts/augment_dataset.py", *arguments(settings)], env=hub_environment(hub, READ_TOKEN)
    )
    assert done.returncode == 0, done.stderr
    pins = manifest_of(tmp_path / "run")["pins"]
    assert pins["adapter"] == f"birds/adapter@{commits(hub, ADAPTER)[0].oid}"
    assert pins["classifier"] == f"birds/classifier@{commits(hub, CLASSIFIER)[0].oid}"
    rows = published_rows(tmp_path / "run")
    assert rows
    assert {row["prompt"] for row in rows} <= {
        f"a photo of a <class_{label}> bird" for label in range(4)
    }
    assert READ_TOKEN not in done.stdout + done.stderr


# ---- refused before anything is trained ----


def nothing_was_trained(output):
    left = (
        {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        if output.exists()
        else set()
    )
    return left <= {"state/lock", "state/error.json"}


@pytest.mark.parametrize("script", REPOSITORIES)
@pytest.mark.parametrize(
    ("missing", "named"), [("license", "--license"), ("hub_model_id", "--hub_model_id org/name")]
)
def test_a_push_without_a_licence_or_a_name_is_refused(script, missing, named, commands, tmp_path):
    """Without asking the Hub: the tests' own process is offline."""
    values = {name: value for name, value in commands[script].items() if name != missing} | {
        "output_dir": tmp_path / "out"
    }
    one_line(run(arguments(values), tmp_path / "logs", script), named)
    assert not (tmp_path / "out").exists()


def test_an_adapter_with_a_licence_that_its_base_forbids_is_refused_before_the_training(
    hub, commands, tiny_base, tmp_path
):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: openrail++\n---\n")
    values = commands[ADAPTER] | {
        "pretrained_model_name_or_path": base,
        "hub_model_id": "birds/forbidden",
        "output_dir": tmp_path / "out",
    }
    run_with_hub = launch_environment(hub_environment(hub, WRITE_TOKEN))
    ended = run_forked([ADAPTER, *arguments(values)], run_with_hub)
    one_line(ended, "license mit: the base's licence, openrail++, allows any use but those")
    assert "--allow_license" in ended.stderr
    assert "base model base: licence openrail++: any use but" in ended.stdout
    assert not (tmp_path / "out" / FACTS_FILE).exists()


def run_endless(hub, script, values, token):
    """Runs a script that would train for hours."""
    endless = {ADAPTER: {"num_train_samples": 10**7}, CLASSIFIER: {"num_train_epochs": 10**6}}[
        script
    ]
    return run_forked(
        [script, *arguments(values | endless)], launch_environment(hub_environment(hub, token))
    )


def test_a_token_that_may_not_write_is_refused_before_the_training(commands, tmp_path):
    with loopback_hub() as hub:
        outputs = {script: tmp_path / Path(script).stem for script in commands}
        for script in commands:
            values = commands[script] | {"output_dir": outputs[script]}
            ended = run_endless(hub, script, values, READ_TOKEN)
            errors = ended.stderr
            (line,) = [line for line in errors.splitlines() if line.startswith("sgdmix_hub: ")]
            assert ended.returncode == 2 and "may not write to birds/" in line
            error = json.loads((outputs[script] / "state" / "error.json").read_text())
            assert error["exit_code"] == 2 and error["message"] in line
            assert nothing_was_trained(outputs[script]) and READ_TOKEN not in errors
        assert not hub.repositories
