"""Builds `repo/` from finished shards: parquet files, config, plan, manifest, card and pictures."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

import numpy as np
import yaml
from datasets import Features

from sgdmix_hub._version import FORMAT
from sgdmix_hub.data.splits import Split, subset_record
from sgdmix_hub.errors import UserError
from sgdmix_hub.figures.plots import draw_statistics
from sgdmix_hub.files import DamagedFile, file_sha256, read_sealed, sync, sync_entry, write_sealed
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS, read_classifier_facts
from sgdmix_hub.hub.licences import Licence, licence_of, stated_license
from sgdmix_hub.hub.manifests import list_paths, read_manifest, write_manifest
from sgdmix_hub.hub.pins import MODEL_FILES, local_folder
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.dataset_card import CardEvaluation, CardFacts, dataset_card, read_prose
from sgdmix_hub.publishing.layout import (
    CARD,
    EVALUATION,
    RepoLayout,
    file_facts,
    shard_features,
)
from sgdmix_hub.publishing.statistics import RowStatistics
from sgdmix_hub.runtime.environment import versions
from sgdmix_hub.settings.generation import AugmentSettings, fingerprint, published_settings
from sgdmix_hub.settings.reasons import most_common
from sgdmix_hub.storage.stores import HERE, Store

from .contact_sheet import contact_sheet, sheet_rows
from .gallery import GALLERY_ROWS, gallery
from .inputs import Inputs
from .published_files import PublishedFiles
from .row_maker import RowMaker
from .saliency_maps import SaliencyMaps
from .shards import Shards

START_OVER = "remove that folder and run again; finished shards are kept"
LISTED_NAMES = 3  # damaged files that a message names


def is_complete(
    output: OutputFolder, settings: AugmentSettings, pins: dict[str, str], store: Store = HERE
) -> bool:
    """Whether `repo/` holds exactly this generation, complete.

    Files are compared by size or, with `verify`, by their sha256. Raises `UserError` if `repo/`
    holds another generation or is damaged.
    """
    repo, manifest_name = output.repo, RepoLayout(settings.config_name).manifest
    if not store.bring(repo / manifest_name):
        if repo.exists():
            raise UserError(f"{repo} is not this run's: choose another --output_dir or remove it")
        return False
    store.bring_all([output.finished, *list_paths(repo / manifest_name)])
    check_manifest(output, manifest_name)
    manifest = read_manifest(repo / manifest_name)
    if EVALUATION in manifest:
        raise UserError(f"{repo} is an evaluated copy of a generation: choose another --output_dir")
    if (made_in := manifest.get("format", 1)) != FORMAT:
        raise UserError(
            f"{repo} was made by another version of sgdmix_hub, in format {made_in}, not "
            f"{FORMAT}: choose another --output_dir"
        )
    if manifest["fingerprint"] != fingerprint(settings, pins):
        raise UserError(
            f"{repo} was made with other settings: choose another --output_dir or remove it"
        )
    changed = [
        name
        for name in ("license", "license_name", "license_link", "card", "gallery")
        if manifest.get(name) != card_inputs(settings).get(name)
    ]
    if changed:
        raise UserError(f"{repo} has another {' and '.join(changed)}: {START_OVER}")
    listed = store.sizes(repo)  # one request for all files, and one for each that it lacks

    def size(name: str) -> int | None:
        return listed[name] if name in listed else store.size(repo / name)

    damaged = [
        name
        for name, facts in manifest["files"].items()
        if size(name) != facts["bytes"]
        or (settings.verify and store.sha256(repo / name) != facts["sha256"])
    ]
    if damaged:
        raise UserError(damage_text(repo, damaged))
    return True


def is_as_stated(path: Path, facts: dict, by_bytes: bool) -> bool:
    """Whether a file has the size in the manifest and, if `by_bytes`, the sha256 too."""
    return (
        path.is_file()
        and path.stat().st_size == facts["bytes"]
        and (not by_bytes or file_sha256(path) == facts["sha256"])
    )


def check_manifest(output: OutputFolder, manifest_name: str) -> None:
    """Raises `UserError` if the manifest has changed since it was written.

    Without `state/`, which records its sha256, nothing is checked.
    """
    try:
        stated = read_sealed(output.finished)["manifest"]
    except FileNotFoundError:
        return
    except DamagedFile as damage:
        raise UserError(damage_text(output.repo, [f"its {damage.path}"])) from None
    if file_sha256(output.repo / manifest_name) != stated:
        raise UserError(damage_text(output.repo, [manifest_name]))


def damage_text(repo: Path, names: list[str]) -> str:
    """Tells the user which files of `repo/` are damaged and how to repair it."""
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    listed = ", ".join(names[:LISTED_NAMES])
    return f"{repo} is damaged ({listed}{more}: missing, cut off or changed): {START_OVER}"


def build_repository(
    settings: AugmentSettings,
    inputs: Inputs,
    maps: SaliencyMaps,
    maker: RowMaker,
    published: PublishedFiles,
    output: OutputFolder,
    store: Store = HERE,
) -> None:
    """Writes `repo/` from the files, the shards and their records; discards an interrupted attempt.

    In an object store, where nothing can be renamed, the manifest is written last. Raises
    `UserError` if every row was skipped, and `DamagedFile` if a shard has changed.
    """
    shards = published.shards
    check_any_row(shards)
    layout, building = RepoLayout(settings.config_name), output.building
    class_names = inputs.split.class_names
    shutil.rmtree(building, ignore_errors=True)
    layout.make_folders(building)
    made = published.make_all()
    config = yaml.safe_dump(
        published_settings(settings, inputs.pins), sort_keys=True, allow_unicode=True
    )
    (building / layout.config).write_text(config, encoding="utf-8")
    shutil.copyfile(shards.plan_path, building / layout.plan)
    if settings.strength_choice is not None:
        store.bring(output.strengths)
        shutil.copyfile(output.strengths, building / layout.strengths)
    contact_sheet(settings, inputs, maker, shards).save(building / layout.contact_sheet)
    if settings.gallery:
        rows = sheet_rows(settings, inputs, maker, shards, GALLERY_ROWS)
        count = sum(shards.record(number)["rows"] for number in range(len(shards)))
        page = gallery(stated(settings, inputs)["title"], rows, count, settings.refines)
        (building / layout.gallery).write_text(page, encoding="utf-8")
    statistics = shards.statistics(len(class_names))
    draw_statistics(statistics, building / layout.statistics)
    files = sorted((file_facts(building) | made).items(), key=lambda item: PurePosixPath(item[0]))
    manifest = make_manifest(settings, inputs, shards, dict(files)) | {
        "saliency": saliency_facts(inputs, maps, shards),
        "stated": stated(settings, inputs),
    }
    if settings.strength_choice is not None:
        manifest["planned_strengths"] = planned_strengths(shards)
    manifest = write_manifest(building / layout.manifest, manifest)
    facts = card_facts(manifest, shard_features(class_names, settings.more_columns), statistics)
    (building / CARD).write_text(dataset_card(settings, facts), encoding="utf-8")
    if not store.is_remote:
        published.move_into(building)
    sync(building)
    write_sealed(output.finished, {"manifest": file_sha256(building / layout.manifest)})
    building.rename(output.repo)
    sync_entry(output.path)
    if store.is_remote:
        names = [*(name for name in manifest["files"] if name not in made), CARD]
        for name in names:
            store.keep(output.repo / name)
        store.keep(output.finished)
        store.keep(output.repo / layout.manifest)


def check_any_row(shards: Shards) -> None:
    """Raises `UserError` if every row was skipped: no library loads a dataset without rows."""
    if any(shards.record(number)["rows"] for number in range(len(shards))):
        return
    reasons = most_common(record["reason"] for record in shards.skipped())
    raise UserError(
        f"not one of {shards.num_rows} rows could be made ({reasons}): no dataset was written"
    )


def make_manifest(
    settings: AugmentSettings, inputs: Inputs, shards: Shards, files: dict[str, dict]
) -> dict:
    """Fingerprint, pins, versions, counts, skipped rows, and the sha256 of every file.

    The card is left out: people may edit it, and configurations share it.
    """
    rows, environments = 0, {}
    for number in range(len(shards)):
        record = shards.record(number)
        rows += record["rows"]
        environments.setdefault(json.dumps(record["environment"]), record["environment"])
    return {
        "format": FORMAT,
        "fingerprint": fingerprint(settings, inputs.pins),
        "pins": inputs.pins,
        "subset": subset_record(settings, inputs.split),
        "prompt_class": settings.prompt_class,
        "resize": settings.resize,
        **card_inputs(settings),
        "environments": list(environments.values()),
        "rows": rows,
        "planned_rows": shards.num_rows,
        "skipped": shards.skipped(),
        "files": files,
    }


def card_inputs(settings: AugmentSettings) -> dict[str, str | bool | None]:
    """The settings that change the card but not the images; some only if they are given."""
    named = {
        "license_name": settings.license_name,
        "license_link": settings.license_link,
        "gallery": settings.gallery or None,
    }
    return {
        "license": settings.license,
        "card": file_sha256(settings.card) if settings.card else None,
    } | {name: value for name, value in named.items() if value is not None}


def saliency_facts(inputs: Inputs, maps: SaliencyMaps, shards: Shards) -> dict:
    """What the masks come from and how they were used.

    `method`: of the maps, which may differ from the settings' after the trust test, `trust`.
    `sought`: the words given to a segmenter. `unmixed`: how many rows show their source unmixed
    because its mask could not be trusted.
    """
    unmixed = 0
    for plan in shards.plan_parts("source_index", "target_index"):
        sources, targets = (column.to_numpy() for column in plan.columns)
        unmixed += int((sources == targets).sum())
    facts = {"method": maps.method, "trust": asdict(maps.trust) if maps.trust else None}
    if inputs.segmenter is not None:
        facts["sought"] = list(inputs.segmenter.words)
    return facts | {"unmixed": unmixed}


def planned_strengths(shards: Shards) -> list[dict]:
    """How many rows of the plan have each strength, without those that are skipped or unmixed."""
    rows: Counter[float] = Counter()
    for plan in shards.plan_parts("source_index", "target_index", "strength", "skip"):
        sources, targets, strengths = (column.to_numpy() for column in plan.columns[:3])
        made = (sources != targets) & plan["skip"].is_null().to_numpy()
        found, counts = np.unique(strengths[made], return_counts=True)
        rows.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    return [{"strength": strength, "rows": count} for strength, count in sorted(rows.items())]


def stated(settings: AugmentSettings, inputs: Inputs) -> dict:
    """What the card states besides settings and counts.

    The manifest keeps it, so that the card can be rewritten without the inputs.
    """
    licenses = {"dataset_name": stated_license(inputs.split.pin, "dataset")}
    if inputs.bank is not None:
        licenses["background_dataset_name"] = stated_license(inputs.bank.pin, "dataset")
    gated = {}
    if inputs.base is not None:
        of_base = base_licence(inputs)
        licenses["pretrained_model_name_or_path"] = of_base.text
        gated = {"gated": ["pretrained_model_name_or_path"]} if of_base.gated else {}
    if inputs.few_step_lora is not None:
        licenses["few_step_lora"] = stated_license(inputs.few_step_lora)
    if inputs.adapter_pin is not None:
        licenses["adapter"] = stated_license(inputs.adapter_pin)
    foreign = {} if inputs.foreign is None else {"adapter_files": inputs.foreign.files}
    return (
        foreign
        | gated
        | {
            "title": f"{inputs.split.pin.name.rpartition('/')[2]} SGD-Mix",
            "prose": read_prose(settings.card) if settings.card else None,
            "versions": versions(),
            "licenses": licenses,
            "quality": measured_quality(inputs),
            "real_rows": real_rows(inputs.split),
        }
    )


def base_licence(inputs: Inputs) -> Licence:
    """The base model's licence, as its card states it.

    Only if that states none, as its adapter recorded it: whoever made the adapter wrote that.
    """
    assert inputs.base is not None, "settings that refine name a base model"
    found = licence_of(inputs.base)
    recorded = inputs.adapter.facts.get("base_license") if inputs.adapter else None
    return replace(found, text=found.text or recorded)


def real_rows(split: Split) -> list[int]:
    """The source images of every class, in the subset that the generation was made from."""
    return np.bincount(split.labels[split.subset], minlength=len(split.class_names)).tolist()


def card_facts(
    manifest: dict,
    features: Features,
    statistics: RowStatistics,
    evaluation: CardEvaluation | None = None,
) -> CardFacts:
    """The card's facts: counts from the shards, everything else from the manifest.

    `features`: the shards' columns.
    """
    from_run = manifest["stated"]
    return CardFacts(
        title=from_run["title"],
        features=features,
        rows_by_label=statistics.rows_by_label,
        real_rows=from_run.get("real_rows"),
        parquet_bytes=sum(
            facts["bytes"] for name, facts in manifest["files"].items() if "/train-" in name
        ),
        skipped=manifest["skipped"],
        saliency=manifest["saliency"],
        pins=manifest["pins"],
        versions=from_run["versions"],
        fingerprint=manifest["fingerprint"],
        mean_distance=statistics.distance.mean,
        mean_area=statistics.area.mean,
        licenses=from_run["licenses"],
        quality=from_run["quality"],
        sigma_start=statistics.sigma_start,
        effective_strength=statistics.effective_strength,
        remade=statistics.remade,
        adapter_files=from_run.get("adapter_files", {}),
        gated=from_run.get("gated", []),
        planned_strengths=manifest.get("planned_strengths", []),
        evaluation=evaluation,
        has_gallery=any(name.endswith("/gallery.html") for name in manifest["files"]),
    )


def measured_quality(inputs: Inputs) -> list[tuple[str, str]]:
    """Measured quality of the inputs, as lines of the card: (description, value)."""
    lines = []
    fidelity = inputs.adapter.facts.get("fidelity") if inputs.adapter else None
    if fidelity:
        arms = {
            "noise, adapter": "the adapter's images from noise",
            "mixed, adapter": f"mixed images refined at S = {fidelity['strength']}",
        }
        for arm, text in arms.items():
            scores = fidelity["arms"][arm]
            low, high = scores["interval"]
            lines.append(
                (
                    f"{text} that show their class to a classifier trained on real images",
                    f"{scores['accuracy']:.3f} [{low:.3f}, {high:.3f}] of {scores['images']}",
                )
            )
    if inputs.classifier is not None:
        folder = Path(local_folder(inputs.classifier, MODEL_FILES))
        facts = read_classifier_facts(folder / CLASSIFIER_FACTS)
        accuracy = facts.get("metrics", {}).get("accuracy")
        if accuracy is not None:
            split = facts.get("settings", {}).get("eval_split")
            text = f"accuracy on {split} of the classifier behind the saliency maps"
            lines.append((text, f"{accuracy:.3f}"))
    return lines
