"""The programs that publish: whole commands, from the generation to what a colleague loads."""

import json

import pytest
from generations import SCRIPT, arguments, one_line, published_rows, run_script
from launching import launch
from loopback_hub import READ_TOKEN, WRITE_TOKEN, hub_environment, loopback_hub, run_python
from published_versions import history

from sgdmix_hub.errors import UserError
from sgdmix_hub.publishing.versions import publish_version
from sgdmix_hub.settings.programs import PublishSettings

STRENGTHS = """
import json, sys
from sgdmix_hub import load_published

found = []
for version in ("v1.0.0", "v1.1.0"):
    rows = load_published(f"birds/refined@{version}").dataset.remove_columns("image")
    found.append(
        [[row["source_index"], row["strength"], row["effective_strength"]] for row in rows]
    )
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_program_publishes_and_ends_with_the_exit_codes_of_all_programs(
    first_version, tmp_path
):
    with loopback_hub() as hub:
        words = ["--folder", first_version, "--hub_dataset_id", "birds/x", "--tag", "v1.0.0"]
        code = (
            "import runpy, sys; sys.argv[0] = 'publish_dataset.py'; "
            "runpy.run_path('scripts/publish_dataset.py', run_name='__main__')"
        )
        done = run_python(hub, code, *words, "--allow_local_inputs")
        assert done.returncode == 0, done.stderr
        assert (
            f"published as birds/x@v1.0.0, commit {history(hub, 'birds/x')[0].oid}" in done.stdout
        )
        refused = run_python(hub, code, *words)
        assert refused.returncode == 2
        assert refused.stderr.startswith("sgdmix_hub: made from local folders")
        files = [
            path
            for folder in (hub.home, first_version)
            for path in folder.rglob("*")
            if path.is_file()
        ]
        assert not [path for path in files if WRITE_TOKEN.encode() in path.read_bytes()]
        assert not any(
            WRITE_TOKEN.encode() in content
            for content in hub.content("dataset", "birds/x").values()
        )


@pytest.mark.slow
def test_a_wrong_token_leaves_no_trace(evil_source, tmp_path):
    """Neither in what is printed nor in a file: logs, the report of the failure, caches."""
    token = "hf_wrongandsecret"
    words = {
        "dataset_name": evil_source,
        "saliency_method": "spectral-residual",
        "strength": 0,
        "resolution": 32,
        "license": "mit",
    }
    words |= {
        "output_dir": tmp_path / "run",
        "hub_dataset_id": "birds/x",
        "tag": "v1.0.0",
        "push_to_hub": True,
    }
    code = (
        "import runpy, sys; sys.argv[0] = 'augment_dataset.py'; "
        "runpy.run_path('scripts/augment_dataset.py', run_name='__main__')"
    )
    with loopback_hub() as hub:
        # `run_python` asserts that the token was not printed.
        refused = run_python(hub, code, *arguments(words), token=token)
        assert refused.returncode == 2 and not hub.repositories
        assert "does not know the token" in refused.stderr
        assert "does not know the token" in (tmp_path / "run" / "state" / "error.json").read_text()
        files = [
            path for folder in (hub.home, tmp_path) for path in folder.rglob("*") if path.is_file()
        ]
        assert files and not [path for path in files if token.encode() in path.read_bytes()]


def test_offline_mode_is_named(first_version):
    """The tests' own process is offline."""
    settings = PublishSettings(
        folder=str(first_version), hub_dataset_id="birds/x", tag="v1.0.0", allow_local_inputs=True
    )
    with pytest.raises(UserError, match="unset HF_HUB_OFFLINE"):
        publish_version(first_version, settings, 0.01, WRITE_TOKEN)


@pytest.mark.slow
def test_the_program_is_strict(tmp_path):
    script = "scripts/publish_dataset.py"
    one_line(
        run_script(["--folder=x", "--hub_dataset_id=birds/x"], tmp_path / "logs", script), "--tag"
    )
    one_line(
        run_script(["--folder=x", "--hub_dataset=birds/x"], tmp_path / "logs", script), "--help"
    )


@pytest.mark.slow
def test_versions_with_another_strength_are_published_by_launches_of_two_processes(
    birds, adapter, tiny_base, tmp_path
):
    """With the diffusion model and all; rank 0 publishes."""
    settings = {
        "dataset_name": birds,
        "examples_per_class": 2,
        "allow_other_subset": True,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "resolution": 32,
    }
    settings |= {
        "saliency_method": "spectral-residual",
        "num_inference_steps": 4,
        "guidance_scale": 1,
        "rows_per_shard": 2,
    }
    settings |= {
        "license": "mit",
        "push_to_hub": True,
        "hub_dataset_id": "birds/refined",
        "allow_local_inputs": True,
    }
    outputs = {}
    with loopback_hub() as hub:
        for tag, strength in {"v1.0.0": 0.5, "v1.1.0": 0.75}.items():
            outputs[tag] = tmp_path / tag
            words = arguments(
                settings | {"strength": strength, "tag": tag, "output_dir": outputs[tag]}
            )
            done = launch([SCRIPT, *words], 2, env=hub_environment(hub, WRITE_TOKEN))
            assert done.returncode == 0, done.stderr
            commit = history(hub, "birds/refined")[0].oid
            line = f"published as birds/refined@{tag}, commit {commit}"
            assert done.stdout.count(line) == 1
            assert WRITE_TOKEN not in done.stdout + done.stderr
        assert (
            "strength 0.5 → 0.75" in hub.content("dataset", "birds/refined")["README.md"].decode()
        )
        loaded = run_python(hub, STRENGTHS, token=READ_TOKEN)
        assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout)
    assert [{strength for _, strength, _ in rows} for rows in found] == [{0.5}, {0.75}]
    names = ("source_index", "strength", "effective_strength")
    assert found == [
        [[row[name] for name in names] for row in published_rows(output)]
        for output in outputs.values()
    ]
