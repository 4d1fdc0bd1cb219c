"""Measures an augmented dataset with a classifier trained on real images, and writes it anew with its rows' scores.

    views of sources and synthetic images -> scores -> evaluation.json, figures -> repo/

Views are kept, in blocks: the same command goes on after a stop. `--keep 0.9` drops the rows whose label the judge finds least probable.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from .classifiers import BATCH
from .config import AugmentSettings, apply_preset
from .contact_sheet import Panel, in_few_colours, mask_panel
from .data import Split, load_evaluation_split, load_split, split_of, subset_record
from .errors import UserError
from .evaluated_repository import FILE, Version, build_evaluated
from .evaluation import class_facts, evaluate, evaluation_text
from .evaluation_figures import draw_drift, draw_ends, draw_fidelity, ends
from .evaluation_settings import EvaluationSettings
from .files import read_json, write_atomically, write_json
from .inputs import Inputs
from .judging import Judge
from .parsing import parse_settings
from .pins import LOCAL, MODEL_FILES, Pin, local_folder, resolve, same_content
from .presets import CAM_METHODS
from .processes import forget_failure, launch, lock_folder, say, start_processes, stop_if_requested
from .published import PublishedRows, fetch_version, open_version
from .repository import EVALUATION
from .row_scores import Origins, Scores, row_scores, rows_to_keep
from .rows import RowMaker
from .saliency_store import FALL_BACK, compute_maps
from .split_report import report_split
from .trust import Trust, trust_test
from .views import Picture, Views, compute_views

MODEL_FREE = {
    "saliency_method": FALL_BACK,
    "threshold_method": "otsu",
    "mask_refinement": "grabcut",
    "largest_component": False,
    "fill_holes": False,
    "mask_dilation": 0.0,
}


def main(settings: EvaluationSettings) -> None:
    """One evaluation. Raises `UserError`, `Preempted`."""
    state = start_processes(settings.num_threads)
    if state.num_processes > 1:
        raise UserError("an evaluation is made by one process: start it with python, without a launcher")
    output = Path(settings.output_dir)
    with lock_folder(output / "state", finished=output / "repo"):
        name = settings.synthetic
        if (Path(name) / "repo").is_dir():  # the output folder of a generation
            name = str(Path(name) / "repo")
        pin, folder = fetch_version(name, settings.synthetic_config_name)
        rows = open_version(pin, folder, settings.synthetic_config_name)
        if EVALUATION in rows.manifest:
            raise UserError(
                f"{pin.name} has been evaluated already: give the dataset that it was made from ({rows.manifest[EVALUATION]['synthetic']})"
            )
        if "stated" not in rows.manifest:
            raise UserError(
                f"{pin.name} was made by an older version of sgdmix_hub, its manifest lacks what a new card needs: remove repo/ and run "
                "the generation again, finished shards are kept"
            )
        recipe = generation_settings(settings, folder, output)
        masked, classifier, masks = mask_settings(settings, recipe, rows.manifest)
        asked = {
            "synthetic": str(pin),
            "synthetic_config_name": settings.synthetic_config_name,
            "pins": {"judge": str(resolve(settings.judge))},
            "masks": masks,
            "eval_split": settings.eval_split,
            "keep": settings.keep,
        }
        if is_complete(output, asked):
            say(f"evaluation: {output} is complete, nothing to do")
        else:
            evaluate_version(settings, asked, rows, Version(folder, rows.manifest, recipe), masked, classifier, state.device)
        forget_failure(output / "state")


def is_complete(output: Path, asked: dict) -> bool:
    """Whether the folder holds this very evaluation. Raises `UserError` when it holds something else."""
    if not (output / "repo").exists():
        return False
    facts = read_json(output / FILE) if (output / FILE).is_file() else {}
    different = [name for name, value in asked.items() if facts.get(name) != value]
    if different:
        raise UserError(f"{output} holds another dataset or evaluation ({', '.join(different)} differ): choose another --output_dir")
    return True


def evaluate_version(
    settings: EvaluationSettings,
    asked: dict,
    rows: PublishedRows,
    version: Version,
    masked: AugmentSettings,
    classifier: Pin | None,
    device: torch.device,
) -> None:
    """Everything that an evaluation leaves, `repo/` last. `masked`: the settings that find the foregrounds. Raises `UserError`."""
    output, recipe = Path(settings.output_dir), version.settings
    split = load_split(recipe, source_pin(settings, rows.manifest))
    report_split(recipe, split)
    subset = subset_record(recipe, split)
    rows.check_made_from(split, subset)
    judge = Judge(resolve(settings.judge), split.class_names, device)
    maps = compute_maps(masked, split, classifier, 0, 1, device)
    maker = RowMaker(masked, Inputs(split, None, None, None, classifier), maps)
    trust = trust_test(judge, judge.whole_size, split, recipe.resize)
    warnings = doubts(judge, trust, subset)
    for warning in warnings:
        say(f"warning: {warning}")
    if settings.keep is not None and trust.reads_background:
        say("warning: --keep drops rows by what this judge reads, their background: good changes of background among them")

    real, synthetic = all_views(rows, split, judge, maker, output / "state" / "views")
    origins = origins_of(rows, split)
    scores = row_scores(synthetic, real, origins)
    kept = np.ones(len(origins.labels), bool) if settings.keep is None else rows_to_keep(scores["judge_label_probability"], settings.keep)
    accuracy, judged = judge_on_real(settings, recipe, split, judge)
    facts = asked | {
        "dataset": str(split.pin),
        "warnings": warnings,
        "trust": asdict(trust) | {"reads_background": trust.reads_background},
        "judge_accuracy": accuracy,
        "left_out": split.subset[~real.usable].tolist(),
        **evaluate(scores, synthetic, real, origins, kept),
        "by_class": class_facts(scores, origins.labels, kept, split.class_names, judged),
        "dropped": int((~kept).sum()),
    }
    for of_space in facts["duplicates"].values():  # rows of the split, as `source_index` counts them
        of_space["pairs"] = [[row, int(split.subset[place]), distance] for row, place, distance in of_space["pairs"]]
    figures = draw_figures(facts, scores, rows, maker, origins.labels, output)
    write_json(output / FILE, facts)
    build_evaluated(version, split.class_names, scores, kept, facts, figures, output)
    say(evaluation_text(facts))
    say(f"evaluation: {output / FILE}; {kept.sum()} of {len(kept)} rows, with their scores: {output / 'repo'}")


def doubts(judge: Judge, trust: Trust, subset: dict) -> list[str]:
    """Why this judge may say the wrong thing, in sentences; none where nothing speaks against it. `subset`: of the sources."""
    found = []
    if trust.reads_background:
        found.append(f"The judge reads the background ({trust}): it takes good changes of background for lost labels.")
    trained_on = judge.facts.get("subset", {})
    same = all(subset[name] == trained_on.get(name) for name in ("dataset_config_name", "dataset_split", "rows_sha256"))
    if same and same_content(subset["dataset"], trained_on["dataset"]):
        found.append("The judge was trained on the source images, whose foregrounds it knows: an independent one would agree less.")
    if judge.facts.get("synthetic"):
        found.append("The judge was trained on synthetic images: it is no independent one.")
    return found


# ---- what the version was made from ----


def generation_settings(settings: EvaluationSettings, folder: Path, output: Path) -> AugmentSettings:
    """The settings of the generation, with its preset applied."""
    path = folder / "sgdmix" / settings.synthetic_config_name / "config.yaml"
    return apply_preset(parse_settings(AugmentSettings, ["--config", str(path), f"--output_dir={output}"]))


def source_pin(settings: EvaluationSettings, manifest: dict) -> Pin:
    """The source dataset at its pin. Raises `UserError` where that was a local folder whose path was not given."""
    stated = manifest["pins"]["dataset_name"]
    if settings.dataset_name is None and stated.rpartition("@")[2].startswith(LOCAL):
        raise UserError(f"the dataset was made from a local folder ({stated.partition('@')[0]}): give its path with --dataset_name")
    return resolve(settings.dataset_name or stated, repo_type="dataset")


def mask_settings(settings: EvaluationSettings, recipe: AugmentSettings, manifest: dict) -> tuple[AugmentSettings, Pin | None, str]:
    """The settings that find the sources' foregrounds, the classifier they need, and both in words: those of the generation, or, where the
    classifier behind its maps is not at hand, model-free ones. Raises `UserError` when another classifier is given."""
    method = manifest["saliency"]["method"]
    words = f"the generation's ({method}, {recipe.threshold_method}{', GrabCut' if recipe.mask_refinement == 'grabcut' else ''})"
    if method not in CAM_METHODS:
        return replace(recipe, saliency_method=method), None, words
    stated = manifest["pins"]["classifier"]
    if settings.classifier is not None:
        pin = resolve(settings.classifier)
        if not same_content(str(pin), stated):
            raise UserError(
                f"{settings.classifier} is not the classifier behind the saliency maps ({stated}): leave it out or give that one"
            )
        return recipe, pin, words
    if not stated.rpartition("@")[2].startswith(LOCAL):
        pin = Pin(*stated.rpartition("@")[::2])
        try:
            local_folder(pin, MODEL_FILES)
            return recipe, pin, words
        except UserError as error:
            say(f"warning: {error}")
    words = f"model-free (minimum barrier, GrabCut): the classifier behind the generation's {method} is not at hand (--classifier)"
    say(f"warning: masks are {words}")
    return replace(recipe, **MODEL_FREE), None, words


# ---- what the judge sees ----


def origins_of(rows: PublishedRows, split: Split) -> Origins:
    """What the rows were made from, with positions in the split's subset."""
    targets = rows.rows.data.column("target_index").to_numpy()
    sources, targets = (np.searchsorted(split.subset, indices) for indices in (rows.sources, targets))
    return Origins(sources, targets, rows.labels, rows.strengths, split.labels[split.subset])


