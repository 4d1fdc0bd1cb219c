"""The page as a Space: files that start it, pushed by the code that pushes everything else."""

import ast

import pytest
import yaml
from browsers import needed
from loopback_hub import run_python

from sgdmix_hub._version import __version__
from sgdmix_hub.errors import UserError
from sgdmix_hub.studio.space import write_space

needed()

PUSH = """
from sgdmix_hub.open_studio import push_space
from sgdmix_hub.settings.studio import StudioSettings

settings = StudioSettings(published=["birds/cub@v1.0.0"], push_space="birds/look")
push_space(settings, settings.push_space)
"""


def test_the_files_name_the_versions_and_hold_no_code_of_others(tmp_path):
    names = ["org/a'b\"@v1.0.0", "org/b@v2"]
    write_space(tmp_path, names, "default")
    card = (tmp_path / "README.md").read_text().split("---\n")[1]
    facts = yaml.safe_load(card)
    assert (facts["sdk"], facts["app_file"]) == ("gradio", "app.py")
    assert facts["datasets"] == ["org/a'b\"", "org/b"]
    assert (tmp_path / "requirements.txt").read_text() == f"sgdmix_hub[studio]=={__version__}\n"
    tree = ast.parse((tmp_path / "app.py").read_text())
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [ast.literal_eval(argument) for argument in call.args] == [names, "default"]


@pytest.mark.parametrize("name", ["org/a", "a@v1", "x/y/z@v1"])
def test_what_the_hub_cannot_have_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="not a published version"):
        write_space(tmp_path, [name], "default")


@pytest.mark.slow
def test_the_space_is_created_and_pushed(hub):
    ended = run_python(hub, PUSH)
    assert ended.returncode == 0, ended.stderr
    print(hub.calls)
    assert {"app.py", "requirements.txt", "README.md"} <= set(hub.content("space", "birds/look"))
