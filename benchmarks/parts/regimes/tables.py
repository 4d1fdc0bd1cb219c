"""The experiments' figures as Markdown."""

from __future__ import annotations

import numpy as np
from parts.intervals import half_width, holm, interval, paired_p
from parts.regimes.bounds import bounds_table
from parts.regimes.experiments import (
    AUTO,
    BY_MEANS,
    EXPERIMENTS,
    FIXED_STRENGTHS,
    MIXED,
    Experiment,
)

MARGIN = 0.02  # of "no difference", fixed in protocol.md
NOT_RUN = "not run"

Accuracies = dict[str, dict[str, float]]  # arm -> seed -> test accuracy


def accuracies(figures: dict, experiment: Experiment) -> Accuracies:
    """Of the experiment's seeds; seed 0 was only looked at."""
    return {
        arm: {
            seed: figures[arm][seed]["accuracy"]
            for seed in map(str, experiment.seeds)
            if seed in figures.get(arm, {})
        }
        for arm in experiment.arms
    }


def shared(measured: Accuracies, pair: tuple[str, str]) -> tuple[list[float], list[float]]:
    """The accuracies of two arms on the seeds that finished in both."""
    first, second = (measured[arm] for arm in pair)
    common = sorted(set(first) & set(second), key=int)
    return [first[seed] for seed in common], [second[seed] for seed in common]


def verdict(differences: np.ndarray, p: float) -> str:
    """What an interval says; `p` after Holm."""
    if len(differences) < 2:
        return "one seed"
    mean, half = float(differences.mean()), half_width(differences)
    if p < 0.05:
        return "helps" if mean > 0 else "costs"
    return f"no difference beyond ± {MARGIN}" if abs(mean) + half <= MARGIN else "not resolved"


def difference(pair: tuple[list[float], list[float]]) -> str:
    """`+.050 ± .021`, with its number of seeds."""
    differences = np.subtract(*pair)
    if not len(differences):
        return NOT_RUN
    width = f" ± {half_width(differences):.3f}" if len(differences) > 1 else ""
    seeds = "1 seed" if len(differences) == 1 else f"{len(differences)} seeds"
    return f"{differences.mean():+.3f}{width} ({seeds})"


def primary_table(measured: dict[str, Accuracies]) -> str:
    """The comparisons that were named beforehand, with Holm's p over all of them.

    One that did not run, or on one seed alone, counts with p = 1: it was named.
    """
    named = [(key, pair) for key, experiment in EXPERIMENTS.items() for pair in experiment.primary]
    pairs = [shared(measured[key], pair) for key, pair in named]
    adjusted = holm([paired_p(*pair) if len(pair[0]) > 1 else 1.0 for pair in pairs])
    lines = [
        "| Experiment | primary comparison | difference | Holm's p | says |",
        "|---|---|---|---|---|",
    ]
    for (key, names), pair, p in zip(named, pairs, adjusted, strict=True):
        shown = said = ""
        if pair[0]:
            shown = "< .001" if p < 0.001 else f"{p:.3f}"
            said = verdict(np.subtract(*pair), p)
        cells = (EXPERIMENTS[key].title, " - ".join(names), difference(pair), shown, said)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def unadjusted_p(pair: tuple[list[float], list[float]]) -> str:
    value = paired_p(*pair) if len(pair[0]) > 1 else float("nan")
    return "" if np.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}"


def secondary_table(measured: Accuracies, pairs: tuple[tuple[str, str], ...]) -> str:
    """What a primary difference comes from, if both arms of a pair ran."""
    lines = ["| Secondary comparison | difference | p, unadjusted |", "|---|---|---|"]
    for names in pairs:
        pair = shared(measured, names)
        lines.append(f"| {' - '.join(names)} | {difference(pair)} | {unadjusted_p(pair)} |")
    return "\n".join(lines)


def best_fixed(measured: Accuracies) -> str | None:
    """The strength with the highest mean over the seeds that all fixed ones finished."""
    common = set.intersection(*(set(measured.get(arm, {})) for arm in FIXED_STRENGTHS))
    if not common:
        return None
    means = {arm: np.mean([measured[arm][seed] for seed in common]) for arm in FIXED_STRENGTHS}
    return max(means, key=means.__getitem__)


def best_fixed_table(measured: dict[str, Accuracies]) -> str:
    """Strengths by class minus the one that turned out best on the test images of each task."""
    lines = [
        "| Task | best fixed strength | chosen | minus it | p, unadjusted |",
        "|---|---|---|---|---|",
    ]
    for key, arms in measured.items():
        best = best_fixed(arms)
        for chosen in (BY_MEANS, AUTO) if best is not None else ():
            pair = shared(arms, (chosen, best))
            cells = (EXPERIMENTS[key].title, best, chosen, difference(pair), unadjusted_p(pair))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arms_table(measured: Accuracies) -> str:
    """Every arm of an experiment, and what it is better than mixing alone; unadjusted."""
    lines = ["| Trained on | test accuracy | minus S = 0 | p, unadjusted |", "|---|---|---|---|"]
    for arm, of_seeds in measured.items():
        values = list(of_seeds.values())
        better = p = ""
        if arm != MIXED and values:
            pair = shared(measured, (arm, MIXED))
            better = difference(pair)
            p = unadjusted_p(pair)
        lines.append(f"| {arm} | {interval(values) if values else NOT_RUN} | {better} | {p} |")
    return "\n".join(lines)


def foreground_table(figures: dict) -> str:
    """How far foregrounds are from their mixtures', in the arms that measured it."""
    lines = ["| Trained on | foreground minus mixture's, of 255 | seeds |", "|---|---|---|"]
    for arm, seeds in figures.items():
        errors = [made["foreground_error"] for made in seeds.values() if "foreground_error" in made]
        if errors:
            lines.append(f"| {arm} | {np.mean(errors):.2f} | {len(errors)} |")
    return "\n".join(lines)


def report(figures: dict, bounds: dict) -> str:
    """All tables; arms that did not run say so. `bounds`: as of `judged_bounds`, by experiment and
    seed.
    """
    measured = {
        key: accuracies(figures.get(key, {}), experiment) for key, experiment in EXPERIMENTS.items()
    }
    hours = sum(
        made["seconds"]
        for arms in figures.values()
        for arm in arms.values()
        for made in arm.values()
    )
    parts = [
        "## Primary comparisons\n\n" + primary_table(measured),
        f"{hours / 3600:.1f} hours of runs on one thread. ± are 95 % t-intervals over seeds.",
    ]
    for key, arms in measured.items():
        parts.append(f"## {EXPERIMENTS[key].title}\n\n{arms_table(arms)}")
        if EXPERIMENTS[key].secondary:
            parts.append(secondary_table(arms, EXPERIMENTS[key].secondary))
    parts += ["## The residual trick", foreground_table(figures.get("edges", {}))]
    parts += ["## The best fixed strength", best_fixed_table(measured)]
    parts += ["## Bounds of `auto` on rows that its pilot has not seen", bounds_table(bounds)]
    return "\n\n".join(parts) + "\n"
