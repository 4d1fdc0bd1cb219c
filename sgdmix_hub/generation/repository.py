"""Finished shards -> `repo/`: parquet files, config, plan, manifest, card and pictures, put in
place in one rename.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import yaml
from datasets import Features

from sgdmix_hub.data.splits import subset_record
from sgdmix_hub.errors import UserError
from sgdmix_hub.figures.plots import draw_statistics
from sgdmix_hub.files import DamagedFile, file_sha256, read_sealed, sync, sync_entry, write_sealed
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS, read_classifier_facts, read_manifest
from sgdmix_hub.hub.licences import stated_license
from sgdmix_hub.hub.pins import MODEL_FILES, local_folder
from sgdmix_hub.publishing.dataset_card import CardEvaluation, CardFacts, dataset_card, read_prose
from sgdmix_hub.publishing.layout import (
    EVALUATION,
    assets_folder,
    data_folder,
    file_facts,
    manifest_path,
    shard_features,
    shard_name,
)
from sgdmix_hub.publishing.statistics import RowStatistics, count_rows
from sgdmix_hub.runtime.environment import versions
from sgdmix_hub.settings.generation import AugmentSettings, fingerprint, published_settings

from .contact_sheet import contact_sheet
from .dry_run import most_common
from .inputs import Inputs
from .row_maker import RowMaker
from .saliency_maps import SaliencyMaps
from .shards import Shards

BUILDING = "repo.building"
FINISHED = "repo.json"  # in state/: the manifest's sha256


def is_complete(repo: Path, settings: AugmentSettings, pins: dict[str, str]) -> bool:
    """Whether `repo/` holds this very generation, whole: by the sizes of its files or, with
    `verify`, by all their bytes. Raises `UserError` when it holds another one, or a damaged one.
    """
    if not repo.exists():
        return False
    if not manifest_path(repo, settings).is_file():
        raise UserError(f"{repo} is not this run's: choose another --output_dir or remove it")
    check_manifest(repo, manifest_path(repo, settings))
    manifest = read_manifest(manifest_path(repo, settings))
    if EVALUATION in manifest:
        raise UserError(f"{repo} is an evaluated copy of a generation: choose another --output_dir")
    if manifest["fingerprint"] != fingerprint(settings, pins):
        raise UserError(
            f"{repo} was made with other settings: choose another --output_dir or remove it"
        )
    changed = [name for name, value in card_inputs(settings).items() if manifest[name] != value]
    if changed:
        raise UserError(
            f"{repo} has another {' and '.join(changed)}: remove {repo} and run again, finished shards are kept"
        )
    damaged = [
        name
        for name, facts in manifest["files"].items()
        if not is_as_stated(repo / name, facts, settings.verify)
    ]
    if damaged:
        raise UserError(damage_text(repo, damaged))
    return True


def is_as_stated(path: Path, facts: dict, by_bytes: bool) -> bool:
    """Whether a file has the size that the manifest states, and the sha256 where that is asked for."""
    return (
        path.is_file()
        and path.stat().st_size == facts["bytes"]
        and (not by_bytes or file_sha256(path) == facts["sha256"])
    )


def check_manifest(repo: Path, manifest: Path) -> None:
    """Raises `UserError` unless the manifest is the one that was written; nothing is said of a
    repo/ whose state/ is gone.
    """
    try:
        stated = read_sealed(repo.parent / "state" / FINISHED)["manifest"]
    except FileNotFoundError:
        return
    except DamagedFile as damage:
        raise UserError(damage_text(repo, [f"its {damage.path}"])) from None
    if file_sha256(manifest) != stated:
        raise UserError(damage_text(repo, [manifest.relative_to(repo).as_posix()]))


def damage_text(repo: Path, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"{repo} is damaged ({', '.join(names[:3])}{more}: missing, cut off or changed): remove that folder and run again, finished shards "
        "are kept"
    )


def build_repository(
    settings: AugmentSettings, inputs: Inputs, maker: RowMaker, shards: Shards, output: Path
) -> None:
    """Writes `output/repo` from the shards and their records; what an interrupted attempt left is
    thrown away. Raises `UserError` when not one row could be made, and when a shard has changed
    since it was made.
    """
    check_any_row(shards)
    building = output / "state" / BUILDING
    shutil.rmtree(building, ignore_errors=True)
    data = building / data_folder(settings.config_name)
    assets = building / assets_folder(settings.config_name)
    facts_folder = building / "sgdmix" / settings.config_name
    for folder in (data, facts_folder, assets):
        folder.mkdir(parents=True)
    for number in range(len(shards)):
        shards.link_into(number, data / shard_name(number, len(shards)))
    config = yaml.safe_dump(
        published_settings(settings, inputs.pins), sort_keys=True, allow_unicode=True
    )
    (facts_folder / "config.yaml").write_text(config, encoding="utf-8")
    shutil.copyfile(shards.plan_path, facts_folder / "plan.parquet")
    contact_sheet(settings, inputs, maker, shards).save(assets / "contact_sheet.png")
    statistics = count_rows(
        (shards.path(number) for number in range(len(shards))), len(inputs.split.class_names)
    )
    draw_statistics(statistics, assets / "statistics.png")
    manifest = make_manifest(settings, inputs, shards, building) | {
        "saliency": saliency_facts(inputs, maker.maps, shards),
        "stated": stated(settings, inputs),
    }
    check_same_bytes(shards, manifest["files"], data.relative_to(building).as_posix())
    write_sealed(manifest_path(building, settings), manifest)
    card = dataset_card(
        settings, card_facts(manifest, shard_features(inputs.split.class_names), statistics)
    )
    (building / "README.md").write_text(card, encoding="utf-8")
    sync(building)
    write_sealed(
        output / "state" / FINISHED, {"manifest": file_sha256(manifest_path(building, settings))}
    )
    building.rename(output / "repo")
    sync_entry(output)


def check_any_row(shards: Shards) -> None:
    """Raises `UserError` when every row was skipped: no library loads a dataset of no rows."""
    if any(shards.record(number)["rows"] for number in range(len(shards))):
        return
    reasons = most_common(record["reason"] for record in shards.skipped())
    raise UserError(
        f"not one of {len(shards.plan)} rows could be made ({reasons}): there is no dataset to write"
    )


def check_same_bytes(shards: Shards, files: dict[str, dict], folder: str) -> None:
    """Raises `DamagedFile` for a shard whose bytes in the repository are not those that its record
    states.
    """
    for number in range(len(shards)):
        if (
            files[f"{folder}/{shard_name(number, len(shards))}"]["sha256"]
            != shards.record(number)["sha256"]
        ):
            raise DamagedFile(shards.path(number))


def make_manifest(
    settings: AugmentSettings, inputs: Inputs, shards: Shards, building: Path
) -> dict:
    """What was made from what: the fingerprint, pins, versions, counts, skipped rows, and every
    file's sha256 but the card's, which people may edit and other configurations share.
    """
    environments = [shards.record(number)["environment"] for number in range(len(shards))]
    return {
        "fingerprint": fingerprint(settings, inputs.pins),
        "pins": inputs.pins,
        "subset": subset_record(settings, inputs.split),
        "prompt_class": settings.prompt_class,
        **card_inputs(settings),
        "environments": [e for i, e in enumerate(environments) if e not in environments[:i]],
        "rows": sum(shards.record(number)["rows"] for number in range(len(shards))),
        "planned_rows": len(shards.plan),
        "skipped": shards.skipped(),
        "files": file_facts(building),
    }


def card_inputs(settings: AugmentSettings) -> dict[str, str | None]:
    """What the card takes from the settings besides what made the images."""
    return {
        "license": settings.license,
        "card": file_sha256(settings.card) if settings.card else None,
    }


def saliency_facts(inputs: Inputs, maps: SaliencyMaps, shards: Shards) -> dict:
    """The method that made the maps, which is another than the settings name where a trust test
    said so, and what that test found; what a segmenter looked for; and how many rows keep their
    source as it is because its mask could not be trusted.
    """
    sources, targets = (shards.plan[name].to_numpy() for name in ("source_index", "target_index"))
    facts = {"method": maps.method, "trust": asdict(maps.trust) if maps.trust else None}
    if inputs.segmenter is not None:
        facts["sought"] = list(inputs.segmenter.words)
    return facts | {"unmixed": int((sources == targets).sum())}


def stated(settings: AugmentSettings, inputs: Inputs) -> dict:
    """What the card says besides settings and counts: kept in the manifest, so that it can be said
    again without the inputs.
    """
    licenses = {"dataset_name": stated_license(inputs.split.pin, "dataset")}
    if inputs.base is not None:
        recorded = inputs.adapter.facts.get("base_license") if inputs.adapter else None
        licenses["pretrained_model_name_or_path"] = recorded or stated_license(inputs.base)
    return {
        "title": f"{inputs.split.pin.name.rpartition('/')[2]} SGD-Mix",
        "prose": read_prose(settings.card) if settings.card else None,
        "versions": versions(),
        "licenses": licenses,
        "quality": measured_quality(inputs),
    }


def card_facts(
    manifest: dict,
    features: Features,
    statistics: RowStatistics,
    evaluation: CardEvaluation | None = None,
) -> CardFacts:
    """The card's numbers, counted in the shards themselves, and what the manifest says. `features`:
    the shards' columns.
    """
    said = manifest["stated"]
    return CardFacts(
        title=said["title"],
        features=features,
        rows_by_label=statistics.rows_by_label,
        parquet_bytes=sum(
            facts["bytes"] for name, facts in manifest["files"].items() if "/train-" in name
        ),
        skipped=manifest["skipped"],
        saliency=manifest["saliency"],
        pins=manifest["pins"],
        versions=said["versions"],
        fingerprint=manifest["fingerprint"],
        mean_distance=statistics.distance.mean,
        mean_area=statistics.area.mean,
        licenses=said["licenses"],
        quality=said["quality"],
        evaluation=evaluation,
    )


def measured_quality(inputs: Inputs) -> list[tuple[str, str]]:
    """What is known of the inputs' worth, in words: what a judge saw of the adapter's images, and
    how often the classifier is right.
    """
    found = []
    fidelity = inputs.adapter.facts.get("fidelity") if inputs.adapter else None
    if fidelity:
        arms = {
            "noise, adapter": "the adapter's images from noise",
            "mixed, adapter": f"mixed images refined at S = {fidelity['strength']}",
        }
        for arm, text in arms.items():
            low, high = fidelity["arms"][arm]["interval"]
            share = f"{fidelity['arms'][arm]['accuracy']:.3f} [{low:.3f}, {high:.3f}] of {fidelity['arms'][arm]['images']}"
            found.append(
                (f"{text} that show their class to a classifier trained on real images", share)
            )
    if inputs.classifier is not None:
        facts = read_classifier_facts(
            Path(local_folder(inputs.classifier, MODEL_FILES)) / CLASSIFIER_FACTS
        )
        split, accuracy = (
            facts.get(of, {}).get(name)
            for of, name in (("settings", "eval_split"), ("metrics", "accuracy"))
        )
        if accuracy is not None:
            found.append(
                (
                    f"accuracy on {split} of the classifier behind the saliency maps",
                    f"{accuracy:.3f}",
                )
            )
    return found
