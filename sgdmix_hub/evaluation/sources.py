"""What an evaluated version was made from: its generation's settings, source images, masks, and the
judge's own accuracy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from sgdmix_hub.data.splits import Split, load_evaluation_split, split_of
from sgdmix_hub.errors import UserError
from sgdmix_hub.generation.row_maker import RowMaker
from sgdmix_hub.hub.pins import LOCAL, MODEL_FILES, Pin, local_folder, resolve, same_content
from sgdmix_hub.method.saliency.trust import Trust
from sgdmix_hub.models.classifier import BATCH, Judge
from sgdmix_hub.publishing.read import PublishedRows
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.runtime.stopping import stop_if_requested
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.method import FALL_BACK, SALIENCY_SOURCES, apply_preset
from sgdmix_hub.settings.parsing import parse_settings

from .embeddings import Picture, Views, compute_views
from .scores import Origins

WITHOUT_CLASSIFIER = {
    "saliency_method": FALL_BACK,
    "threshold_method": "otsu",
    "mask_refinement": "grabcut",
    "largest_component": False,
    "fill_holes": False,
    "mask_dilation": 0.0,
}


def doubts(judge: Judge, trust: Trust, subset: dict) -> list[str]:
    """Why this judge may say the wrong thing, in sentences; none where nothing speaks against it.
    `subset`: of the sources.
    """
    found = []
    if trust.reads_background:
        found.append(
            f"The judge reads the background ({trust}): it takes good changes of background for lost labels."
        )
    trained_on = judge.facts.get("subset", {})
    same = all(
        subset[name] == trained_on.get(name)
        for name in ("dataset_config_name", "dataset_split", "rows_sha256")
    )
    if same and same_content(subset["dataset"], trained_on["dataset"]):
        found.append(
            "The judge was trained on the source images, whose foregrounds it knows: an independent one would agree less."
        )
    if judge.facts.get("synthetic"):
        found.append("The judge was trained on synthetic images: it is no independent one.")
    return found


def generation_settings(
    settings: EvaluationSettings, folder: Path, output: Path
) -> AugmentSettings:
    """The settings of the generation, with its preset applied."""
    path = folder / "sgdmix" / settings.synthetic_config_name / "config.yaml"
    return apply_preset(
        parse_settings(AugmentSettings, ["--config", str(path), f"--output_dir={output}"])
    )


def source_pin(settings: EvaluationSettings, manifest: dict) -> Pin:
    """The source dataset at its pin. Raises `UserError` where that was a local folder whose path
    was not given.
    """
    stated = manifest["pins"]["dataset_name"]
    if settings.dataset_name is None and stated.rpartition("@")[2].startswith(LOCAL):
        raise UserError(
            f"the dataset was made from a local folder ({stated.partition('@')[0]}): give its path with --dataset_name"
        )
    return resolve(settings.dataset_name or stated, repo_type="dataset")


def mask_settings(
    settings: EvaluationSettings, recipe: AugmentSettings, manifest: dict
) -> tuple[AugmentSettings, Pin | None, str]:
    """The settings that find the sources' foregrounds, the classifier they need, and both in words:
    those of the generation, or, where the classifier behind its maps is not at hand, model-free
    ones. Raises `UserError` when another classifier is given.
    """
    method = manifest["saliency"]["method"]
    words = f"the generation's ({method}, {recipe.threshold_method}{', GrabCut' if recipe.mask_refinement == 'grabcut' else ''})"
    if SALIENCY_SOURCES[method].needs != "classifier":
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
    return replace(recipe, **WITHOUT_CLASSIFIER), None, words


def origins_of(rows: PublishedRows, split: Split) -> Origins:
    """What the rows were made from, with positions in the split's subset."""
    targets = rows.rows.data.column("target_index").to_numpy()
    sources, targets = (
        np.searchsorted(split.subset, indices) for indices in (rows.sources, targets)
    )
    return Origins(sources, targets, rows.labels, rows.strengths, split.labels[split.subset])


def all_views(
    rows: PublishedRows, split: Split, judge: Judge, maker: RowMaker, folder: Path
) -> tuple[Views, Views]:
    """The views of the sources and of the synthetic images, both through the sources' masks."""
    synthetic = split_of(rows.rows, rows.pin, "image", "label")
    names = (
        "threshold_method",
        "threshold_quantile",
        "mask_refinement",
        "largest_component",
        "fill_holes",
        "mask_dilation",
        "resolution",
    )
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
        return real, compute_views(
            folder, key | {"synthetic": str(rows.pin)}, synthetic, judge, synthetic_image
        )


def judge_on_real(
    settings: EvaluationSettings, recipe: AugmentSettings, split: Split, judge: Judge
) -> tuple[dict | None, dict]:
    """How often the judge is right on the real images of the evaluation split, as they are stored:
    overall, and by label (right, images). Nothing without such a split.
    """
    if settings.eval_split is None:
        return None, {}
    real = load_evaluation_split(recipe, settings.eval_split, like=split)
    rows = real.decodable()
    if not len(rows):
        raise UserError(
            f"split {settings.eval_split!r} of {split.pin.name} has no image that can be decoded: give another --eval_split"
        )
    judged: dict[int, tuple[int, int]] = {}
    with tqdm(total=len(rows), desc="judge on real images", unit="image") as bar:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for label, predicted in zip(
                real.labels[batch].tolist(),
                judge.predict([real.image(row) for row in batch]),
                strict=True,
            ):
                right, images = judged.get(label, (0, 0))
                judged[label] = (right + int(predicted == label), images + 1)
            bar.update(len(batch))
            stop_if_requested()
    right, images = map(sum, zip(*judged.values(), strict=True))
    return {"split": settings.eval_split, "accuracy": right / images, "images": images}, judged
