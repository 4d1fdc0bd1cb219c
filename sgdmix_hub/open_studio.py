"""A page in the browser: to choose how a dataset is mixed, or to look through published versions.

sgdmix studio --dataset_name me/my-birds              -> generate.yaml, which `augment` takes
sgdmix studio --published me/cub-sgdmix@v1.0.0        -> drop.csv, which `evaluate --drop` takes
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import say, start_processes
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.studio import StudioSettings

from .errors import UserError

if TYPE_CHECKING:
    import gradio as gr  # an extra
    import torch

    from sgdmix_hub.studio.tryout import Tryout

EXTRA = "the studio needs Gradio: pip install 'sgdmix_hub[studio]'"
# Settings of a generation that the studio has too, under the same names.
SHARED = tuple(
    field.name
    for field in dataclasses.fields(StudioSettings)
    if field.name in {other.name for other in dataclasses.fields(AugmentSettings)}
    and field.name != "hub_private_repo"
)


def main(settings: StudioSettings) -> None:
    """Serves the page until it is stopped, or deploys it. Raises `UserError`."""
    settings.validate()
    if importlib.util.find_spec("gradio") is None:
        raise UserError(EXTRA)
    if settings.push_space is not None:
        push_space(settings, settings.push_space)
        return
    rank = start_processes(settings.num_threads or 1)
    if rank.count > 1:
        raise UserError("the studio runs in one process: start it without a launcher")
    from sgdmix_hub.studio.serving import serve

    serve(page_of(settings, rank.device), settings.host, settings.port, settings.open_browser)


def push_space(settings: StudioSettings, repo_id: str) -> None:
    """Pushes the page of the published versions as a Space. Raises `UserError`."""
    from sgdmix_hub.hub.push import push_folder
    from sgdmix_hub.studio.space import write_space

    with tempfile.TemporaryDirectory() as folder:
        write_space(Path(folder), settings.published or [], settings.published_config_name)
        pin = push_folder(
            folder, repo_id, "space", settings.hub_private_repo, message="Deploy the studio"
        )
    say(f"studio: pushed to the Space {pin}")


def page_of(settings: StudioSettings, device: torch.device) -> gr.Blocks:
    """The page that the settings ask for. Raises `UserError`."""
    from sgdmix_hub.studio.browse_page import Asked, BrowsePage
    from sgdmix_hub.studio.choose_page import ChoosePage

    if settings.published is not None:
        asked = Asked(settings.published, settings.published_config_name, settings.dataset_name)
        return BrowsePage(asked, Path(settings.file), settings.picture_size).build()
    return ChoosePage(tryout_of(settings, device), Path(settings.file)).build()


def tryout_of(settings: StudioSettings, device: torch.device) -> Tryout:
    """The images to choose with. Raises `UserError`."""
    from sgdmix_hub.studio.tryout import Tryout

    return Tryout(start_of(settings), settings.num_images, settings.picture_size, device)


def start_of(settings: StudioSettings) -> AugmentSettings:
    """The settings that the page begins with. Raises `UserError`."""
    given = {name: getattr(settings, name) for name in SHARED}
    given = {name: value for name, value in given.items() if value is not None}
    # nothing is made from the page: subsets of others leak nothing here
    given |= {"output_dir": "outputs"}
    if settings.start is None:
        return AugmentSettings(**given)
    words = ["--config", settings.start, *(f"--{name}={value}" for name, value in given.items())]
    return parse_settings(AugmentSettings, words)


if __name__ == "__main__":
    launch(main, StudioSettings)
