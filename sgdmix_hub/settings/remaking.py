"""Settings of a judge that sends images back, to be made again."""

from __future__ import annotations

from dataclasses import dataclass

from sgdmix_hub.errors import UserError

from .fields import Checked, setting

MIN_LABEL_PROBABILITY, MAX_ATTEMPTS = 0.5, 4  # unless given


@dataclass(kw_only=True)
class RemakingSettings(Checked):
    """Which images are made again, and how often."""

    judge: str | None = setting(
        None,
        "classifier trained on real images that checks every image; images whose label it doubts "
        "are made again; org/name[@revision] or folder",
        pinned=True,
    )
    min_label_probability: float | None = setting(
        None,
        f"the judge doubts a label below this probability; {MIN_LABEL_PROBABILITY:g} if not given",
        above=0,
        at_most=1,
    )
    max_attempts: int | None = setting(
        None,
        "maximum number of attempts per image: with another seed, then at half the strength, "
        f"finally without refinement (mixed images only); {MAX_ATTEMPTS} if not given",
        at_least=1,
        at_most=100,
    )

    def validate(self) -> None:
        super().validate()
        for name in ("min_label_probability", "max_attempts"):
            if self.judge is None and getattr(self, name) is not None:
                raise UserError(f"{name} needs --judge, a classifier trained on real images")

    @property
    def asked_probability(self) -> float:
        """The label's probability that an image must reach."""
        given = self.min_label_probability
        return MIN_LABEL_PROBABILITY if given is None else given

    @property
    def allowed_attempts(self) -> int:
        """How often an image may be made."""
        return MAX_ATTEMPTS if self.max_attempts is None else self.max_attempts
