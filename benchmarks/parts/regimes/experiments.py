"""The experiments' domains and arms, as settings of the programs that users run."""

from __future__ import annotations

from dataclasses import dataclass, field

from parts.evidence.arms import TRUE
from parts.evidence.placebos import BASE_ALONE, OTHER_MASKS, ROUND_TRIP
from parts.method.arms import GENERATION as MIXING_ALONE
from parts.regimes.residual import RESTORED

from sgdmix_hub.demo.world import PLACES

REAL = "flips and crops"
LADDER = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]
MASKED = MIXING_ALONE | TRUE | {"preset": "recommended"}


@dataclass(frozen=True)
class Arm:
    """How a classifier is trained. `generation`: settings of its synthetic images beyond the
    experiment's (None: it has none). `with_bank`: targets are empty landscapes of all kinds.
    `with_residual`: foregrounds get back what the autoencoder loses of their mixtures.
    """

    generation: dict | None = None
    with_bank: bool = False
    with_residual: bool = False


@dataclass(frozen=True)
class Experiment:
    """`domain`: arguments of `make_dataset`; `subset`: of a training's data; `primary`: pairs of
    arms whose difference was named beforehand; `secondary`: pairs that say what a primary
    difference comes from, named before the second arm of each ran. Arms run in their order.
    """

    title: str
    domain: dict
    generation: dict
    arms: dict[str, Arm]
    primary: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    epochs: int = 80
    subset: dict = field(default_factory=dict)
    with_adapter: bool = False
    secondary: tuple[tuple[str, str], ...] = ()

    @property
    def first_arms(self) -> list[str]:
        """Those of the primary comparisons."""
        return list(dict.fromkeys(name for pair in self.primary for name in pair))


MIXED, PLACES_AT_9, RING = "S = 0", "place prompts, S = 0.9", "ring and background, S = 0.5"
BANK, CLASS_AT_9 = "a bank of empty landscapes, S = 0", "class prompt, S = 0.9"
BACKGROUND_ALONE = "background alone, S = 0.5"
AUTO, SHUFFLED = "S by class (`auto`)", "the same strengths, shuffled"
BY_MEANS, MEANS_SHUFFLED = "S by class, by means", "those strengths, shuffled"
TRUE_MIXED = "true masks, S = 0"
PASTED = "true masks, background alone, S = 0.5"
UNPASTED, RESIDUAL = f"{PASTED}, not pasted", f"{PASTED}, not pasted, residual given back"
FIXED = "S = 0.5"
FIXED_STRENGTHS = (MIXED, "S = 0.3", FIXED, "S = 0.7")  # the best of these is told
TEN_PLACES = {
    "prompt_template": "{class_name}",
    "background_prompts": list(PLACES.values()),
    "background_prompt_template": "a photo of a bird {background}",
}
BACKGROUND = BASE_ALONE | {"strength": 0.5}
DILATED = {"mask_dilation": 0.08}
RING_ONLY = {"kept_erosion": 0.08}
PAPER_MIXING = MIXING_ALONE | {
    "preset": "paper",
    "saliency_method": "minimum-barrier",
    "mask_refinement": "grabcut",
}

MEANS = {"pilot_confidence": 0.5}
BY_CLASS, DEALT_OUT = (
    {"strength": LADDER, "strength_choice": choice} for choice in ("auto", "shuffled")
)
AUTO_AGAINST = tuple(
    (chosen, other)
    for chosen, shuffled in ((BY_MEANS, MEANS_SHUFFLED), (AUTO, SHUFFLED))
    for other in (shuffled, MIXED, FIXED)
)


def self_chosen(title: str, domain: dict, **more) -> Experiment:
    """Experiment 3 on images of this domain."""
    arms = {
        MIXED: Arm({}),
        BY_MEANS: Arm(BY_CLASS | MEANS),
        MEANS_SHUFFLED: Arm(DEALT_OUT | MEANS),
        AUTO: Arm(BY_CLASS),
        SHUFFLED: Arm(DEALT_OUT),
        FIXED: Arm({"strength": 0.5}),
        "S = 0.3": Arm({"strength": 0.3}),
        "S = 0.7": Arm({"strength": 0.7}),
        REAL: Arm(),
    }
    seeds = (1, 2, 3, 4, 5)
    given = {"primary": (), "secondary": AUTO_AGAINST, "seeds": seeds, "with_adapter": True} | more
    return Experiment(title, domain, PAPER_MIXING, arms, **given)


EXPERIMENTS = {
    "backgrounds": Experiment(
        "Backgrounds that the data lack",
        {"train": 10, "train_backgrounds": 3},
        MASKED,
        {
            MIXED: Arm({}),
            PLACES_AT_9: Arm(TEN_PLACES | {"strength": 0.9}),
            REAL: Arm(),
            BANK: Arm({}, with_bank=True),
            "class prompt, S = 0.5": Arm(BACKGROUND),
            CLASS_AT_9: Arm(BACKGROUND | {"strength": 0.9}),
            "VAE round trip of the sources": Arm(ROUND_TRIP),
            "masks of other images, S = 0": Arm(OTHER_MASKS),
            "place prompts, S = 1": Arm(TEN_PLACES | {"strength": 1.0}),
        },
        ((PLACES_AT_9, MIXED),),
        tuple(range(1, 9)),
        secondary=((PLACES_AT_9, CLASS_AT_9), (PLACES_AT_9, BANK)),
    ),
    "edges": Experiment(
        "Masks too large, and seams",
        {"train": 10, "tie": 0.95},
        MASKED,
        {
            MIXED: Arm(DILATED),
            RING: Arm(DILATED | BACKGROUND | RING_ONLY),
            REAL: Arm(),
            BACKGROUND_ALONE: Arm(DILATED | BACKGROUND),
            "ring and background, S = 0.9": Arm(
                DILATED | BACKGROUND | RING_ONLY | {"strength": 0.9}
            ),
            TRUE_MIXED: Arm({}),
            PASTED: Arm(BACKGROUND | RESTORED),
            UNPASTED: Arm(BACKGROUND | RESTORED | {"paste_foreground": False}),
            RESIDUAL: Arm(BACKGROUND | RESTORED | {"paste_foreground": False}, with_residual=True),
            "true masks, ring and background, S = 0.5": Arm(BACKGROUND | RING_ONLY),
            "VAE round trip of the sources": Arm(ROUND_TRIP),
            "masks of other images, S = 0": Arm(OTHER_MASKS),
        },
        ((RING, MIXED),),
        tuple(range(1, 9)),
        secondary=(
            (RING, BACKGROUND_ALONE),
            (RESIDUAL, PASTED),
            (RESIDUAL, UNPASTED),
            (RESIDUAL, TRUE_MIXED),
        ),
    ),
    "auto": self_chosen(
        "S that chooses itself",
        {"train": 40},
        subset={"examples_per_class": 10},
        primary=((BY_MEANS, MEANS_SHUFFLED), (BY_MEANS, MIXED)),
    ),
    "auto, tied": self_chosen(
        "S that chooses itself, backgrounds that mislead",
        {"train": 10, "tie": 0.95},
    ),
    "auto, places": self_chosen(
        "S that chooses itself, backgrounds that the data lack",
        {"train": 10, "train_backgrounds": 3},
    ),
}
