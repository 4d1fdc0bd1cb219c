"""The evidence's tasks, arms and ablations, as settings of the programs that users run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from parts.method.arms import BASE, settings_from
from parts.method.arms import GENERATION as MIXING_ALONE

from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset

SPECIES, JUDGE, TEST = 6, 100, 350
SYNTHETIC_PROBABILITIES = (
    0.1,
    0.5,
)  # the same for all arms; which one counts is chosen on the validation images


@dataclass(frozen=True)
class Task:
    """A domain and its training subset. `epochs` keep the number of updates near 300."""

    title: str
    train: int  # images of each species
    tie: float  # share of them on their species' own background; validation and test are never tied
    seeds: tuple[int, ...]
    epochs: int
    photographs: bool = False  # CIFAR-10's animals instead of procedural birds
    subset: dict = field(default_factory=dict)


TASKS = {
    "shift": Task("background shift", 10, 0.95, tuple(range(1, 11)), 80),
    "few-shot-10": Task(
        "few-shot, 10 a class", 40, 0.0, tuple(range(1, 6)), 80, subset={"examples_per_class": 10}
    ),
    "few-shot-5": Task(
        "few-shot, 5 a class", 40, 0.0, tuple(range(1, 6)), 120, subset={"examples_per_class": 5}
    ),
    "long-tail": Task(
        "long tail, 0.05", 40, 0.0, tuple(range(1, 6)), 55, subset={"imbalance_factor": 0.05}
    ),
    "full": Task("full, 40 a class", 40, 0.0, tuple(range(1, 6)), 20),
    "photographs": Task(
        "photographs, 40 a class", 40, 0.0, tuple(range(1, 6)), 20, photographs=True
    ),
}

GENERATION = MIXING_ALONE | {"preset": "paper", "strength": 0.5}
GOOD = {"preset": "recommended"}
TRUE = {"saliency_method": "mask-column", "mask_column": "mask", "mask_refinement": "none"}
CENTRE = {"saliency_method": "mask-column", "mask_column": "centre", "mask_refinement": "none"}
UNMIXED = {
    "mixing_method": "none",
    "saliency_method": "minimum-barrier",
    "selection_method": "random",
}


@dataclass(frozen=True)
class Arm:
    """How a classifier is trained.

    `generation`: settings of its synthetic images beyond GENERATION (None: it has none).
    `training`: settings beyond the task's. `without_adapter`: refines with the base model alone.
    `untied`: trains on images without the tie.
    """

    generation: dict | None = None
    training: dict = field(default_factory=dict)
    without_adapter: bool = False
    untied: bool = False

    def applies_to(self, task: Task) -> bool:
        """False for true masks on photographs, also those of other images, and for the untied set
        if nothing is tied.
        """
        needs_masks = (self.generation or {}).get("mask_column") in ("mask", "other_mask")
        return not (needs_masks and task.photographs) and not (self.untied and not task.tie)


PAPER, RECOMMENDED, MIXING = (
    "SGD-Mix, `paper`",
    "SGD-Mix, `recommended`",
    "mixing alone (its S = 0)",
)
REAL, CEILING = "flips + crops", "untied real images"
ARMS = {
    REAL: Arm(),
    "RandAugment": Arm(training={"augmentation": "randaugment"}),
    "mixup": Arm(training={"mixup_alpha": 0.2}),
    "cutmix": Arm(training={"cutmix_alpha": 1.0}),
    "Real-Guidance, S = 0.1": Arm({**UNMIXED, "strength": 0.1}, without_adapter=True),
    "Diff-Aug": Arm(UNMIXED),
    "Diff-Mix": Arm(
        {**UNMIXED, "target_classes": "other", "prompt_class": "target"}, {"synthetic_gamma": 0.8}
    ),
    PAPER: Arm({}),
    "fixed mask": Arm({**GOOD, **CENTRE}),
    "source pasted on the whole target": Arm({**GOOD, "mixing_method": "source"}),
    MIXING: Arm({**GOOD, "strength": 0.0}),
    RECOMMENDED: Arm(GOOD),
    "true masks": Arm({**GOOD, **TRUE}),
    CEILING: Arm(untied=True),
}
WITHOUT_MASKS = (
    REAL,
    "RandAugment",
    "mixup",
    "cutmix",
    "Real-Guidance, S = 0.1",
    "Diff-Aug",
    "Diff-Mix",
    "fixed mask",
)

# The paper's questions, asked at p = .5: each point is an arm of its own, `paper` or `recommended`
# with one setting changed.
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
CANDIDATES = (1, 10, 20, 30, 50, 100)
MASKS = {
    "Grad-CAM": {},
    "spectral residual": {"saliency_method": "spectral-residual"},
    "minimum barrier": {"saliency_method": "minimum-barrier"},
    "Grad-CAM, GrabCut": {"mask_refinement": "grabcut"},
    "minimum barrier, GrabCut": {
        "saliency_method": "minimum-barrier",
        "mask_refinement": "grabcut",
    },
    "true masks": TRUE,
}


@dataclass(frozen=True)
class Ablation:
    """One plot: its points, by what stands at the axis, as generations; on which task."""

    title: str
    task: str
    points: dict[str, dict[str, dict]]  # line -> point -> generation
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)


def _each(preset: str, setting: str, values) -> dict[str, dict]:
    return {
        f"{value:g}" if isinstance(value, float) else str(value): {"preset": preset, setting: value}
        for value in values
    }


ABLATIONS = {
    "strength": Ablation(
        "strength S",
        "shift",
        {preset: _each(preset, "strength", STRENGTHS) for preset in ("paper", "recommended")},
    ),
    "masks": Ablation("saliency and mask, union mixing", "shift", {"paper": MASKS}),
    "candidates": Ablation(
        "candidates N",
        "full",
        {
            preset: _each(preset, "num_candidates", CANDIDATES)
            for preset in ("paper", "recommended")
        },
    ),
    "selection": Ablation(
        "target selection",
        "full",
        {
            preset: _each(preset, "selection_method", ("l2", "random", "dissimilar"))
            for preset in ("paper", "recommended")
        },
    ),
}


@cache
def point_arm(key: str, line: str, point: str) -> str:
    """The arm of an ablation point: one of ARMS if the recipe is the same, else a new one."""
    wanted = recipe(ABLATIONS[key].points[line][point])
    for name, arm in ARMS.items():
        if (
            arm.generation is not None
            and arm == Arm(arm.generation)
            and recipe(arm.generation) == wanted
        ):
            return name
    return f"{key} {line} {point}"


def recipe(changes: dict) -> AugmentSettings:
    """All settings of a generation with these `changes`; the inputs do not depend on them."""
    inputs = dict.fromkeys(("dataset_name", "output_dir", "adapter", "classifier"), "any")
    return apply_preset(settings_from(AugmentSettings, **(inputs | BASE | GENERATION | changes)))
