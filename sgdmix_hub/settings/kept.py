"""Settings of the part of the foreground that refinement keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sgdmix_hub.errors import UserError

from .fields import Checked, setting
from .presets import apply_preset
from .strengths import num_steps

if TYPE_CHECKING:
    from .method import MethodSettings


@dataclass(kw_only=True)
class KeptSettings(Checked):
    """How much of the foreground is kept, where `foreground_strength` keeps it."""

    kept_erosion: float | None = setting(
        None,
        "width of a ring inside the foreground's edge that is refined too, as a share of the image "
        "size; for seams, and for masks that are too large",
        above=0,
        at_most=0.5,
    )


def check_kept_foreground(settings: MethodSettings, name: str) -> None:
    """Raises `UserError` if the setting `name` needs a foreground at a lower strength than the
    rest, and there is none.
    """
    kept, most = apply_preset(settings).foreground_strength, max(settings.strength)
    if settings.strength_unit is None and kept is not None:
        kept, most = num_steps(settings, kept), num_steps(settings, most)
    if settings.refines and (kept is None or kept == most):
        raise UserError(
            f"{name} needs a kept foreground: set foreground_strength below the strength "
            f"{max(settings.strength):g}"
        )
