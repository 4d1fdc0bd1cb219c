"""Folders pushed by the real client to the loopback Hub: whole in one commit, or a line that says
what to do.
"""

import json
import socket
from pathlib import Path

import pytest
from loopback_hub import READ_TOKEN, STRANGER_TOKEN, WRITE_TOKEN, run_python

from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.push import check_can_push, push_folder

REPO = ("model", "birds/adapter")
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# An adapter\n",
    "adapter.json": b'{"format": 1}\n',
    "samples/state/grid.png": bytes(range(256)) * 8,
    "samples/empty.txt": b"",
    "weights.safetensors": bytes(range(255, -1, -1)) * 4000,
}
UNPUBLISHED = {
    "state/checkpoint-2/optimizer.bin": b"\0secret",
    "state/error.json": b"{}",
    ".env": b"secret",
    "samples/.cache/x": b"x",
}

PUSH = """
import json, sys, time

sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 50)  # the client waits 23 seconds between six tries
from sgdmix_hub.hub import client as hub_client
from sgdmix_hub.errors import UserError
from sgdmix_hub.hub.push import check_can_push, push_folder

hub_client.WAITS = (0.1, 0.1)  # what ends after 15 seconds ends sooner
try:
    print(json.dumps(str(push_folder(sys.argv[1], "birds/adapter", **json.loads(sys.argv[2])))))
except UserError as error:
    sys.exit(f"user error: {error}")
"""
CHECK = PUSH.replace("push_folder(sys.argv[1], ", "check_can_push(")


