"""Shared fixtures: tiny models with random weights and tiny datasets, all in the real formats.

Fixtures import what they need themselves: the process that hands out tests to the others loads this
file too, and would take ten seconds and 900 MB for libraries that it never uses.
"""

import gc
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter

# Set before the imports, because the libraries read these variables at import. Tests then use a
# temporary cache and no network, and threads don't spin on busy cores.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="sgdmix_hub_tests_")
for name in (
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE",
    "HF_EVALUATE_CACHE",
    "HF_TOKEN",
):
    os.environ.pop(name, None)
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What programs set themselves: here MKL computes before any of them begins.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

import few_images  # noqa: E402, F401
import hypothesis  # noqa: E402
import pytest  # noqa: E402

RESOLUTION = 32  # of tiny_models

# A shell without job control starts what goes to the background deaf to Ctrl-C, and so would be
# what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test cuts the power, so nothing here waits for the disk. Programs that are forked do as ever:
# tests must have the time to kill them.
os.fsync = lambda descriptor: None

# Fixed examples, so that a new failure comes from the change under test. No deadline, because busy
# machines are slow.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


# Fixtures that train, or that bring programs with them: what needs one is slow.
EXPENSIVE = {"adapter", "hub", "publisher"}


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first, so that no process ends with a long one."""
    for item in items:
        if EXPENSIVE.intersection(item.fixturenames):
            item.add_marker("slow")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    gc.freeze()  # the libraries' million objects need no look at every full collection


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """What earlier files have left for good (imports, session fixtures) needs no look either."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """Folder of `build_tiny_pipeline()`, saved in the Stable Diffusion format."""
    from tiny_models import build_tiny_pipeline

    folder = tmp_path_factory.mktemp("models") / "tiny-base"
    build_tiny_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def prudish_base(tiny_base, tmp_path_factory):
    """The tiny base with a real safety checker whose thresholds are so low that it flags all."""
    from tiny_models import add_prudish_checker

    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("prudish") / "base")
    add_prudish_checker(folder)
    return folder


@pytest.fixture(scope="session")
def birds(tmp_path_factory):
    """Folder dataset of 4 species at 32x32: 24 training, 8 validation and 16 test rows.

    Columns: image, label, mask, background.
    """
    from sgdmix_hub.demo.domain import make_dataset, save_dataset

    folder = tmp_path_factory.mktemp("data") / "birds"
    save_dataset(make_dataset(4, 6, 2, 4, seed=0, resolution=RESOLUTION), folder)
    return folder


@pytest.fixture(scope="session")
def few_birds(tmp_path_factory):
    """Folder dataset of the same species as `birds`: 8 training, 4 validation and 4 test rows."""
    from sgdmix_hub.demo.domain import make_dataset, save_dataset

    folder = tmp_path_factory.mktemp("data") / "few-birds"
    save_dataset(make_dataset(4, 2, 1, 1, seed=0, resolution=RESOLUTION), folder)
    return folder


@pytest.fixture(scope="session")
def class_names():
    """Class names of `birds`."""
    from sgdmix_hub.demo.domain import make_dataset

    return make_dataset(4, 1, 1, 1, seed=0, resolution=RESOLUTION)["train"].features["label"].names


@pytest.fixture(scope="session")
def classifier(tmp_path_factory, class_names):
    """Folder of a ResNet with random weights for the classes of `birds`.

    Its input is 64x64, its last stage 8x8. It records no training subset.
    """
    from tiny_models import save_classifier

    return save_classifier(tmp_path_factory.mktemp("models") / "classifier", class_names)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, tiny_base, birds):
    """Folder of an adapter trained for two steps, on `tiny_base` and the training rows of `birds`.

    Its alpha differs from its rank, so that tests see the scale alpha / rank.
    """
    from sgdmix_hub import train_adapter
    from sgdmix_hub.settings.adapter_training import AdapterSettings

    folder = tmp_path_factory.mktemp("models") / "adapter"
    train_adapter.main(
        AdapterSettings(
            dataset_name=str(birds),
            output_dir=str(folder),
            pretrained_model_name_or_path=str(tiny_base),
            metaclass="bird",
            rank=4,
            lora_alpha=12,
            # LoRA starts at zero: two steps must move it far enough to change an image.
            learning_rate=0.05,
            token_learning_rate=0.05,
            num_train_samples=4,
            total_batch_size=2,
            resolution=RESOLUTION,
        )
    )
    return folder


@pytest.fixture(scope="session")
def source_rows(birds):
    """Training rows of `birds`, with encoded images."""
    import pyarrow.parquet as pq

    (path,) = (birds / "data").glob("train-*.parquet")
    return pq.read_table(path).to_pylist()


@pytest.fixture(scope="session")
def mixing(birds):
    """Settings of a generation that only mixes: strength 0, so no diffusion model is loaded."""
    return {
        "dataset_name": birds,
        "preset": "paper",
        "saliency_method": "spectral-residual",
        "strength": 0,
        "resolution": 32,
        "num_workers": 1,
        "image_format": "png",
    }


@pytest.fixture
def read_only(tmp_path):
    """A folder on a file system of 50 MB, and a function that remounts it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=50m", "sgdmix-hub-test", folder],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def hub():
    """An empty loopback Hub."""
    from loopback_hub import loopback_hub

    with loopback_hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def publisher():
    """A publishing process and its Hub (`publisher.hub`), shared by tests; see `repo_id`."""
    from loopback_hub import loopback_hub
    from publishing import Publisher

    with loopback_hub() as hub:
        publisher = Publisher(hub)
        yield publisher
        publisher.close()


