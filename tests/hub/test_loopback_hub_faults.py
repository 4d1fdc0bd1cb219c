"""What tests can make go wrong on the loopback Hub, and what the real client makes of it."""

import socket
from urllib.parse import urlsplit

import pytest
from hub_files import write_files
from loopback_hub import run_client


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "model")


FAULTS = """
import time
import httpx2

def lost(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except httpx2.TransportError as error:
        return type(error).__name__

started = time.monotonic()
seen = {"delayed": lost(api.create_repo, "birds/model")}
seen["seconds"] = time.monotonic() - started
api.upload_folder(repo_id="birds/model", folder_path=sys.argv[1])
seen["no reply"] = lost(
    api.upload_file, repo_id="birds/model", path_in_repo="config.json", path_or_fileobj=b"new"
)
seen["refused"] = [status(api.list_repo_refs, "birds/model") for _ in range(3)]
api.snapshot_download("birds/model", local_dir=sys.argv[2])
checked = api.verify_repo_checksums("birds/model", local_dir=sys.argv[2])
seen["differing"] = [file["path"] for file in checked.mismatches]
print(json.dumps(seen))
"""


def test_planned_faults_happen_as_often_as_planned(hub, folder, tmp_path):
    hub.fail("POST", "/repos/create", delay=0.5)
    hub.fail("POST", "/preupload/", status=503)
    hub.fail("PUT", "/lfs/", cut=True)
    hub.fail("GET", "/refs", status=418, times=2)
    hub.fail("GET", "/lfs/", rewrite=lambda body: body[:-1] + b"!")
    # The first commit, with its name changed on the way, and then one that is made while its answer
    # is lost.
    hub.fail(
        "POST", "/commit/", rewrite=lambda body: body.replace(b"Upload folder", b"Renamed folder")
    )
    hub.fail("POST", "/commit/", lose_reply=True)
    seen = run_client(hub, FAULTS, folder, tmp_path / "copy")
    assert seen["delayed"] is None and seen["seconds"] >= 0.5
    assert [call.status for call in hub.calls_of("POST", "/preupload/")][:2] == [503, 200]
    assert [call.status for call in hub.calls_of("PUT", "/lfs/")] == [None, 200]
    assert seen["no reply"] == "RemoteProtocolError"
    assert seen["refused"] == [["HfHubHTTPError", 418], ["HfHubHTTPError", 418], None]
    assert seen["differing"] == ["weights/model.safetensors"]
    assert hub.content("model", "birds/model")["config.json"] == b"new"
    titles = [commit.title for commit in hub.repository("model", "birds/model").history("main")]
    assert titles[1:] == ["Renamed folder using huggingface_hub", "initial commit"]


PATIENCE = """
import time
import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

def impatient():
    client = default_client_factory()
    client.timeout = 1
    return client

def given_up(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except httpx2.TransportError as error:
        return type(error).__name__

def tagged(repo):
    error = given_up(api.create_tag, repo, tag="v1.0.0")
    return error, [tag.name for tag in api.list_repo_refs(repo).tags]

set_client_factory(impatient)
repo = api.create_repo("birds/model").repo_id
seen = {"first": tagged(repo), "second": tagged(repo)}
seen["busy"] = status(api.upload_file, repo_id=repo, path_in_repo="a.txt", path_or_fileobj=b"1")
started = time.monotonic()
seen["names"] = api.list_repo_files(repo)
seen["seconds"] = time.monotonic() - started
print(json.dumps(seen))
"""


def test_a_hub_hangs_with_and_without_an_effect_or_asks_to_wait(hub):
    hub.fail("POST", "/tag/", hang=True)
    hub.fail("POST", "/tag/", hang=True, lose_reply=True)
    hub.fail("POST", "/commit/", status=429)  # the client does not try commits again
    hub.fail("GET", "/tree/", status=429, headers={"Retry-After": "1"})
    seen = run_client(hub, PATIENCE)
    assert seen["first"] == ["ReadTimeout", []] and seen["second"] == ["ReadTimeout", ["v1.0.0"]]
    assert [call.status for call in hub.calls_of("POST", "/tag/")] == [None, None]
    assert seen["busy"] == ["HfHubHTTPError", 429] and seen["names"] == [".gitattributes"]
    # The client waits the second of Retry-After plus one; without the header it would wait 1 s.
    assert seen["seconds"] >= 2


INTERRUPTIONS = """
from huggingface_hub import constants

constants.DOWNLOAD_CHUNK_SIZE = 10_000  # what is lost when a connection breaks
kind = {"repo_type": "dataset"}
repo = api.create_repo("birds/data", **kind).repo_id
for number in range(3):
    content = bytes([number]) * 100_000
    api.upload_file(repo_id=repo, path_in_repo=f"{number}.bin", path_or_fileobj=content, **kind)
copy = Path(api.hf_hub_download(repo, "1.bin", **kind))
print(json.dumps(copy.read_bytes() == bytes([1]) * 100_000))
"""


def test_a_transfer_cut_half_way_is_resumed_from_there(hub):
    hub.fail("PUT", "/lfs/", cut=True, skip=2)
    hub.fail("GET", "/lfs/", cut_reply=True)
    assert run_client(hub, INTERRUPTIONS) is True
    assert [call.status for call in hub.calls_of("PUT", "/lfs/")] == [200, 200, None, 200]
    assert [call.status for call in hub.calls_of("GET", "/lfs/")] == [200, 206]


def test_a_body_is_asked_for_before_it_is_sent(hub):
    address = urlsplit(hub.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /api/repos/create HTTP/1.1\r\nHost: hub\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert connection.recv(64).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert connection.recv(64).startswith(b"HTTP/1.1 401 ")