@pytest.fixture
def folder(tmp_path):
    for name, content in (FILES | UNPUBLISHED).items():
        (tmp_path / "adapter" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "adapter" / name).write_bytes(content)
    (tmp_path / "elsewhere.txt").write_text("not in the folder")
    (tmp_path / "adapter" / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    return tmp_path / "adapter"


def push(hub, folder, code=PUSH, token=WRITE_TOKEN, environment=None, **arguments) -> str:
    """Pushes in a subprocess; gives the pin as a text. Fails the test when the push does."""
    finished = run_python(
        hub, code, folder, json.dumps(arguments), token=token, **(environment or {})
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def refused(hub, folder, code=PUSH, token=WRITE_TOKEN, environment=None, **arguments) -> str:
    """The line that a push ends with that must fail."""
    finished = run_python(
        hub, code, folder, json.dumps(arguments), token=token, **(environment or {})
    )
    assert finished.returncode == 1 and "Traceback" not in finished.stderr, finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("user error: ")]
    assert finished.stderr.endswith(line + "\n")  # one line, the last one
    return line


def commits(hub, repo=REPO):
    return hub.repository(*repo).history("main")


def pushed(hub, repo=REPO):
    """The repository's files but for the one that the Hub makes itself."""
    return {
        name: content for name, content in hub.content(*repo).items() if name != ".gitattributes"
    }


def test_a_folder_is_pushed_whole_and_alone_in_one_commit(hub, folder):
    pin = push(hub, folder, message="Two steps of training")
    head, first = commits(hub)
    assert pin == f"birds/adapter@{head.oid}"
    assert pushed(hub) == FILES
    assert (head.title, head.parent) == ("Two steps of training", first.oid)
    assert not hub.repository(*REPO).private
    assert all(call.user == "ada" or call.path.startswith("/lfs/") for call in hub.calls)
    assert all(
        WRITE_TOKEN.encode() not in path.read_bytes()
        for path in hub.home.rglob("*")
        if path.is_file()
    )


def test_the_same_content_again_is_the_same_commit_and_uploads_nothing(hub, folder):
    pin = push(hub, folder)
    hub.calls.clear()
    assert push(hub, folder) == pin
    assert {call.method for call in hub.calls if "create" not in call.path} == {"GET"}


def test_only_what_changed_is_uploaded_and_other_files_stay(hub, folder):
    push(hub, folder)
    hub.calls.clear()
    (folder / "adapter.json").write_bytes(b'{"format": 2}\n')
    (folder / "weights.safetensors").rename(folder / "more.safetensors")
    push(hub, folder)
    assert pushed(hub) == FILES | {
        "adapter.json": b'{"format": 2}\n',
        "more.safetensors": FILES["weights.safetensors"],
    }
    assert len(commits(hub)) == 3
    assert not hub.calls_of("PUT", "/lfs/")  # the Hub has these bytes


def test_a_dataset_goes_to_a_dataset_repository_private_when_asked_for(hub, folder):
    pin = push(hub, folder, repo_type="dataset", private=True)
    dataset = ("dataset", "birds/adapter")
    assert list(hub.repositories) == [dataset] and hub.repository(*dataset).private
    assert pin == f"birds/adapter@{commits(hub, dataset)[0].oid}" and pushed(hub, dataset) == FILES


def test_what_is_asked_to_be_private_is_not_pushed_where_everybody_reads(hub, folder):
    push(hub, folder)
    (folder / "new.txt").write_text("new")
    for code in (PUSH, CHECK):
        assert "birds/adapter exists and is public" in refused(hub, folder, code, private=True)
    assert pushed(hub) == FILES


def test_with_xet_it_is_one_commit_too(hub, folder, tmp_path):
    hub.xet_storage = tmp_path / "xet"
    pin = push(hub, folder)
    head, first = commits(hub)
    assert pin == f"birds/adapter@{head.oid}" and head.parent == first.oid
    assert set(head.files) - set(first.files) == set(FILES)
    assert list(hub.xet_storage.rglob("*.mdb")) and not hub.calls_of("PUT", "/lfs/")
    hub.calls.clear()
    assert push(hub, folder) == pin and not hub.calls_of("POST", "/commit/")


def test_a_hub_without_xet_is_named_as_such(hub, folder):
    line = refused(hub, folder, environment={"HF_HUB_DISABLE_XET": "0"})
    assert "set HF_HUB_DISABLE_XET=1" in line and len(commits(hub)) == 1


def test_a_push_by_somebody_else_in_between_is_not_overwritten(hub, folder):
    def push_by_somebody(body):
        lines = [{"key": "header", "value": {"summary": "theirs"}}]
        lines.append({"key": "file", "value": {"path": "adapter.json", "content": "dGhlaXJz"}})
        hub.repository(*REPO).commit("main", lines, "bob", hub.is_stored)
        return body

    hub.fail("POST", "/preupload/", rewrite=push_by_somebody)
    assert "somebody else pushed to birds/adapter" in refused(hub, folder)
    assert [commit.title for commit in commits(hub)] == ["theirs", "initial commit"]
    push(hub, folder)
    assert [commit.author for commit in commits(hub)] == ["ada", "bob", "ada"]
    assert pushed(hub) == FILES


TOKENS = [
    (READ_TOKEN, "may not write to birds/adapter"),
    (STRANGER_TOKEN, "may not write to birds/adapter"),
    ("", "no token for the Hub"),
    ("hf_unknown", "does not know the token"),
]


@pytest.mark.parametrize(("token", "reason"), TOKENS)
@pytest.mark.parametrize("code", [PUSH, CHECK], ids=["push", "check"])
def test_without_the_permission_a_repository_is_not_made(hub, folder, token, reason, code):
    assert reason in refused(hub, folder, code, token=token)
    assert not hub.repositories and not hub.calls_of("POST", "/preupload/")


@pytest.mark.parametrize("code", [PUSH, CHECK], ids=["push", "check"])
def test_a_token_that_only_reads_changes_nothing_in_a_repository_that_is_there(hub, folder, code):
    push(hub, folder)
    (folder / "adapter.json").write_text("changed")
    assert "may not write to birds/adapter" in refused(hub, folder, code, token=READ_TOKEN)
    assert pushed(hub) == FILES


def test_the_check_makes_the_repository_and_needs_no_call_that_mirrors_lack(hub, folder):
    hub.fail("GET", "/auth-check/write", status=404)
    assert (
        push(hub, folder, CHECK, private=True) == push(hub, folder, CHECK, private=True) == "None"
    )
    assert hub.repository(*REPO).private and len(commits(hub)) == 1 and not pushed(hub)
    assert [call.status for call in hub.calls_of("GET", "/auth-check/write")] == [404, 200]


def test_a_token_given_wins_over_that_of_the_environment(hub, folder):
    push(hub, folder, PUSH.replace("**json", f"token={WRITE_TOKEN!r}, **json"), token=READ_TOKEN)
    assert pushed(hub) == FILES


@pytest.mark.parametrize(
    "name",
    [
        "adapter",
        "birds/",
        "birds/adapter/x",
        "birds/adapter@main",
        "birds/ad apter",
        "-birds/adapter",
        "",
    ],
)
def test_bad_names_are_refused_before_anything_is_sent(folder, name):
    with pytest.raises(UserError, match="org/name"):
        push_folder(folder, name, token=WRITE_TOKEN)
    with pytest.raises(UserError, match="org/name"):
        check_can_push(name, WRITE_TOKEN)


def test_a_token_that_cannot_be_sent_is_not_quoted(folder):
    for token in ("hf_sec\nret", "hf_secré", "hf_sec ret"):
        with pytest.raises(UserError, match="copy it again") as caught:
            check_can_push("birds/adapter", token)
        assert "hf_sec" not in str(caught.value)


def test_offline_mode_is_named(folder):
    """The tests' own process is offline."""
    with pytest.raises(UserError, match="unset HF_HUB_OFFLINE"):
        push_folder(folder, "birds/adapter", token=WRITE_TOKEN)


def test_a_folder_with_nothing_to_push_is_refused(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "log.txt").write_text("log")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="holds no file"):
            push_folder(folder, "birds/adapter", token=WRITE_TOKEN)


