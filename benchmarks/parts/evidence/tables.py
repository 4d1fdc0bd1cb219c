"""The evidence as Markdown: one table of arms against tasks, and one comparison per task."""

from __future__ import annotations

import textwrap

import numpy as np
from parts.evidence.arms import ARMS, MIXING, REAL, RECOMMENDED, SYNTHETIC_PROBABILITIES, TASKS
from parts.evidence.placebos import OTHERS_MASKS, PLACEBOS, THROUGH_VAE
from parts.intervals import half_width, holm, interval, paired_p

NOT_RUN = "not run"


def chosen_probability(seeds: list[dict], arm: str) -> str:
    """The synthetic probability with the best mean validation accuracy over the seeds of an arm."""
    accuracies = [seed["arms"][arm]["accuracy"] for seed in seeds if arm in seed["arms"]]
    return max(
        accuracies[0],
        key=lambda p: np.mean([seed_scores[p]["validation"] for seed_scores in accuracies]),
    )


def test_accuracies(seeds: dict[str, dict], arm: str) -> dict[str, float]:
    """Seed -> test accuracy at the chosen probability; empty for an arm that was not run."""
    ran = {number: seed for number, seed in seeds.items() if arm in seed["arms"]}
    if not ran:
        return {}
    probability = chosen_probability(list(ran.values()), arm)
    return {
        number: seed["arms"][arm]["accuracy"][probability]["test"] for number, seed in ran.items()
    }


def overview(figures: dict[str, dict[str, dict]]) -> str:
    """Arms against tasks: mean test accuracy with its interval over seeds."""
    lines = [
        "| Trained on | " + " | ".join(task.title for task in TASKS.values()) + " |",
        "|---|" + "---|" * len(TASKS),
    ]
    for arm, recipe in ARMS.items():
        cells = []
        for name, task in TASKS.items():
            seeds = figures.get(name, {})
            values = list(test_accuracies(seeds, arm).values())
            missing = NOT_RUN if recipe.applies_to(task) else ""
            cells.append(interval(values) + _seeds_if_fewer(values, seeds) if values else missing)
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _seeds_if_fewer(values: list[float], seeds: dict) -> str:
    return "" if len(values) == len(seeds) else f" ({len(values)} of {len(seeds)} seeds)"


def comparisons(seeds: dict[str, dict]) -> str:
    """One task: every arm against `recommended`, paired by seed, with p-values after Holm."""
    ours = test_accuracies(seeds, RECOMMENDED)
    rows = {arm: test_accuracies(seeds, arm) for arm in ARMS}
    both = {
        arm: sorted(set(ours) & set(of_arm), key=int)
        for arm, of_arm in rows.items()
        if arm != RECOMMENDED
    }
    pairs = {
        arm: ([ours[s] for s in common], [rows[arm][s] for s in common])
        for arm, common in both.items()
        if common
    }
    adjusted = dict(zip(pairs, holm([paired_p(*pair) for pair in pairs.values()]), strict=True))
    lines = [
        "| Trained on | test accuracy | `recommended` is better by | Holm's p | p chosen | label "
        "kept (judge) |",
        "|---|---|---|---|---|---|",
    ]
    for arm, of_arm in rows.items():
        if not of_arm:
            continue
        better = significance = ""
        if arm in pairs:
            differences = np.subtract(*pairs[arm])
            better = f"{differences.mean():+.3f}" + (
                f" ± {half_width(differences):.3f}" if len(differences) > 1 else ""
            )
            significance = (
                ""
                if np.isnan(adjusted[arm])
                else "< .001"
                if adjusted[arm] < 0.001
                else f"{adjusted[arm]:.3f}"
            )
        ran = [seed for seed in seeds.values() if arm in seed["arms"]]
        kept = [
            seed["arms"][arm]["label kept"] for seed in ran if "label kept" in seed["arms"][arm]
        ]
        probability = chosen_probability(ran, arm) if kept else ""
        cells = [
            interval(list(of_arm.values())),
            better,
            significance,
            probability,
            interval(kept) if kept else "",
        ]
        lines.append(f"| {arm}{_seeds_if_fewer(list(of_arm), seeds)} | {' | '.join(cells)} |")
    judged = interval([seed["judge"] for seed in seeds.values()])
    return "\n".join(lines) + (
        f"\n\nThe judge, trained on other, untied images, is right on {judged} of the real "
        "test images."
    )


