"""The page of published versions as a Space of the Hub: three files that install and start it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from sgdmix_hub._version import __version__
from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.hub.pins import name_and_revision

APP = '''\
"""Looks through published SGD-Mix datasets. Made by `sgdmix studio --push_space`."""

from sgdmix_hub.studio.space import serve_space

serve_space({names!r}, {config_name!r})
'''
EVERYWHERE, PORT = "0.0.0.0", "7860"  # where a Space has to listen
PORT_NAME = "GRADIO_SERVER_PORT"  # Gradio's own word for another port
PICTURE_SIZE = 256


def write_space(folder: Path, names: Sequence[str], config_name: str) -> None:
    """Writes the Space's files. Raises `UserError` for a version that the Hub does not have."""
    for name in names:
        repository, revision = name_and_revision(name)
        if os.path.isdir(name) or repository.count("/") != 1 or not revision:
            raise UserError(
                f"{shown(name)} is not a published version: give it as org/name@v1.0.0, which a "
                "Space can read"
            )
    datasets = [name_and_revision(name)[0] for name in names]
    card = {
        "title": f"{datasets[0].rpartition('/')[2]}, row by row",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "app_file": "app.py",
        "datasets": datasets,
        "tags": ["sgd-mix"],
    }
    head = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\nLooks through {' and '.join(names)}: sources, masks, mixtures.\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "requirements.txt").write_text(f"sgdmix_hub[studio]=={__version__}\n", "utf-8")
    code = APP.format(names=list(names), config_name=config_name)
    (folder / "app.py").write_text(code, encoding="utf-8")


def serve_space(names: Sequence[str], config_name: str) -> None:
    """What the Space runs; ends with one line in its log if a version cannot be shown."""
    from .browse_page import Asked, BrowsePage
    from .serving import serve

    port = int(os.environ.get(PORT_NAME, PORT))
    try:
        page = BrowsePage(Asked(names, config_name, None), None, PICTURE_SIZE).build()
        serve(page, EVERYWHERE, port, open_browser=False, in_space=True)
    except UserError as error:
        sys.exit(f"sgdmix_hub: {error}")
