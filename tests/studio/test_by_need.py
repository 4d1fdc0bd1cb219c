"""A version on the Hub is read by need: what a page shows, and no more; and it is the version that
its manifest states, as far as the Hub says so.
"""

import json
import re
import sys

import pytest
from forking import ROOT
from loopback_hub import run_python

sys.path.append(str(ROOT / "benchmarks"))
from parts.studio.versions import many_rows

from sgdmix_hub.demo.loopback_hub import WRITE_TOKEN
from sgdmix_hub.publishing.read import shards_in
from sgdmix_hub.studio.places import place_of
from sgdmix_hub.studio.version_rows import VersionRows

pytestmark = pytest.mark.slow
ROWS, IN_A_SHARD = 1200, 400
PUSH = """
import sys
from huggingface_hub import HfApi

HfApi().create_repo(sys.argv[2], repo_type="dataset", exist_ok=True)
HfApi().upload_folder(folder_path=sys.argv[1], repo_id=sys.argv[2], repo_type="dataset")
"""
READ = """
import hashlib, json, sys
from sgdmix_hub.errors import UserError
from sgdmix_hub.studio.places import place_of
from sgdmix_hub.studio.version_rows import VersionRows

name, cached, *positions = sys.argv[1:]
try:
    if cached == "cached":
        from huggingface_hub import snapshot_download
        snapshot_download(name, repo_type="dataset")
        print("downloaded", flush=True)
    rows = VersionRows(place_of(name, "default"))
    found = rows.read([int(one) for one in positions if one != "numbers"])
    digests = {
        one: hashlib.sha256(row["image"].tobytes()).hexdigest() for one, row in found.items()
    }
    done = {"rows": len(rows), "needed": rows.place.is_read_by_need, "images": digests}
    done["keys"] = {one: [row["source_index"], row["label"]] for one, row in found.items()}
    if "numbers" in positions:
        done["sum"] = int(rows.columns["target_index"].sum())
except UserError as error:
    done = {"error": str(error)}
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A version of 1,200 rows in 3 shards, which is 2.5 MB."""
    folder = tmp_path_factory.mktemp("many") / "many"
    many_rows(folder, ROWS, IN_A_SHARD)
    return folder


@pytest.fixture
def pushed(hub, many):
    ended = run_python(hub, PUSH, many, "birds/many")
    assert ended.returncode == 0, ended.stderr
    hub.calls.clear()
    return hub


def read(hub, *words, name="birds/many"):
    """What a client reads, and the bytes that it was sent of each shard."""
    hub.calls.clear()
    ended = run_python(hub, READ, name, *words)
    assert ended.returncode == 0, ended.stderr
    sent = {}
    for call in hub.calls_of("GET", r"/resolve/|/lfs/|storage"):
        sent.setdefault(call.status, []).append(call.sent)
    return json.loads(ended.stdout.splitlines()[-1]), sent


def ranges(sent):
    return sum(sent.get(206, []))


def test_a_page_takes_its_row_group_and_numbers_take_no_image(pushed, many):
    local = VersionRows(place_of(str(many), "default"))
    held = sum((many / name).stat().st_size for name in shards_in(many, "default"))
    here = local.read(range(8))
    done, sent = read(pushed, "fresh", *range(8))
    assert (done["rows"], done["needed"]) == (ROWS, True)
    assert {int(one): tuple(key) for one, key in done["keys"].items()} == {
        one: (row["source_index"], row["label"]) for one, row in here.items()
    }
    first = ranges(sent)
    assert 0 < first < held / 4, (first, held)
    assert max(sent.get(200, [0])) < 20_000  # manifest and configuration
    done, sent = read(pushed, "fresh", 0, ROWS - 1)
    assert done["keys"][str(ROWS - 1)][0] == ROWS - 1
    assert ranges(sent) < held / 2
    done, sent = read(pushed, "fresh", "numbers")
    assert done["sum"] == int(local.columns["target_index"].sum())
    assert ranges(sent) < held / 4


def test_images_are_those_of_the_version(pushed, many):
    import hashlib

    positions = [0, 99, 100, 399, 400, 1199]
    done, _ = read(pushed, "fresh", *positions)
    local = VersionRows(place_of(str(many), "default")).read(positions)
    assert {int(one): digest for one, digest in done["images"].items()} == {
        one: hashlib.sha256(row["image"].tobytes()).hexdigest() for one, row in local.items()
    }


def test_what_was_downloaded_before_is_not_asked_for_again(pushed):
    done, sent = read(pushed, "cached", *range(8))
    assert (done["rows"], done["needed"]) == (ROWS, False)
    assert 206 not in sent


def test_files_that_the_manifest_does_not_state_are_refused_before_one_is_read(pushed, many):
    name = shards_in(many, "default")[1]
    changed = (many / name).read_bytes().replace(b"a photo", b"A photo", 1)
    code = (
        "import sys; from huggingface_hub import HfApi; HfApi().upload_file("
        "path_or_fileobj=bytes.fromhex(sys.argv[1]), path_in_repo=sys.argv[2], "
        "repo_id='birds/many', repo_type='dataset')"
    )
    for path, content in ((name, changed), ("data/train-x.parquet", b"PAR1")):
        ended = run_python(pushed, code, content.hex()[:60_000], path)
        assert ended.returncode == 0, ended.stderr
        done, sent = read(pushed, "fresh", 0)
        assert "missing or not the published files" in done["error"]
        assert path in done["error"]
        assert 206 not in sent


@pytest.mark.parametrize(
    "name",
    ["birds/../../etc@v1", "birds/many@../x", "../birds/many", "birds/none", "birds/many@v9"],
)
def test_a_name_that_is_no_version_is_refused_in_one_line(pushed, name):
    done, _ = read(pushed, "fresh", 0, name=name)
    assert done["error"].isprintable()


def test_a_hub_that_fails_while_rows_are_read_is_told_in_one_line(pushed):
    pushed.fail("GET", r"train-00002", status=403, times=100)
    done, _ = read(pushed, "fresh", 0, ROWS - 1)
    assert re.search("cannot fetch train-00002.*403", done["error"]), done
    assert WRITE_TOKEN not in done["error"]
