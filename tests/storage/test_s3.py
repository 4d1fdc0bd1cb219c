"""Workers as processes, over S3 as moto speaks it: killed, restarted, added at any moment."""

import random

import pytest
from forking import Ended, Started
from generations import SCRIPT, arguments, digests, one_line, tiny_run
from launching import launch, launch_environment

from sgdmix_hub import augment
from sgdmix_hub.settings.generation import AugmentSettings

pytest.importorskip("s3fs", reason="needs the extra s3")
moto_server = pytest.importorskip("moto.server", reason="needs moto[server]")

RUN = """
import unreliable
from sgdmix_hub.augment import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.generation import AugmentSettings

launch(main, AugmentSettings)
"""
SUPPORT = "tests/support"


@pytest.fixture(scope="module")
def endpoint():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def environment(endpoint):
    return launch_environment(
        {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "UNRELIABLE": "s3",
            "PYTHONPATH": SUPPORT,
        }
    )


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


def kill_workers(settings, environment, url, world_size: int, kills: int) -> int:
    """Runs workers and kills them; returns how many were killed in the middle of a write.

    Half of the kills come from outside at any moment, half from the store while it is written to.
    """
    rng, in_writes, killed = random.Random(world_size), 0, 0
    workers: dict[int, Started] = {}

    def start(rank: int) -> Started:
        deadly = {
            "UNRELIABLE_KILLS": "0.3" if rng.random() < 0.5 else "0",
            "UNRELIABLE_FOR_GOOD": "1",
            "UNRELIABLE_SEED": str(rng.random()),
        }
        here = {"stage": "shards", "rank": rank, "world_size": world_size}
        return started(settings, environment | deadly, output_dir=url, **here)

    while killed < kills:
        for rank in range(world_size):
            worker = workers.get(rank)
            if worker is None:
                workers[rank] = start(rank)
            elif worker.poll() is not None:
                done = ended(worker)
                assert done.returncode in (0, -9), done
                in_writes += done.returncode == -9
                killed += done.returncode == -9
                if done.returncode == 0:
                    return in_writes  # nothing is left to disturb
                workers[rank] = start(rank)
            elif rng.random() < 0.02:
                worker.kill()
                worker.communicate()
                killed += 1
                workers[rank] = start(rank)
        workers[rng.randrange(world_size)].process.join(0.1)
    for worker in workers.values():
        worker.kill()
        worker.communicate()
    return in_writes


@pytest.mark.slow
def test_a_dozen_kills_of_three_workers_leave_the_bytes_of_one_process(
    settings, reference, bucket, environment, tmp_path
):
    name, files = bucket
    url = f"unreliable://{name}/run"
    assert ended(started(settings, environment, output_dir=url, stage="plan")).returncode == 0
    kill_workers(settings, environment, url, 3, 12)
    for _ in range(5):
        done = ended(started(settings, environment, output_dir=url, stage="shards"))
        assert done.returncode == 0, done
        done = ended(started(settings, environment, output_dir=url, stage="finish"))
        if done.returncode == 0:
            break
        one_line(done, "are not finished")
    check_same(files, name, reference, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_a_hundred_kills_leave_the_bytes_of_one_process(
    world_size, settings, bucket, environment, tmp_path
):
    many = settings | {"num_variants": 50}  # 400 shards
    output = tmp_path / "whole"
    augment.main(AugmentSettings(**many, output_dir=str(output)))
    name, files = bucket
    url = f"unreliable://{name}/run"
    assert ended(started(many, environment, output_dir=url, stage="plan")).returncode == 0
    assert kill_workers(many, environment, url, world_size, 100) > 10
    for _ in range(5):
        assert ended(started(many, environment, output_dir=url, stage="shards")).returncode == 0
        if ended(started(many, environment, output_dir=url, stage="finish")).returncode == 0:
            break
    check_same(files, name, output / "repo", tmp_path)


@pytest.mark.slow
def test_one_command_with_two_processes_on_s3_itself(
    settings, reference, bucket, environment, tmp_path
):
    name, files = bucket
    words = [SCRIPT, *arguments(settings | {"output_dir": f"s3://{name}/run"})]
    done = launch(words, 2, environment)
    assert done.returncode == 0, done
    assert "nothing-secret" not in done.stdout + done.stderr
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
