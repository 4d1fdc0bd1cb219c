"""README, docs and cards: code blocks run, commands parse, links and names exist.

Python blocks run in the order of their page, against tiny models, the tests' birds and a Hub on the
loopback interface. `GIVEN` and `REPLACED` are all that a page leaves to its reader. The snippets of
published cards run in tests/publishing, where the cards are made.
"""

import json
import re
import shlex
import shutil
from importlib import import_module
from importlib.util import find_spec

import pytest
from datasets import load_dataset
from forking import run_forked
from launching import ROOT, launch_environment
from loopback_hub import READ_TOKEN, hub_environment
from publishing import another

from sgdmix_hub import cli
from sgdmix_hub.demo import run_demo
from sgdmix_hub.settings.parsing import parse_settings

ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "RELEASE.md", "SECURITY.md", "CHANGELOG.md")
PAGES = sorted(
    [
        *(ROOT / name for name in ROOT_PAGES),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "sgdmix_hub" / "recipes").glob("*/card.md"),
        *(ROOT / "sgdmix_hub" / "templates").glob("*.md"),
    ]
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
LONGEST_LINE = 120
# What stands for the reader's values in shell blocks. In cards it is what the templates fill in.
STANDS_FOR = {
    "$NODE": "1",
    "$I": "1",
    "$FIRST_NODE": "10.0.0.1",
    "...": "",
    "hf://datasets/{{ repository }}@{{ version }}/sgdmix/{{ settings.config_name }}/config.yaml": (
        "hf://datasets/org/cub-sgdmix@v1.0.0/sgdmix/default/config.yaml"
    ),
    "{{ repository }}@{{ version }}": "org/cub-sgdmix@v1.0.0",
    "{{ repo_id }}": "org/cub-adapter",
    "{{ dataset }}": "org/cub",
    "{{ source_word }}": "org/cub",
}
# Settings that a command may leave out where the page is about others.
REQUIRED = {
    "output_dir": "out",
    "dataset_name": "org/birds",
    "adapter": "org/adapter",
    "classifier": "org/classifier",
    "metaclass": "bird",
}
LAUNCHED = {program.module: program for program in cli.PROGRAMS.values()}

# Python lines before a page's first block: the variables that its reader has.
GIVEN = {
    "docs/generation.md": """
from datasets import load_dataset
dataset = load_dataset(BIRDS, split="train")
images = [dataset[row]["image"] for row in (0, 1, 2)]
targets = [dataset[row]["image"] for row in (4, 5, 6)]
labels = [dataset[row]["label"] for row in (0, 1, 2)]
""",
    "docs/on_the_fly.md": """
from pathlib import Path
from datasets import load_dataset
for number, row in enumerate(load_dataset(BIRDS, split="train")):
    folder = Path("birds") / str(row["label"])
    folder.mkdir(parents=True, exist_ok=True)
    row["image"].save(folder / f"{number}.png")
""",
    "docs/api.md": """
import tempfile
from datasets import load_dataset
FOLDER = tempfile.mkdtemp()
dataset = load_dataset(BIRDS, split="train")
images, targets = ([dataset[row]["image"] for row in rows] for rows in ((0, 1), (4, 6)))
labels = [dataset[row]["label"] for row in (0, 1)]
""",
    "docs/evaluating.md": """
import numpy as np
synthetic_features, real_features = np.random.default_rng(0).normal(size=(2, 40, 8))
""",
}
# Names of the Hub that are folders here; models of 32x32 pixels.
REPLACED = {
    "docs/generation.md": {
        '"org/cub-adapter",': "BASE, ADAPTER, resolution=32, num_inference_steps=4,",
        '"stable-diffusion-v1-5/stable-diffusion-v1-5"': "BASE",
    },
    "docs/on_the_fly.md": {'"org/birds"': "BIRDS"},
    "docs/api.md": {
        '"me/bird-adapter",': "ADAPTER, resolution=32,",
        '"stable-diffusion-v1-5/stable-diffusion-v1-5"': "BASE",
        "num_inference_steps=30": "num_inference_steps=4",
        '"my-pipeline"': "FOLDER",
    },
    "docs/publishing.md": {'"s3://bucket/cub"': '"outputs/demo/run/repo"'},
    "docs/trust.md": {'"org/cub-sgdmix@0123456789abcdef0123456789abcdef01234567"': "AT_COMMIT"},
}
# Python lines after a page's last block: what it claims.
CLAIMED = {
    "README.md": "assert mixed.size == (512, 512) and synthetic[0]['image'].size == (32, 32)",
    "docs/tutorial.md": "assert len(rows) == 12 and row['image'].size == (32, 32)",
    "docs/api.md": """
again = SGDMixPipeline.from_pretrained(BASE, FOLDER)
assert again.settings == pipeline.settings and len(output.images) == 2
""",
    "docs/generation.md": """
assert all(image.size == (32, 32) for image in refined) and len(augmented) == len(dataset)
assert pipeline.class_names == ["heron", "kite"]
""",
    "docs/extending.md": """
from PIL import Image
assert centre(Image.new("RGB", (80, 60)), None).shape == (64, 64)
candidates = np.array([7, 2])
assert Neighbour().best(1, candidates) == 2
""",
    "docs/on_the_fly.md": """
assert row["image"].size == image.size == (32, 32)
assert batch["image"].shape[1:] == (3, 224, 224)
assert train[0]["label"] == dataset[0]["label"]
""",
    "docs/publishing.md": "assert dataset[0][0].size == (32, 32)",
}
RUN = """
import json, os, sys, traceback
given, pages = json.load(open(sys.argv[2]))
outcomes = {}
for page, code in pages.items():
    names = dict(given)
    try:
        exec(compile(code, page, "exec"), names)
        outcomes[page] = None
    except Exception:
        outcomes[page] = traceback.format_exc()
json.dump(outcomes, open(sys.argv[1], "w"))
"""


