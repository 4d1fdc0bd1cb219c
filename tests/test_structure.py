"""What no reader can see at one place: who may import what, and who uses private APIs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sgdmix_hub

PACKAGE = Path(sgdmix_hub.__file__).parent
# underscored names that their libraries document
DOCUMENTED = {"_exit"}
PYTHON_API = """
import sys

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
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            names += [name for name in modules if any(map(is_private, name.split(".")))]
        elif isinstance(node, ast.ImportFrom):
            own = node.level > 0 or (node.module or "").split(".")[0] == "sgdmix_hub"
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            names += [name for name in parts if not own and is_private(name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
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


def test_private_names_of_other_libraries_are_used_in_one_module_only():
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "_compat.py"]
    used = {str(path.relative_to(PACKAGE)): private_names(path.read_text()) for path in files}
    assert {file: names for file, names in used.items() if names} == {}


def test_the_python_api_needs_neither_file_locks_nor_processes():
    ended = subprocess.run(
        [sys.executable, "-c", PYTHON_API], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, ""), ended.stderr
