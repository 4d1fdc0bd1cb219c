"""README and docs: the commands parse, links lead somewhere, and what is named is there."""

import re
import shlex
from importlib import import_module

import pytest
from launching import ROOT

from sgdmix_hub import cli
from sgdmix_hub.settings.parsing import parse_settings

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# what a page leaves to its reader, and what has to be there for the settings to be checked
STANDS_FOR = {"$NODE": "1", "$FIRST_NODE": "10.0.0.1", "...": ""}
GIVEN = [
    "--output_dir=out",
    "--dataset_name=org/birds",
    "--adapter=org/adapter",
    "--classifier=org/classifier",
    "--metaclass=bird",
]


def commands(page) -> list[str]:
    """The `sgdmix PROGRAM ...` of a page's indented blocks and code blocks, with their continued
    lines.
    """
    text = re.sub(r"\\\n\s+", " ", page.read_text())
    return re.findall(r"^(?:\s{4}|\$ )(sgdmix [a-z-]+ .*?)(?:\s+#.*)?$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "generate.yaml").write_text("strength: 0\n")
    for command in commands(page):
        for name, value in STANDS_FOR.items():
            command = command.replace(name, value)
        _, name, *words = shlex.split(command)
        if name in cli.OTHERS:
            continue
        program = cli.PROGRAMS[name]
        module, _, class_name = program.settings.partition(":")
        settings_class = getattr(import_module(f"sgdmix_hub.{module}"), class_name)
        accelerate, _, words = cli.take_launch_options(words)
        assert accelerate is None or program.launches
        fields = settings_class.__dataclass_fields__
        given = [word for word in GIVEN if word.partition("=")[0].removeprefix("--") in fields]
        if not any(word.startswith("hf://") for word in words):
            parse_settings(settings_class, [*given, *words])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, heading = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]
            assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tests_and_modules_that_are_named_exist(page):
    files = {
        path.name
        for folder in ("tests", "sgdmix_hub", "benchmarks", "scripts", "examples")
        for path in (ROOT / folder).rglob("*")
    }
    for name in re.findall(r"`(?:[\w/.]*/)?(\w+\.py)`", page.read_text()):
        assert name in files, name


def test_python_blocks_compile():
    for page in PAGES:
        for block in re.findall(
            r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            compile(block, str(page), "exec")


def test_the_pages_hold_commands():
    assert sum(len(commands(page)) for page in PAGES) > 20
