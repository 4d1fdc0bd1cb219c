"""What a Hub holds of a version, what a generation has of it, and what a reader loads."""

import json

import pyarrow.parquet as pq
from loopback_hub import READ_TOKEN, run_python

from sgdmix_hub.publishing.card_merge import read_card

LOAD = """
import json, sys
from datasets import load_dataset

repo_id, version, *config = sys.argv[1:]
rows = load_dataset(repo_id, *config, revision=version, split="train")
streamed = load_dataset(repo_id, *config, revision=version, split="train", streaming=True)
facts = {
    "rows": [
        [row["source_index"], row["variant"], row["target_index"]]
        for row in rows.remove_columns("image")
    ],
    "sizes": sorted({image.size for image in rows["image"]}),
    "names": rows.features["label"].names,
    "streamed": [[row["source_index"], row["variant"], row["target_index"]] for row in streamed],
}
print(json.dumps(facts))
"""
LOAD_PUBLISHED = """
import json, sys, time
import sgdmix_hub
assert "torch" not in sys.modules
from sgdmix_hub.errors import UserError

sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 50)  # the waits for a busy Hub are not the tests'
found = []
for version in sys.argv[2:]:
    try:
        published = sgdmix_hub.load_published(f"{sys.argv[1]}@{version}")
        rows = [
            [row["source_index"], row["variant"], row["target_index"]]
            for row in published.dataset.remove_columns("image")
        ]
        found.append([published.pin.revision, rows])
    except UserError as error:
        found.append(str(error))
print(json.dumps(found))
"""
# The same in a process that was forked, and so has loaded torch.
LOAD_AGAIN = LOAD_PUBLISHED.replace('assert "torch" not in sys.modules\n', "")


def repository(hub, repo_id):
    return hub.repository("dataset", repo_id)


def history(hub, repo_id, branch="main"):
    return repository(hub, repo_id).history(branch)


def card_of(hub, repo_id, revision="main"):
    return hub.content("dataset", repo_id, revision)["README.md"].decode()


def data_of(hub, repo_id, revision="main"):
    return read_card(card_of(hub, repo_id, revision)).data


def pushed(hub, repo_id, revision="main"):
    """Files of a revision, without README.md (merged) and .gitattributes (the Hub's own)."""
    return {
        name: value
        for name, value in hub.content("dataset", repo_id, revision).items()
        if name not in ("README.md", ".gitattributes")
    }


def local_files(output):
    repo = output / "repo"
    return {
        path.relative_to(repo).as_posix(): path.read_bytes()
        for path in repo.rglob("*")
        if path.is_file() and path.name != "README.md"
    }


def local_rows(output):
    """[source, variant, target] of every published row."""
    tables = [
        pq.read_table(path, columns=["source_index", "variant", "target_index"])
        for path in sorted(output.glob("repo/*/train-*"))
    ]
    return [
        [row["source_index"], row["variant"], row["target_index"]]
        for table in tables
        for row in table.to_pylist()
    ]


def loaded(hub, *words, token=READ_TOKEN, code=LOAD, **environment):
    """What a colleague's process gets; one that must not have loaded torch is started anew."""
    anew = code is LOAD_PUBLISHED
    done = run_python(hub, code, *words, token=token, anew=anew, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