def all_views(rows: PublishedRows, split: Split, judge: Judge, maker: RowMaker, folder: Path) -> tuple[Views, Views]:
    """The views of the sources and of the synthetic images, both through the sources' masks."""
    synthetic = split_of(rows.rows, rows.pin, "image", "label")
    names = ("threshold_method", "threshold_quantile", "mask_refinement", "largest_component", "fill_holes", "mask_dilation", "resolution")
    key = {"maps": maker.maps.key} | {name: getattr(maker.settings, name) for name in names}
    with tqdm(total=len(split.subset) + len(synthetic.subset), desc="views", unit="image") as bar:

        def source(row: int) -> Picture:
            stop_if_requested()
            image = maker.masked_image(row)
            return image.pixels, None if row in maker.maps.unusable else image.mask

        def real_image(row: int) -> Picture:
            bar.update()
            return source(row)

        def synthetic_image(position: int) -> Picture:
            bar.update()
            return np.asarray(rows.image(position)), source(int(rows.sources[position]))[1]

        real = compute_views(folder, key, split, judge, real_image)
        return real, compute_views(folder, key | {"synthetic": str(rows.pin)}, synthetic, judge, synthetic_image)


def judge_on_real(settings: EvaluationSettings, recipe: AugmentSettings, split: Split, judge: Judge) -> tuple[dict | None, dict]:
    """How often the judge is right on the real images of the evaluation split, as they are stored: overall, and by label (right, images).
    Nothing without such a split."""
    if settings.eval_split is None:
        return None, {}
    real = load_evaluation_split(recipe, settings.eval_split, like=split)
    rows = real.decodable()
    if not len(rows):
        raise UserError(f"split {settings.eval_split!r} of {split.pin.name} has no image that can be decoded: give another --eval_split")
    judged: dict[int, tuple[int, int]] = {}
    with tqdm(total=len(rows), desc="judge on real images", unit="image") as bar:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for label, predicted in zip(real.labels[batch].tolist(), judge.predict([real.image(row) for row in batch]), strict=True):
                right, images = judged.get(label, (0, 0))
                judged[label] = (right + int(predicted == label), images + 1)
            bar.update(len(batch))
            stop_if_requested()
    right, images = map(sum, zip(*judged.values(), strict=True))
    return {"split": settings.eval_split, "accuracy": right / images, "images": images}, judged


