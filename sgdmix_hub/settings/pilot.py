"""Settings of a pilot, which chooses the strength of every class: `strength auto`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgdmix_hub.errors import UserError

from .fields import AUTO, NumberOrAuto, setting
from .method import MethodSettings
from .presets import preset_values
from .strengths import strength_grid

PILOT_ROWS, MIN_PILOT_FIDELITY, MAX_FOREGROUND_DRIFT = 8, 0.9, 0.5  # unless given
PILOT_CONFIDENCE = 0.9  # unless given
BOUNDS = ("min_pilot_fidelity", "max_foreground_drift", "pilot_confidence")
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the steps, that `auto` chooses from beside 0


@dataclass(kw_only=True)
class PilotSettings(MethodSettings):
    """How a class gets one of several strengths."""

    strength: list[NumberOrAuto] = setting(
        [0.7],
        "S, the share of the diffusion steps that refine the mixed image; 0 only mixes; with "
        "several values, the variants of a source take turns; auto: a pilot chooses one for each "
        "class",
        at_least=0,
        at_most=1,
    )
    strength_choice: Literal["auto", "shuffled"] | None = setting(
        None,
        "how rows get one of several strengths. auto: the one that a pilot chose for their class; "
        "shuffled: the values of auto, assigned to rows at random, as a control; by default in "
        "turn",
    )
    pilot_classifier: str | None = setting(
        None,
        "classifier trained on real images that looks at the pilot's images, not the one that the "
        "dataset is measured with; org/name[@revision] or folder",
        pinned=True,
    )
    pilot_rows: int | None = setting(
        None,
        f"rows of each class in the pilot, each made at every strength; {PILOT_ROWS} if not given",
        at_least=2,
        at_most=256,
    )
    min_pilot_fidelity: float | None = setting(
        None,
        "mean probability of the label that a class must keep, as a share of that without "
        f"refinement; {MIN_PILOT_FIDELITY:g} if not given",
        above=0,
        at_most=1,
    )
    max_foreground_drift: float | None = setting(
        None,
        "how far a class's foregrounds may move from the unrefined ones on average, in the "
        "classifier's features, as a share of the median distance between two images of the "
        f"class; {MAX_FOREGROUND_DRIFT:g} if not given",
        at_least=0,
        at_most=10,
    )
    pilot_confidence: float | None = setting(
        None,
        "confidence with which the rows of a pilot must show that a class is within both bounds "
        "(one-sided t-intervals); 0.5 compares the means alone; "
        f"{PILOT_CONFIDENCE:g} if not given",
        at_least=0.5,
        below=1,
    )

    def __post_init__(self) -> None:
        """Puts the strengths to choose from in the place of `auto`. Raises `UserError`."""
        super().__post_init__()
        if self.strength == [AUTO]:
            self.strength = self._to_choose_from()
            self.strength_choice = self.strength_choice or AUTO

    def _to_choose_from(self) -> list[float]:
        """0, where it gives a new image of its label, and shares of the steps; none below
        `foreground_strength`.
        """
        mixing = self.mixing_method or preset_values(self)["mixing_method"]
        only_mixes = mixing != "none" and self.prompt_class != "target"
        shares = list(SHARES)
        if self.strength_unit is None:
            grid = strength_grid(self.num_inference_steps)
            wanted = [max(1, round(share * self.num_inference_steps)) for share in SHARES]
            shares = [grid[min(steps, len(grid)) - 1] for steps in dict.fromkeys(wanted)]
        lowest = self.foreground_strength or 0.0
        found = [strength for strength in dict.fromkeys(shares) if strength >= lowest]
        return ([0.0] if only_mixes and lowest == 0 else []) + found

    def validate(self) -> None:
        super().validate()
        if self.strength_choice is None:
            for name in (*BOUNDS, "pilot_rows"):
                if getattr(self, name) is not None:
                    raise UserError(f"{name} needs --strength auto")
            return
        if len(self.strength) < 2:
            raise UserError(
                f"strength_choice {self.strength_choice} needs several strengths to choose from: "
                "give --strength auto, or a list"
            )
        if self.pilot_classifier is None:
            raise UserError(
                f"strength_choice {self.strength_choice} needs --pilot_classifier, a classifier "
                "trained on real images, and not the one that the dataset is measured with"
            )

    @property
    def rows_of_class(self) -> int:
        """Rows of each class in the pilot."""
        return PILOT_ROWS if self.pilot_rows is None else self.pilot_rows

    @property
    def asked_fidelity(self) -> float:
        """Share of the label's probability that a class must keep."""
        given = self.min_pilot_fidelity
        return MIN_PILOT_FIDELITY if given is None else given

    @property
    def allowed_drift(self) -> float:
        """How far foregrounds may move, as a share of the distance between two of the class."""
        given = self.max_foreground_drift
        return MAX_FOREGROUND_DRIFT if given is None else given

    @property
    def asked_confidence(self) -> float:
        """Confidence with which a class must be within both bounds."""
        return PILOT_CONFIDENCE if self.pilot_confidence is None else self.pilot_confidence
