"""What no reader can see at one place: who may import what, and who uses private APIs."""

import ast
from pathlib import Path

import diffusers
import pytest
from forking import run_forked
from launching import launch_environment

import sgdmix_hub
from sgdmix_hub.models.bases.families import BY_CLASS_NAME, BY_NAME, FAMILIES, families_table

PACKAGE = Path(sgdmix_hub.__file__).parent
# underscored names that their libraries document
DOCUMENTED = {"_exit"}
PYTHON_API = """
import sys

for name in [name for name in sys.modules if name.partition(".")[0] == "sgdmix_hub"]:
    del sys.modules[name]  # all of it is loaded anew
sys.modules["fcntl"] = None  # as on Windows
import sgdmix_hub.models.classifier
import sgdmix_hub.models.refine
import sgdmix_hub.models.sampling
import sgdmix_hub.pipeline

print(*(name for name in sys.modules if name.startswith("sgdmix_hub.runtime")))
"""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def private_names(source: str) -> list[str]:
    """Private names that a module takes from other libraries or from objects of others."""
    names, tree = [], ast.parse(source)
    own_functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            names += [name for name in modules if any(map(is_private, name.split(".")))]
        elif isinstance(node, ast.ImportFrom):
            own = node.level > 0 or (node.module or "").split(".")[0] == "sgdmix_hub"
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            names += [name for name in parts if not own and is_private(name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr in own_functions:
                continue  # of another object of the module's own class
            owner = node.value
            inherited = isinstance(owner, ast.Call) and ast.unparse(owner.func) == "super"
            if not (inherited or isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                names.append(node.attr)
    return names


@pytest.mark.parametrize(
    "source",
    [
        "import torch._dynamo",
        "from huggingface_hub.utils import _http",
        "from torch._C import device",
        "dataset._fingerprint",
        "library.state.State._reset_state()",
    ],
)
def test_a_private_name_of_another_library_is_found(source):
    assert private_names(source)


@pytest.mark.slow
def test_private_names_of_other_libraries_are_used_in_one_module_only():
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "_compat.py"]
    used = {str(path.relative_to(PACKAGE)): private_names(path.read_text()) for path in files}
    assert {file: names for file, names in used.items() if names} == {}


# What only a family of base models knows: its names, and those of its pipelines' parts.
OF_A_FAMILY = {"unet", "transformer", "text_encoder", "text_encoder_2", "tokenizer_2", "clip_g"} | {
    name
    for family in FAMILIES
    for name in (family.name, family.title, *family.class_names, type(family).__name__)
}
# The demo trains a base, segmenters are other models.
NO_BASES = ("models/bases", "models/segmenters", "demo", "_compat.py")


def names_of_a_family(source: str) -> list[str]:
    """What a module says that only a family of base models should know."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.keyword):
            found.append(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [alias.name for alias in node.names]
    return [name for name in found if name in OF_A_FAMILY]


@pytest.mark.parametrize(
    "source",
    [
        "pipeline.unet",
        "if family.name == 'stable-diffusion-xl': pass",
        "from diffusers import StableDiffusionPipeline",
        "isinstance(family, StableDiffusionXL)",
        "fuse_lora(components=['unet'])",
        "encode(text_encoder_2=None)",
    ],
)
def test_a_question_for_the_family_of_a_base_is_found(source):
    assert names_of_a_family(source)


@pytest.mark.slow
def test_nobody_but_the_families_asks_which_base_it_has():
    """What differs is a method or a value of `Family`."""
    files = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    asked = {
        file: names_of_a_family(source)
        for file, source in files.items()
        if not file.startswith(NO_BASES)
    }
    assert {file: names for file, names in asked.items() if names} == {}


def test_every_family_is_whole():
    """Docs have its row, cards its code for stock diffusers, files its names."""
    docs = (PACKAGE.parent / "docs" / "extending.md").read_text()
    assert families_table() in docs
    for family in FAMILIES:
        assert (PACKAGE / "templates" / "stock_loading" / f"{family.name}.py.jinja").is_file()
        assert (PACKAGE / "models" / "bases" / f"{family.name.replace('-', '_')}.py").is_file()
        assert hasattr(diffusers, family.text_to_image) and hasattr(
            diffusers, family.image_to_image
        )
    assert len(BY_CLASS_NAME) == sum(len(family.class_names) for family in FAMILIES)
    assert len(BY_NAME) == len(FAMILIES)


@pytest.mark.slow
def test_the_python_api_needs_neither_file_locks_nor_processes():
    ended = run_forked(["-c", PYTHON_API], launch_environment())
    assert (ended.returncode, ended.stdout.strip()) == (0, ""), ended.stderr


def test_the_map_of_the_code_names_every_room():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    tree = text.split("## Find your way")[1].split("```")[1]
    named = {word.strip("/").removesuffix(".py") for word in tree.split()}
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(rooms - {"__init__", "_version", "__pycache__"} - named) == []