def blocks(page, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )


def commands(page) -> list[str]:
    """The commands of a page's shell blocks: continued lines joined, comments left out."""
    text = re.sub(r"\\\n\s+", " ", "".join(blocks(page, "bash")))
    lines = [re.sub(r"\s+#.*", "", line) for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def check_settings(program: cli.Program, words: list[str]) -> None:
    """Parses the words as the program does, without what only the Hub knows."""
    module, _, class_name = program.settings.partition(":")
    settings_class = getattr(import_module(f"sgdmix_hub.{module}"), class_name)
    fields = settings_class.__dataclass_fields__
    for place in range(len(words) - 1, 0, -1):  # --config hf://...: only the Hub knows it
        if words[place].startswith("hf://"):
            del words[place - 1 : place + 1]
    required = [f"--{name}={value}" for name, value in REQUIRED.items() if name in fields]
    parse_settings(settings_class, [*required, *words])


def check_sgdmix(words: list[str]) -> None:
    name, *words = words
    if name == "demo":
        run_demo.parse_args(words)
    elif name == "launch":
        pytest.importorskip("datatrove", reason="needs the extra engines")
        dataset = f"--dataset_name={REQUIRED['dataset_name']}"
        import_module("sgdmix_hub.engines").parse_args([*words, dataset])
    elif name == "env":
        assert not words
    else:
        accelerate, _, words = cli.take_launch_options(words)
        assert accelerate is None or cli.PROGRAMS[name].launches
        check_settings(cli.PROGRAMS[name], words)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


def check_pip(words: list[str]) -> None:
    install, package = words
    name, _, extra = package.removesuffix("]").partition("[")
    assert install == "install" and name in (".", "sgdmix_hub")
    assert not extra or f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


def check_accelerate(words: list[str]) -> None:
    launch, flag, module, *words = words
    assert (launch, flag) == ("launch", "-m")
    check_settings(LAUNCHED[module.removeprefix("sgdmix_hub.")], words)


def check_sbatch(words: list[str]) -> None:
    script, _, program, *words = words
    assert (ROOT / script).is_file() and (ROOT / program).is_file()
    (module,) = re.findall(r"from sgdmix_hub\.?(\w*) import main", (ROOT / program).read_text())
    check_settings(LAUNCHED[module], words)


CHECKS = {
    "sgdmix": check_sgdmix,
    "make": check_make,
    "pip": check_pip,
    "accelerate": check_accelerate,
    "sbatch": check_sbatch,
}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "generate.yaml").write_text("strength: 0\n")
    stands_for = dict(STANDS_FOR)
    for command in commands(page):
        for name, value in stands_for.items():
            command = command.replace(name, value)
        program, *words = shlex.split(command)
        variable, equals, value = program.partition("=")
        if equals:
            stands_for[f"${variable}"] = value
        elif program != "export":
            CHECKS[program](words)


