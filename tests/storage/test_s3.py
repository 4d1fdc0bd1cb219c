"""Workers as processes, over S3 as moto speaks it: killed, restarted, without access."""

import urllib.request

import pytest
from forking import Ended, Started
from generations import SCRIPT, arguments, digests, one_line, tiny_run
from launching import launch, launch_environment
from s3_server import SECRET, s3_environment, s3_server
from soaking import RUN, Figures, Soak

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs moto[server]")

SUPPORT = "tests/support"


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as address:
        yield address


@pytest.fixture
def environment(endpoint):
    inside = {"UNRELIABLE": "s3", "PYTHONPATH": SUPPORT}
    return launch_environment(s3_environment(endpoint) | inside)


@pytest.fixture
def bucket(endpoint, environment, request, monkeypatch):
    """A new bucket, and this process's client of it."""
    import s3fs

    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    files.mkdir(name)
    return name, files


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """8 images, 2 variants, 16 shards."""
    folder = tmp_path_factory.mktemp("s3") / "birds"
    return tiny_run(folder, rows_per_shard=1)


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "run"
    augment.main(AugmentSettings(**settings, output_dir=str(output)))
    return output / "repo"


def started(settings: dict, environment: dict, **more) -> Started:
    return Started(["-c", RUN, *arguments(settings | more)], environment)


def ended(process: Started) -> Ended:
    stdout, stderr = process.communicate(timeout=300)
    return Ended(process.returncode, stdout, stderr)


def check_same(files, bucket: str, reference, tmp_path) -> None:
    files.get(f"{bucket}/run/repo", str(tmp_path / "repo"), recursive=True)
    assert digests(tmp_path / "repo") == digests(reference)


@pytest.mark.slow
def test_eight_kills_of_three_workers_leave_the_bytes_of_one_process(
    settings, reference, bucket, environment, tmp_path
):
    """Workers of all stages, in a store that is unreliable besides; `make soak` has more."""
    name, files = bucket
    figures = Figures("unreliable s3", world_size=3, seed=3)
    Soak(settings, environment, f"unreliable://{name}/run", tmp_path, figures).run(8)
    assert figures.kills >= 8
    check_same(files, name, reference, tmp_path)


@pytest.mark.slow
def test_one_command_with_two_processes_on_s3_itself(
    settings, reference, bucket, environment, tmp_path
):
    name, files = bucket
    words = [SCRIPT, *arguments(settings | {"output_dir": f"s3://{name}/run"})]
    done = launch(words, 2, environment)
    assert done.returncode == 0, done
    assert SECRET not in done.stdout + done.stderr
    check_same(files, name, reference, tmp_path)


@pytest.mark.slow
def test_a_bucket_that_is_not_there_and_no_credentials_are_one_line_each(
    settings, bucket, environment
):
    done = ended(started(settings, environment, output_dir="s3://nowhere-at-all/run"))
    one_line(done, "s3://nowhere-at-all/run", "create it")
    without = {key: value for key, value in environment.items() if "ACCESS_KEY" not in key}
    without |= {"AWS_EC2_METADATA_DISABLED": "true"}
    done = ended(started(settings, without, output_dir="s3://nowhere-at-all/run"))
    one_line(done, "credentials")


@pytest.fixture
def refusing(endpoint):
    """`refusing(n)`: after n more requests the server knows no credentials any more."""

    def after(requests: int) -> None:
        request = urllib.request.Request(
            f"{endpoint}/moto-api/reset-auth",
            data=str(requests).encode(),
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request).read()

    yield after
    after(10**9)


@pytest.mark.slow
def test_credentials_that_expire_in_mid_run_are_one_line_and_fresh_ones_continue(
    settings, reference, bucket, environment, refusing, tmp_path
):
    name, files = bucket
    url = f"s3://{name}/a folder/V\u00f6gel/"
    here = settings | {"output_dir": url}
    assert ended(started(here, environment, stage="plan")).returncode == 0
    for requests in (0, 3, 20):
        refusing(requests)
        done = ended(started(here, environment, stage="shards"))
        one_line(done, "no access", "credentials", "same command again")
        assert SECRET not in done.stdout + done.stderr
    refusing(10**9)
    for stage in ("shards", "finish"):
        assert ended(started(here, environment, stage=stage)).returncode == 0
    files.get(f"{name}/a folder/V\u00f6gel/repo", str(tmp_path / "repo"), recursive=True)
    assert digests(tmp_path / "repo") == digests(reference)


@pytest.mark.slow
def test_a_full_disk_under_the_scratch_folder_is_one_line(settings, bucket, environment, read_only):
    """Of 50 MB, all but 100 kB are taken: less than the maps and the shards."""
    name, _ = bucket
    disk, _ = read_only
    (disk / "taken").write_bytes(bytes(50 * 2**20 - 100_000))
    done = ended(
        started(settings, environment | {"TMPDIR": str(disk)}, output_dir=f"s3://{name}/r")
    )
    one_line(done, "disk")
