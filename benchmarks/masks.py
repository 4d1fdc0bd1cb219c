"""Which masks find the object in photographs? Every source and refinement against true masks.

    python benchmarks/masks.py outputs/cutouts/domain --segmenter_masks outputs/isnet \
        --coverage_figure docs/masks_coverage.png --reliability_figure docs/masks_reliability.png

    python benchmarks/masks.py outputs/cutouts512/domain --name masks_512 --parts masks \
        --sources "minimum barrier" "true masks"

`domain` is made by benchmarks/cutouts.py, `--segmenter_masks` by benchmarks/onnx_masks.py. Writes
`masks.json` and `masks.md` to `--results`. What a run leaves out (`--sources`, `--parts`) is kept
from the file that it finds there.

Rules, written down before the figures that docs quote were made: constants are chosen on the
objects whose name has an even CRC-32; docs quote the other half ("told"). A mask fails below an
IoU of .5. A mixture is usable if it keeps at least .9 of the source's foreground, replaces at least
.9 of its background and shows at most .1 of the target's foreground. Intervals are the 2.5 % and
97.5 % quantiles of 1,000 bootstrap draws of objects, never of images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from parts.masks.arms import CONSENSUS, REFINEMENTS, SOURCES
from parts.masks.costs import consensus_cost, fill_scores, mask_bytes, mixing_cost
from parts.masks.drawing import Shown, draw_coverage, draw_reliability, sheet
from parts.masks.grey import without_colours
from parts.masks.photographs import BIRD_SEEDS, Photograph, birds, photographs, resized
from parts.masks.scores import FLOOR, radii_scores, reliability, scores

from sgdmix_hub.data.images import resize_mask
from sgdmix_hub.method.mixing import compose, fill, inpainting_hole
from sgdmix_hub.method.saliency.consensus import MASK_SIZE, consensus

SHOWN = 12  # photographs of a sheet
PARTS = ("masks", "radii", "costs")
COSTS = ("fill", "mixing_ms", "consensus_ms", "row_bytes")


def shown(rows: list[Photograph]) -> list[Shown]:
    """The entries of a sheet: some photographs, mixed with the next one that is trusted."""
    rows = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
    made = [consensus(resized(row.image, MASK_SIZE)) for row in rows]
    masks = [resize_mask(mask, len(row.image)) for row, (mask, _) in zip(rows, made, strict=True)]
    trusted = [confidence >= FLOOR for _, confidence in made]
    entries = []
    for number, row in enumerate(rows):
        mixture = None
        others = [place % len(rows) for place in range(number + 1, number + len(rows))]
        target = next((place for place in others if trusted[place]), None)
        if trusted[number] and target is not None:
            hole = inpainting_hole(masks[target])
            background = fill(rows[target].image, hole)
            mixture = compose(row.image, background, masks[number], 0.01)
        entries.append(Shown(row.image, masks[number], made[number][1], mixture))
    return entries


def table(figures: dict) -> str:
    """One set's masks as Markdown: means, with the bootstrap's bounds for IoU and failures."""
    lines = [
        f"{figures['images']} images of {figures['objects']} objects.\n",
        "| Mask | IoU | failures | precision | recall | boundary F | usable mixtures |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, of in sorted(figures["arms"].items(), key=lambda one: place_of(one[0])):
        cells = []
        for name in ("iou", "failures", "precision", "recall", "boundary_f", "usable"):
            value = of.get(name, ())
            text = f"{value[0]:.3f}" if value else ""
            if len(value) == 3 and name in ("iou", "failures", "usable"):
                text += f" ({value[1]:.2f} to {value[2]:.2f})"
            cells.append(text)
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    for arm, of in figures["confidence"].items():
        marks = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        points = [
            next(point for point in of["curve"] if point["coverage"] >= mark) for mark in marks
        ]
        shares = ", ".join(f"{p['failures']:.2f} at {p['coverage']:.2f}" for p in points)
        lines.append(f"\n{arm}: failures by coverage: {shares}.")
        left = of["trusted"]
        lines.append(
            f"At {left['floor']:g} or more: {left['coverage']:.2f} of the images, "
            f"{left['failures'][0]:.2f} failures, {left['usable'][0]:.2f} "
            f"({left['usable'][1]:.2f} to {left['usable'][2]:.2f}) usable mixtures."
        )
    return "\n".join(lines)


def place_of(arm: str) -> int:
    """Where an arm stands in the table; one that is not known comes last."""
    arms = ["best fixed mask", *(one + by for one in SOURCES for by in REFINEMENTS), CONSENSUS]
    return arms.index(arm) if arm in arms else len(arms)


def interval_text(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def reliability_table(bins: list[dict]) -> str:
    """What the masks of `consensus` were worth by their confidence, as Markdown."""
    lines = ["| Confidence | masks | mean | good | IoU | failures |", "|---|---|---|---|---|---|"]
    for of in bins:
        cells = " | ".join(interval_text(of[name]) for name in ("good", "iou", "failures"))
        lines.append(
            f"| {of['from']:.1f} to {of['from'] + 0.2:.1f} | {of['masks']} | "
            f"{of['confidence']:.2f} | {cells} |"
        )
    return "\n".join(lines)


def radii_table(radii: dict) -> str:
    """The masks of GrabCut by its radii, as Markdown."""
    lines = ["| Radii | set | IoU | failures |", "|---|---|---|---|"]
    for kind in sorted(radii, key=("ordinary", "hard", "birds").index):
        for name, figures in radii[kind].items():
            cells = " | ".join(interval_text(figures[key]) for key in ("iou", "failures"))
            lines.append(f"| {name} | {kind} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("--segmenter_masks", type=Path, help="folder of a segmenter's masks")
    parser.add_argument("--poses", type=int, default=1, help="images per object and set")
    parser.add_argument("--birds", type=int, default=5, help="birds per species and seed")
    parser.add_argument("--every", type=int, default=1, help="use every n-th image; for a trial")
    parser.add_argument("--grey", action="store_true", help="grey copies of all images")
    parser.add_argument("--steps", type=int, default=0, help="of the self-trained segmenter")
    parser.add_argument("--name", default="masks", help="of the results' files")
    parser.add_argument("--sources", nargs="*", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--half", choices=("told", "chosen"), default="told")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sheet", type=Path, help="PNG to write of some photographs, and no table")
    parser.add_argument("--coverage_figure", type=Path, help="PNG of failures against coverage")
    parser.add_argument("--reliability_figure", type=Path, help="PNG of what confidences are worth")
    arguments = parser.parse_args()
    chosen = arguments.half == "chosen"
    rows = photographs(arguments.domain, arguments.segmenter_masks, arguments.poses)
    rows = [row for row in rows if row.chosen_on == chosen][:: arguments.every]
    if arguments.sheet:
        sheet(shown(rows)).save(arguments.sheet, optimize=True)
        return
    sets = {kind: [row for row in rows if row.kind == kind] for kind in ("ordinary", "hard")}
    sets["birds"] = birds(BIRD_SEEDS[chosen], arguments.birds)[:: arguments.every]
    if arguments.grey:
        sets = {kind: [without_colours(row) for row in of] for kind, of in sets.items()}
    path = arguments.results / arguments.name
    found = path.with_suffix(".json")
    results: dict = json.loads(found.read_text()) if found.exists() else {}
    results["half"] = arguments.half
    if "masks" in arguments.parts:
        scored = {kind: scores(of, arguments.steps, arguments.sources) for kind, of in sets.items()}
        judged = {kind: one for kind, (_, one) in scored.items()}
        of_kinds = results.setdefault("masks", {})
        for kind, (figures, _) in scored.items():
            arms = of_kinds.get(kind, {}).get("arms", {}) | figures["arms"]
            of_kinds[kind] = figures | {"arms": arms}
        results["reliability"] = {
            "photographs": reliability(judged["ordinary"].and_of(judged["hard"])),
            "birds": reliability(judged["birds"]),
        }
        results["consensus_ms"] = consensus_cost(rows)
    if "radii" in arguments.parts:
        results["radii"] = {kind: radii_scores(of) for kind, of in sets.items()}
    if "costs" in arguments.parts:
        results["fill"] = fill_scores(rows)
        results["mixing_ms"] = mixing_cost(rows)
        results["row_bytes"] = mask_bytes(rows)
    if arguments.coverage_figure:
        sets_drawn = {kind: results["masks"][kind] for kind in ("ordinary", "hard")}
        curves = {kind: one["confidence"][CONSENSUS]["curve"] for kind, one in sets_drawn.items()}
        before = {
            kind: one["arms"]["minimum barrier, GrabCut as before"]["failures"][0]
            for kind, one in sets_drawn.items()
        }
        draw_coverage(curves, before, arguments.coverage_figure)
    if arguments.reliability_figure:
        draw_reliability(results["reliability"], arguments.reliability_figure)
    found.write_text(json.dumps(results, sort_keys=True), encoding="utf-8")
    text = "\n\n".join(
        f"## {kind.capitalize()}\n\n{table(results['masks'][kind])}" for kind in sets
    )
    for kind in ("photographs", "birds"):
        bins = results["reliability"][kind]
        text += f"\n\n## Confidence: {kind}\n\n{reliability_table(bins)}"
    if "radii" in results:
        text += f"\n\n## Radii of GrabCut, after minimum barrier\n\n{radii_table(results['radii'])}"
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    costs = {name: results[name] for name in COSTS if name in results}
    print(text, costs, sep="\n\n")


if __name__ == "__main__":
    main()
