"""Which base models a run can use, told from their small files before any weight is fetched."""

from __future__ import annotations

from pathlib import Path

from sgdmix_hub.errors import UserError, shown
from sgdmix_hub.files import read_json
from sgdmix_hub.hub.pins import Pin, local_folder

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
ADVICE = "use a base of Stable Diffusion 1 or 2"
SMALL_FILES = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
]
LONGEST_SCHEDULE = 100_000  # noise levels; Stable Diffusion has 1,000


def check_supported(base: Pin) -> None:
    """Raises `UserError` unless the base is a text-to-image Stable Diffusion 1 or 2."""
    folder = Path(local_folder(base, SMALL_FILES))
    index = _read(base, folder / "model_index.json")
    kind = index.get("_class_name")
    if kind not in SUPPORTED:
        raise UserError(f"the base model {base.name} is a {shown(kind)}: {ADVICE}")
    unet, vae = (_read(base, folder / part / "config.json") for part in ("unet", "vae"))
    schedule = _read(base, folder / "scheduler" / "scheduler_config.json")
    levels = schedule.get("num_train_timesteps", 1000)
    if type(levels) is not int or not 1 <= levels <= LONGEST_SCHEDULE:
        raise UserError(
            f"the base model {base.name} has {shown(levels)} noise levels, "
            f"not 1 to {LONGEST_SCHEDULE}: {ADVICE}"
        )
    if unet.get("addition_embed_type") is not None:
        conditioning = shown(unet["addition_embed_type"])
        raise UserError(
            f"the base model {base.name} needs {conditioning} besides the prompt, like SDXL: "
            f"{ADVICE}"
        )
    taken, given = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if taken != given:
        raise UserError(
            f"the UNet of the base model {base.name} takes {shown(taken)} channels, its "
            f"autoencoder gives {shown(given)}, like a model for inpainting or depth: {ADVICE}"
        )


def _read(base: Pin, path: Path) -> dict:
    """One of the small files. Raises `UserError`."""
    name = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"the base model {base.name} has no {name}, so it is no diffusers pipeline "
            f"with a UNet: {ADVICE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{name} of the base model {base.name} cannot be read: {shown(error)}"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{name} of the base model {base.name} holds no settings of a model")
    return values
