"""The page as a Space: files that start it, pushed by the code that pushes everything else."""

import ast
import contextlib
import signal
import socket
import time
from importlib.metadata import requires, version

import pytest
import yaml
from browsers import Visit, needed
from forking import Started
from launching import launch_environment
from loopback_hub import hub_environment, run_python
from packaging.requirements import Requirement

from sgdmix_hub._version import __version__
from sgdmix_hub.errors import UserError
from sgdmix_hub.studio.space import write_space

needed()

PUSH = """
import sys

from sgdmix_hub.open_studio import push_space
from sgdmix_hub.settings.studio import StudioSettings

settings = StudioSettings(published=sys.argv[2:], push_space=sys.argv[1])
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


@contextlib.contextmanager
def started(folder, hub):
    """The address of a Space's app.py, run as a Space runs it: alone in its folder, with the files
    of its repository, and the Hub's address.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = launch_environment(
        hub_environment(hub)
        | {"SYSTEM": "spaces", "SPACE_ID": "birds/look", "GRADIO_SERVER_PORT": str(port)}
    )
    app = Started(["app.py"], environment, cwd=folder)
    while "studio: http" not in app.stdout_so_far():
        assert app.poll() is None, app.communicate()
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        app.send_signal(signal.SIGTERM)
        _, said = app.communicate(timeout=60)
    assert app.returncode == -signal.SIGTERM
    # Gradio misses a package for reloading that every Space has; nothing of ours may fail
    assert "sgdmix_hub/" not in said


@pytest.mark.slow
def test_the_pushed_app_shows_the_published_rows(
    publisher, repo_id, first_version, chromium, tmp_path
):
    hub, name = publisher.hub, f"{repo_id}@v1.0.0"
    publisher.published(first_version, repo_id)
    ended = run_python(hub, PUSH, "birds/look", name)
    assert ended.returncode == 0, ended.stderr
    files = hub.content("space", "birds/look")
    for path in ("app.py", "requirements.txt", "README.md"):
        (tmp_path / path).write_bytes(files[path])
    (wanted,) = map(Requirement, files["requirements.txt"].decode().split())
    assert (wanted.name, wanted.extras) == ("sgdmix_hub", {"studio"})
    assert wanted.specifier.contains(__version__, prereleases=True)
    extra = [line for line in requires("sgdmix_hub") if 'extra == "studio"' in line]
    for needs in map(Requirement, extra):
        assert needs.specifier.contains(version(needs.name))
    with started(tmp_path, hub) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("12 of 12 rows; page 1 of 2").wait_for()
        assert len(visit.titles()) == len(visit.pictures("mixed")) == 8
        assert any("<script>" in title for title in visit.titles())
        visit.until(lambda: len(visit.boxes()) == 8)
        for place in (0, 1, 2):
            visit.page.get_by_label("Mark source").nth(place).check()
        visit.page.get_by_text("Rows marked as bad: 3").wait_for()
        listed = visit.page.locator("#marked-rows textarea").input_value()
        assert len(listed.split()) == 4
        with Visit(chromium, address) as other:
            other.page.get_by_text("12 of 12 rows; page 1 of 2").wait_for()
            assert not any(is_ticked for _, is_ticked in other.boxes())
        assert visit.hindrances() == []
        assert (visit.dialogs, visit.errors) == ([], [])
        # In a Space, Gradio's own scripts ask for two fonts, which the policy does not allow.
        assert all(url.startswith("https://fonts.googleapis.com/") for url in visit.elsewhere())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "app.py",
        "requirements.txt",
    ]