def test_the_pages_hold_commands():
    assert sum(len(commands(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_has_a_language_that_is_checked(page):
    languages = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)[::2]
    known = {"python", "bash", "text"} | ({"bibtex"} if "templates" in page.parts else set())
    assert set(languages) <= known
    assert not re.search(r"^    (sgdmix|make|accelerate) ", page.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def outcomes(publisher, first_version, few_birds, adapter, tiny_base, tmp_path_factory):
    """Page -> the traceback of its Python blocks, or None; all run in one process."""
    folder = tmp_path_factory.mktemp("reader")
    pin = publisher.published(first_version, "birds/of-the-docs")
    for name in ("me/birds-sgdmix", "org/cub-sgdmix"):
        another(publisher.hub, "birds/of-the-docs", name)
    rows = load_dataset(str(few_birds), split="train")
    rows[0]["image"].save(folder / "bird.jpg", quality=100)
    rows[4]["image"].save(folder / "landscape.jpg", quality=100)
    shutil.copytree(first_version, folder / "outputs" / "demo" / "run")
    given = {
        "BIRDS": str(few_birds),
        "ADAPTER": str(adapter),
        "BASE": str(tiny_base),
        "AT_COMMIT": f"org/cub-sgdmix@{pin.rpartition('@')[2]}",
    }
    pages = {}
    for page, name in zip(PAGES, NAMES, strict=True):
        code = "".join(blocks(page, "python"))
        for text, value in REPLACED.get(name, {}).items():
            assert text in code
            code = code.replace(text, value)
        if code and "templates" not in page.parts:
            pages[name] = "\n".join([GIVEN.get(name, ""), code, CLAIMED.get(name, "")])
    (folder / "pages.json").write_text(json.dumps([given, pages]))
    done = run_forked(
        ["-c", RUN, folder / "outcomes.json", folder / "pages.json"],
        launch_environment(hub_environment(publisher.hub, READ_TOKEN)),
        folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "outcomes.json").read_text())


@pytest.mark.slow
def test_python_blocks_run(outcomes):
    assert len(outcomes) >= 7
    failed = [f"{page}\n{error}" for page, error in outcomes.items() if error]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lines_are_short(page):
    """Lines of tables, pictures, templates and printed output may be longer, and so may one URL."""
    text = re.sub(r"^```text\n.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text, _, _ = text.partition("<!-- written by")
    for line in text.splitlines():
        if not line.startswith(("|", "![")) and "templates" not in page.parts:
            assert len(line) <= LONGEST_LINE or " " not in line.strip(), line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://|mailto:", target) or "templates" in page.parts:
            continue
        path, _, heading = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]
            assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_modules_and_options_that_are_named_exist(page):
    files = {
        path.name
        for folder in ("tests", "sgdmix_hub", "benchmarks", "scripts", "examples")
        for path in (ROOT / folder).rglob("*")
    }
    text = page.read_text()
    for name in re.findall(r"`(?:[\w/.]*/)?(\w+\.py)`", text):
        assert name in files, name
    for module in re.findall(r"python -m (sgdmix_hub[\w.]*)", text):
        assert find_spec(module), module
    for script, options in re.findall(r"`python (benchmarks/\w+\.py)([^`]*)`", text):
        source = (ROOT / script).read_text()
        for option in re.findall(r"--\w+", options):
            assert f'"{option}"' in source, f"{script} {option}"
