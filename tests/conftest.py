"""Shared fixtures: tiny models with random weights and tiny datasets, all in the real formats."""

import json
import os
import shutil
import subprocess
import tempfile

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

import hypothesis  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: E402
from generations import NUM_SHARDS, arguments, records, run_script  # noqa: E402
from loopback_hub import loopback_hub  # noqa: E402
from publishing import NAMES, Publisher, source_dataset  # noqa: E402
from transformers import (  # noqa: E402
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from sgdmix_hub import augment, train_adapter  # noqa: E402
from sgdmix_hub.demo.domain import make_dataset, save_dataset  # noqa: E402
from sgdmix_hub.demo.tiny_unet import build_tokenizer  # noqa: E402
from sgdmix_hub.settings.generation import AugmentSettings  # noqa: E402
from sgdmix_hub.settings.training import AdapterSettings  # noqa: E402

RESOLUTION = 32

# Fixed examples, so that a new failure comes from the change under test. No deadline, because busy
# machines are slow.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


def build_tiny_pipeline(latent_channels: int = 4) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline with random weights, for images of 32x32."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=RESOLUTION,
    )
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 4,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """Folder of `build_tiny_pipeline()`, saved in the Stable Diffusion format."""
    folder = tmp_path_factory.mktemp("models") / "tiny-base"
    build_tiny_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def prudish_base(tiny_base, tmp_path_factory):
    """The tiny base with a real safety checker whose thresholds are so low that it flags all."""
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("prudish") / "base")
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = text | {"image_size": RESOLUTION, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    )
    with torch.no_grad():
        for name, parameter in checker.named_parameters():
            if name.endswith("_embeds"):
                parameter.copy_(torch.randn(parameter.shape))
            if name.endswith("_embeds_weights"):
                parameter.fill_(-2.0)  # the thresholds; cosines are at least -1
    checker.save_pretrained(folder / "safety_checker")
    processor = CLIPImageProcessor(
        size={"shortest_edge": RESOLUTION}, crop_size={"height": RESOLUTION, "width": RESOLUTION}
    )
    processor.save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["requires_safety_checker"] = True
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def birds(tmp_path_factory):
    """Folder dataset of 4 species at 32x32: 24 training, 8 validation and 16 test rows.

    Columns: image, label, mask, background.
    """
    folder = tmp_path_factory.mktemp("data") / "birds"
    save_dataset(make_dataset(4, 6, 2, 4, seed=0, resolution=RESOLUTION), folder)
    return folder


@pytest.fixture(scope="session")
def class_names():
    """Class names of `birds`."""
    return make_dataset(4, 1, 1, 1, seed=0, resolution=RESOLUTION)["train"].features["label"].names


@pytest.fixture(scope="session")
def classifier(tmp_path_factory, class_names):
    """Folder of a ResNet with random weights for the classes of `birds`.

    Its input is 64x64, its last stage 8x8. It records no training subset.
    """
    return save_classifier(tmp_path_factory.mktemp("models") / "classifier", class_names)


def save_classifier(folder, class_names):
    # With other seeds some Grad-CAM maps of `birds` are all zero, and those rows are skipped.
    torch.manual_seed(1)
    names = dict(enumerate(class_names))
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=names,
        label2id={name: label for label, name in names.items()},
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, tiny_base, birds):
    """Folder of an adapter trained for two steps, on `tiny_base` and the training rows of `birds`.

    Its alpha differs from its rank, so that tests see the scale alpha / rank.
    """
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
            max_train_steps=2,
            resolution=RESOLUTION,
        )
    )
    return folder


@pytest.fixture(scope="session")
def source_rows(birds):
    """Training rows of `birds`, with encoded images."""
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
    with loopback_hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def publisher():
    """A publishing process and its Hub (`publisher.hub`), shared by tests; see `repo_id`."""
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
    return source_dataset(tmp_path_factory.mktemp("sources") / "evil-birds")


@pytest.fixture(scope="session")
def evil_judge(tmp_path_factory):
    """Folder of a ResNet with random weights for the classes of `evil_source`."""
    return save_classifier(tmp_path_factory.mktemp("models") / "evil-judge", NAMES)


@pytest.fixture(scope="session")
def generation(evil_source, tmp_path_factory):
    """`generation(name, **settings)`: output folder of a generation from `evil_source`.

    It only mixes, without a model. Each name is generated once per session.
    """
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
        "publish_mixed": True,
    }


@pytest.fixture(scope="session")
def finished_generation(generation_settings, tmp_path_factory):
    """Output folder of `generation_settings`, generated by one process without interruption."""
    output = tmp_path_factory.mktemp("reference") / "run"
    ended = run_script(
        arguments(generation_settings | {"output_dir": output}), output.parent / "logs"
    )
    assert ended.returncode == 0, ended.stderr
    assert len(records(output)) == NUM_SHARDS
    return output
