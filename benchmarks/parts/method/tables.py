"""The figures of all seeds of benchmarks/method.py as Markdown tables."""

from __future__ import annotations

import numpy as np
from parts.intervals import half_width, interval, paired


def tables(results: dict, order: dict[str, list[str]], rivals: list[str]) -> str:
    """Masks, mixtures and accuracies, rows in `order`; arms are compared with `rivals` by seed."""
    seeds, domain = list(results["seeds"].values()), results["domain"]
    background = (
        f"tied to their backgrounds in training ({domain['tie']:g})"
        if domain["tie"]
        else "not tied to backgrounds"
    )
    head = (
        f"{domain['species']} species, {domain['train']} training and {domain['test']} test "
        f"images each, {background}; {len(seeds)} seeds, "
        "each with its own species, images and trainings; ± 95 % t-intervals over seeds. "
        f"{sum(seed['seconds'] for seed in seeds) / 3600:.1f} hours of runs on one thread each, "
        f"torch {domain['torch']}."
    )
    sections = {
        "Masks": mask_table(seeds, order["masks"]),
        "Mixtures": mixture_table(seeds, order["mixtures"]),
        "Downstream": accuracy_table(seeds, order["accuracy"], rivals),
    }
    parts = [head] + [f"## {title}\n\n{table}" for title, table in sections.items()]
    return "\n\n".join(parts) + "\n"


def mask_table(seeds: list[dict], names: list[str]) -> str:
    """Means over images, with intervals over seeds and, for the IoU, over all images too."""
    lines = [
        "| Mask | IoU, ± over seeds | ± over images | precision | recall | boundary F |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        scores = [seed["masks"][name] for seed in seeds]
        means = {
            measure: interval([np.mean(seed_scores[measure]) for seed_scores in scores])
            for measure in scores[0]
        }
        images = half_width(np.concatenate([seed_scores["iou"] for seed_scores in scores]))
        over_images = f"{images:.3f}" if len(scores[0]["iou"]) > 1 else ""
        others = " | ".join(
            means.get(measure, "") for measure in ("precision", "recall", "boundary_f")
        )
        lines.append(f"| {name} | {means['iou']} | {over_images} | {others} |")
    return "\n".join(lines)


def mixture_table(seeds: list[dict], names: list[str]) -> str:
    lines = [
        "| Mixture | leak | source foreground kept | background from the target | same class | "
        "effective targets |",
        "|---|---|---|---|---|---|",
    ]
    measures = (
        "leak",
        "foreground_kept",
        "background_from_target",
        "same_class_share",
        "effective_targets",
    )
    for name in names:
        values = {
            measure: [seed["mixtures"][name][measure] for seed in seeds] for measure in measures
        }
        shown = [interval(values[measure]) for measure in measures[:-1]] + [
            f"{np.mean(values[measures[-1]]):.0f}"
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def accuracy_table(seeds: list[dict], arms: list[str], rivals: list[str]) -> str:
    """Test accuracies, and paired differences over the seeds that have both arms."""
    against = " | ".join(f"against {rival}, paired" for rival in rivals)
    lines = [
        f"| Arm | label kept (judge) | test accuracy | {against} |",
        "|---|---|---|" + "---|" * len(rivals),
    ]
    for arm in arms:
        whole = [seed for seed in seeds if arm in seed["accuracy"]]
        if not whole:
            lines.append(f"| {arm} | | not run | {' | '.join('' for _ in rivals)} |")
            continue
        kept = [seed["label kept"][arm] for seed in whole if arm in seed["label kept"]]
        differences = []
        for rival in rivals:
            both = [seed["accuracy"] for seed in whole if rival in seed["accuracy"]]
            differences.append(
                ""
                if arm == rival or not both
                else paired([seed[arm] for seed in both], [seed[rival] for seed in both])
            )
        accuracies = interval([seed["accuracy"][arm] for seed in whole])
        title = arm if len(whole) == len(seeds) else f"{arm} ({len(whole)} of the seeds)"
        lines.append(
            f"| {title} | {interval(kept) if kept else ''} | {accuracies} | "
            f"{' | '.join(differences)} |"
        )
    judged = interval([seed["judge"] for seed in seeds])
    return "\n".join(lines) + (
        f"\n\nThe judge, trained on other, untied images, is right on {judged} of the real "
        "test images."
    )