# ---- figures ----


def draw_figures(facts: dict, scores: Scores, rows: PublishedRows, maker: RowMaker, labels: np.ndarray, output: Path) -> dict[str, Path]:
    """The figures as PNG in the output folder, by name."""
    paths = {name: output / name for name in ("label_fidelity.png", "drift_novelty.png", "best_worst.png")}
    draw_fidelity(facts["by_class"], paths["label_fidelity.png"])
    draw_drift(scores, labels, facts["real"], paths["drift_novelty.png"])
    best, worst = ([_panels(scores, rows, maker, int(row)) for row in side] for side in ends(scores["judge_label_probability"]))
    sheet = in_few_colours(draw_ends(best, worst))
    write_atomically(paths["best_worst.png"], lambda path: sheet.save(path, "PNG", optimize=True))
    return paths


def _panels(scores: Scores, rows: PublishedRows, maker: RowMaker, position: int) -> list[Panel]:
    names, row = maker.inputs.split.class_names, rows.rows.remove_columns("image")[position]
    source = maker.masked_image(row["source_index"])
    label, seen = (" ".join(names[number].split()) for number in (row["label"], scores["judge_label"][position]))
    probability = f"{scores['judge_label_probability'][position]:.2f}"
    caption = probability if seen == label else f"{probability}: {seen}"
    return [Panel(source.pixels, label), Panel(mask_panel(source)), Panel(np.asarray(rows.image(position)), caption)]


if __name__ == "__main__":
    launch(main, EvaluationSettings)
