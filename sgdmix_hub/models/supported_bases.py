"""Which base models a run can use, told from the small files of one, before its weights are fetched
or anything is made with it.
"""

from __future__ import annotations

from pathlib import Path

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import Pin, local_folder

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
ADVICE = "bases of Stable Diffusion 1 and 2 are supported"
SMALL_FILES = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
]
LONGEST_SCHEDULE = 100_000  # noise levels, of which Stable Diffusion has 1,000


def check_supported(base: Pin) -> None:
    """Raises `UserError` for a base that is no Stable Diffusion 1 or 2 which makes images from text
    alone.
    """
    folder = Path(local_folder(base, SMALL_FILES))
    index = _read(base, folder / "model_index.json")
    kind = index.get("_class_name")
    if kind not in SUPPORTED:
        raise UserError(f"the base model {base.name} is a {shown(kind)}: {ADVICE}")
    unet, vae = (_read(base, folder / part / "config.json") for part in ("unet", "vae"))
    levels = _read(base, folder / "scheduler" / "scheduler_config.json").get(
        "num_train_timesteps", 1000
    )
    if type(levels) is not int or not 1 <= levels <= LONGEST_SCHEDULE:
        raise UserError(
            f"the base model {base.name} has {shown(levels)} noise levels, more than {LONGEST_SCHEDULE} or none: {ADVICE}"
        )
    if unet.get("addition_embed_type") is not None:
        beside = shown(unet["addition_embed_type"])
        raise UserError(
            f"the base model {base.name} takes {beside} beside the prompt, as SDXL does: {ADVICE}"
        )
    taken, given = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if taken != given:
        other = f"takes {shown(taken)} channels where its autoencoder gives {shown(given)}, as models for inpainting, depth or editing do"
        raise UserError(f"the base model {base.name} {other}: {ADVICE}")


def _read(base: Pin, path: Path) -> dict:
    """One of the small files as a dictionary. Raises `UserError`."""
    name = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"the base model {base.name} has no {name}, so it is no diffusers pipeline with a UNet: {ADVICE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{name} of the base model {base.name} cannot be read: {shown(error)}"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{name} of the base model {base.name} holds no settings of a model")
    return values
