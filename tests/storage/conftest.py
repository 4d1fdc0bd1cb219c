"""A small run, its bytes on a disk, and a folder of the in-process store."""

import uuid

import fsspec
import pytest
from generations import digests, tiny_run
from stored_runs import work

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """8 images, 2 variants, 8 shards."""
    return tiny_run(tmp_path_factory.mktemp("stored") / "birds", rows_per_shard=2)


@pytest.fixture(scope="session")
def reference(settings, tmp_path_factory):
    """The repo/ of one process on a disk."""
    output = tmp_path_factory.mktemp("reference") / "run"
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    return digests(output / "repo")


@pytest.fixture
def url():
    """A folder of the in-process store that no other test uses."""
    yield f"memory://{uuid.uuid4().hex}/run"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="session")
def stages_made(settings):
    """`stages_made(url, "plan", ...)`: a folder as one worker leaves it after these stages, which
    are made once.
    """
    kept = {}

    def make(url, *stages):
        files = fsspec.filesystem("memory")
        if stages not in kept:
            made = f"/{uuid.uuid4().hex}/run"
            for stage in stages:
                work(settings, f"memory:/{made}", stage)
            names = files.find(made)
            kept[stages] = {name.removeprefix(made): files.cat_file(name) for name in names}
        for name, content in kept[stages].items():
            files.pipe_file(f"{url.removeprefix('memory:/')}{name}", content)

    return make