@pytest.fixture
def repo_id(publisher, request):
    """A repository name that no other test uses; also clears the shared Hub's faults and calls."""
    publisher.hub.faults.clear()
    publisher.hub.calls.clear()
    publisher.numbers = getattr(publisher, "numbers", 0) + 1
    return f"birds/test-{publisher.numbers}"


@pytest.fixture(scope="session")
def evil_source(tmp_path_factory):
    """Folder dataset of 12 rows; one class name tries to inject markup."""
    from publishing import source_dataset

    return source_dataset(tmp_path_factory.mktemp("sources") / "evil-birds")


@pytest.fixture(scope="session")
def evil_judge(tmp_path_factory):
    """Folder of a ResNet with random weights for the classes of `evil_source`."""
    from publishing import NAMES
    from tiny_models import save_classifier

    return save_classifier(tmp_path_factory.mktemp("models") / "evil-judge", NAMES)


@pytest.fixture(scope="session")
def generation(evil_source, tmp_path_factory):
    """`generation(name, **settings)`: output folder of a generation from `evil_source`.

    It only mixes, without a model. Each name is generated once per session.
    """
    from sgdmix_hub import augment
    from sgdmix_hub.settings.generation import AugmentSettings

    made = {}

    def make(name, **settings):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("generations") / name
            defaults = {
                "preset": "paper",
                "saliency_method": "spectral-residual",
                "strength": 0.0,
                "resolution": 32,
                "rows_per_shard": 5,
                "num_workers": 1,
                "image_format": "png",
                "license": "mit",
            }
            augment.main(
                AugmentSettings(
                    dataset_name=str(evil_source),
                    output_dir=str(made[name]),
                    **(defaults | settings),
                )
            )
        return made[name]

    return make


@pytest.fixture(scope="session")
def first_version(generation):
    """12 rows in 3 shards."""
    return generation("first", num_candidates=3)


@pytest.fixture(scope="session")
def second_version(generation):
    """24 rows in 2 shards, with other targets than `first_version`."""
    return generation("second", num_candidates=5, num_variants=2, rows_per_shard=12)


@pytest.fixture(scope="session")
def generation_settings(birds, classifier, adapter, tiny_base):
    """Settings of the full method: 48 rows in 8 shards; strength 0.6 of 4 steps runs 2 steps."""
    return {
        "dataset_name": birds,
        "preset": "paper",
        "classifier": classifier,
        "adapter": adapter,
        "pretrained_model_name_or_path": tiny_base,
        "resolution": 32,
        "strength": 0.6,
        "num_inference_steps": 4,
        "guidance_scale": 1,
        "batch_size": 4,
        "rows_per_shard": 6,
        "num_variants": 2,
        "image_format": "png",  # pixels are compared
        "publish_mixed": True,
    }


@pytest.fixture(scope="session")
def finished_generation(generation_settings, tmp_path_factory):
    """Output folder of `generation_settings`, generated by one process without interruption."""
    from generations import NUM_SHARDS, arguments, records, run_script

    output = tmp_path_factory.mktemp("reference") / "run"
    ended = run_script(
        arguments(generation_settings | {"output_dir": output}), output.parent / "logs"
    )
    assert ended.returncode == 0, ended.stderr
    assert len(records(output)) == NUM_SHARDS
    return output