def floors(figures: dict[str, dict[str, dict]]) -> str:
    """What mixing adds to its placebos: paired by seed, secondary, p-values unadjusted."""
    pairs = ((THROUGH_VAE, REAL), (OTHERS_MASKS, REAL), (MIXING, OTHERS_MASKS))
    lines = ["| Task | difference | mean | p-value |", "|---|---|---|---|"]
    for task, seeds in figures.items():
        for pair in pairs:
            first, second = (test_accuracies(seeds, arm) for arm in pair)
            if not (common := sorted(set(first) & set(second), key=int)):
                continue
            paired = [[of_arm[seed] for seed in common] for of_arm in (first, second)]
            differences = np.subtract(*paired)
            width = f" ± {half_width(differences):.3f}" if len(common) > 1 else ""
            p = paired_p(*paired) if len(common) > 1 else np.nan
            shown = "" if np.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}"
            mean = f"{differences.mean():+.3f}{width} ({len(common)} seeds)"
            lines.append(f"| {TASKS[task].title} | {' - '.join(pair)} | {mean} | {shown} |")
    return "\n".join(lines)


def placebo_overview(figures: dict[str, dict[str, dict]]) -> str:
    """Test accuracy of the placebos, and the label that a judge still sees in them."""
    lines = ["| Trained on | task | test accuracy | label kept (judge) |", "|---|---|---|---|"]
    for arm, recipe in PLACEBOS.items():
        for name, task in TASKS.items():
            seeds = figures.get(name, {})
            values = list(test_accuracies(seeds, arm).values())
            kept = [
                seed["arms"][arm]["label kept"] for seed in seeds.values() if arm in seed["arms"]
            ]
            if recipe.applies_to(task):
                told = (
                    f"{interval(values)}{_seeds_if_fewer(values, seeds)} | {interval(kept)}"
                    if values
                    else f"{NOT_RUN} |"
                )
                lines.append(f"| {arm} | {task.title} | {told} |")
    return "\n".join(lines)


def refinement(figures: dict[str, dict[str, dict]]) -> str:
    """`recommended` minus mixing alone over all tasks, at each synthetic probability.

    Tasks share seeds, and with them species and images: a seed's tasks are averaged first.
    """
    lines = ["| p | tasks and seeds | refined - mixing alone | p-value |", "|---|---|---|---|"]
    for probability in map(str, SYNTHETIC_PROBABILITIES):
        of_seed: dict[str, list[float]] = {}
        for task in TASKS:
            for number, seed in figures.get(task, {}).items():
                if {RECOMMENDED, MIXING} <= set(seed["arms"]):
                    refined, mixed = (
                        seed["arms"][arm]["accuracy"][probability]["test"]
                        for arm in (RECOMMENDED, MIXING)
                    )
                    of_seed.setdefault(number, []).append(refined - mixed)
        means = [float(np.mean(values)) for values in of_seed.values()]
        pairs = sum(map(len, of_seed.values()))
        width = f" ± {half_width(means):.3f}" if len(means) > 1 else ""
        p = paired_p(means, np.zeros(len(means))) if len(means) > 1 else float("nan")
        shown = "" if np.isnan(p) else f"{p:.3f}"
        mean = f"{np.mean(means):+.3f}{width}" if means else NOT_RUN
        lines.append(f"| {probability} | {pairs} pairs, {len(means)} seeds | {mean} | {shown} |")
    return "\n".join(lines)


def summary(figures: dict, ablations: dict[str, list[str]], facts: dict) -> str:
    """The whole page. `ablations`: title -> the lines under its plot."""
    hours = sum(seed["hours"] for seeds in figures.values() for seed in seeds.values())
    figures = {name: figures[name] for name in TASKS if name in figures}
    counts = ", ".join(
        f"{task.title} {len(figures.get(name, {}))} of {len(task.seeds)}"
        for name, task in TASKS.items()
    )
    about = (
        f"{facts['domain']}. Seeds that ran: {counts}. {hours:.1f} hours of runs on one thread "
        f"each, torch {facts['torch']}. "
        "± are 95 % t-intervals over seeds; a seed draws species, images, subset, classifiers and "
        "adapter. Of synthetic probabilities "
        f"{' and '.join(map(str, facts['probabilities']))} the one with the better mean on the "
        "validation images counts."
    )
    parts = [
        textwrap.fill(about, 118, break_long_words=False, break_on_hyphens=False),
        "## Arms against tasks\n\n" + overview(figures),
    ]
    parts += [
        f"## {_heading(TASKS[task].title)}\n\n{comparisons(seeds)}"
        for task, seeds in figures.items()
    ]
    parts.append("## Placebos\n\n" + placebo_overview(figures))
    parts.append(floors(figures))
    parts.append("## What refinement adds, over all tasks\n\n" + refinement(figures))
    parts += [f"## {_heading(title)}\n\n" + "\n".join(lines) for title, lines in ablations.items()]
    return "\n\n".join(parts) + "\n"


def _heading(title: str) -> str:
    return title[0].upper() + title[1:]