def test_a_hub_out_of_reach_ends_in_one_line(hub, folder):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert "cannot reach the Hub" in refused(hub, folder, environment={"HF_ENDPOINT": nobody})


def test_a_hub_that_hangs_once_is_asked_again(hub, folder):
    """The first request is applied in the end, and refused: there is one commit."""
    hub.fail("POST", "/commit/", delay=2)
    push(hub, folder, timeout=1)
    assert pushed(hub) == FILES and len(commits(hub)) == 2


def test_a_hub_that_hangs_is_given_up_and_the_same_command_finishes(hub, folder):
    hub.fail("POST", "/commit/", delay=20, times=3)
    assert "run the same command again" in refused(hub, folder, timeout=1)
    push(hub, folder)
    assert pushed(hub) == FILES and len(commits(hub)) == 2


def test_an_upload_cut_once_goes_on(hub, folder):
    hub.fail("PUT", "/lfs/", cut=True)
    push(hub, folder)
    assert pushed(hub) == FILES
    assert [call.status for call in hub.calls_of("PUT", "/lfs/")].count(None) == 1


@pytest.mark.slow
def test_an_upload_always_cut_makes_no_commit_and_the_same_command_finishes(hub, folder):
    hub.fail("PUT", "/lfs/", cut=True, times=12)  # two files, side by side, six tries each
    assert "run the same command again" in refused(hub, folder)
    assert len(commits(hub)) == 1
    push(hub, folder)
    assert pushed(hub) == FILES and len(commits(hub)) == 2


@pytest.mark.parametrize("times", [1, 2])
def test_a_commit_whose_reply_was_lost_is_found(hub, folder, times):
    hub.fail("POST", "/commit/", lose_reply=True, times=times)
    pin = push(hub, folder)
    assert pin == f"birds/adapter@{commits(hub)[0].oid}" and pushed(hub) == FILES
    assert len(commits(hub)) == 2 and len(hub.calls_of("POST", "/commit/")) == 1


def test_a_commit_that_was_lost_and_followed_by_somebody_elses_is_found(hub, folder):
    """The pin is the commit that was pushed, not what came after it."""

    def push_by_somebody(body):
        lines = [
            {"key": "header", "value": {"summary": "theirs"}},
            {"key": "file", "value": {"path": "x.txt", "content": "dGhlaXJz"}},
        ]
        hub.repository(*REPO).commit("main", lines, "bob", hub.is_stored)
        return body

    hub.fail("POST", "/commit/", lose_reply=True)
    hub.fail("GET", "/commits/", rewrite=None, status=500)  # and the first look fails too
    hub.fail("GET", "/commits/", rewrite=push_by_somebody)
    pin = push(hub, folder)
    theirs, mine, _ = commits(hub)
    assert (pin, theirs.title) == (f"birds/adapter@{mine.oid}", "theirs")


@pytest.mark.parametrize("path", ["/commit/", "/repos/create", "/validate-yaml"])
def test_a_hub_that_is_busy_once_is_asked_again(hub, folder, path):
    hub.fail("POST", path, status=503)
    push(hub, folder)
    assert pushed(hub) == FILES and len(commits(hub)) == 2


@pytest.mark.parametrize(("path", "status"), [("/commit/", 503), ("/repos/create", 429)])
def test_a_busy_hub_is_named(hub, folder, path, status):
    hub.fail("POST", path, status=status, times=3)
    assert f"the Hub is busy or down (status {status})" in refused(hub, folder)
    push(hub, folder)
    assert pushed(hub) == FILES


def test_other_bytes_on_the_hub_are_noticed(hub, folder):
    original, other = b"eyJmb3JtYXQiOiAxfQo=", b"eyJmb3JtYXQiOiAyfQo="
    hub.fail("POST", "/commit/", rewrite=lambda body: body.replace(original, other))
    assert "does not hold what was pushed of adapter.json" in refused(hub, folder)
    push(hub, folder)
    assert pushed(hub) == FILES


def test_a_card_that_the_hub_refuses_is_named(hub, folder):
    Path(folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "Invalid metadata in README.md" in refused(hub, folder)
    assert len(commits(hub)) == 1
