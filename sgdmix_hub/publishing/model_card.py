"""Writes the model card of a trained adapter or classifier from the facts of its training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from sgdmix_hub.files import read_json, write_text
from sgdmix_hub.hub.formats import CLASSIFIER_FACTS
from sgdmix_hub.hub.licences import Licence, conflict
from sgdmix_hub.hub.pins import Pin
from sgdmix_hub.models.adapters import FACTS_FILE as ADAPTER_FACTS
from sgdmix_hub.models.adapters import JUDGED_ARMS
from sgdmix_hub.models.bases.families import BY_NAME, name_in
from sgdmix_hub.models.prompts import expanded_prompt, prompt_of, words_of
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.training import ClassifierSettings, TrainingSettings

from .card_merge import UNPUBLISHED_NAME, plain
from .card_text import LONGEST_NAME, card_text, plain_code, plain_name
from .dataset_card import LARGEST_TABLE
from .layout import CARD

TEMPLATES = Path(__file__).parents[1] / "templates"
MOST_CONFUSED = 5

# The paper does not state these settings; the defaults are those of another paper.
PEER = "Diff-Mix (CVPR 2024)"
BORROWED: dict[type[TrainingSettings], tuple[str, ...]] = {
    AdapterSettings: (
        "rank",
        "learning_rate",
        "token_learning_rate",
        "adam_weight_decay",
        "total_batch_size",
        "lr_scheduler",
        "max_grad_norm",
        "random_flip",
    ),
    ClassifierSettings: (
        "num_train_epochs",
        "optim",
        "weight_decay",
        "warmup_ratio",
        "label_smoothing_factor",
        "synthetic_probability",
    ),
}


def write_adapter_card(
    settings: AdapterSettings, folder: Path, of_base: Licence | None = None
) -> None:
    """Writes the README.md of an adapter's folder from its adapter.json.

    `of_base`: as the base's card states it, for a training that could not ask for it.
    """
    facts = read_json(folder / ADAPTER_FACTS)
    of_base = of_base or Licence(None)
    facts["base_license"] = facts["base_license"] or of_base.text
    names = facts["class_names"]
    fidelity = facts.get("fidelity")
    base = Pin.parse(facts["base"])
    title = f"{len(names)} classes of {plain(facts['metaclass'])}: an adapter for SGD-Mix"
    data = ModelCardData(
        license=settings.license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=None if base.is_local else base.name,
        datasets=_on_hub(facts["subset"]["dataset"]),
        tags=[
            "sgd-mix",
            "lora",
            *(["textual_inversion"] if facts["tokens"] else []),
            "dreambooth",
            "data-augmentation",
            "arxiv:2505.11813",
        ],
        instance_prompt=_prompt(facts, 0),
    )
    _write_card(
        folder,
        data,
        "adapter_card.md",
        settings,
        facts,
        title=title,
        base=plain(facts["base"]),
        snippet=_stock_loading(settings, facts),
        terms=Licence(facts["base_license"]).terms,
        base_gated=facts.get("base_gated", False) or of_base.gated,
        allowed=_allowed(settings, facts),
        learns_tokens=bool(facts["tokens"]),
        metaclass=plain(facts["metaclass"]),
        metaclass_code=plain_code(facts["metaclass"]),
        prompt_template=plain_code(facts["prompt_template"]),
        classes=_class_rows(facts),
        dataset=Pin.parse(facts["subset"]["dataset"]).name,
        fidelity=fidelity,
        judged_arms=list(JUDGED_ARMS.values()) if fidelity else [],
        arms={arm: _share(scores) for arm, scores in fidelity["arms"].items()} if fidelity else {},
        confused=_confused(fidelity["arms"]["noise, adapter"], names) if fidelity else [],
    )


def _allowed(settings: AdapterSettings, facts: dict) -> dict[str, str] | None:
    """The conflict with the base's licence and the user's reason, if there is a conflict."""
    fault = conflict(facts["base_license"], settings.license)
    if fault is None or settings.allow_license is None:
        return None
    return {"conflict": plain(fault).capitalize(), "reason": plain(settings.allow_license)}


def _stock_loading(settings: AdapterSettings, facts: dict) -> str:
    """The code that loads an adapter with stock diffusers."""
    base, names = Pin.parse(facts["base"]), facts["class_names"]
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES / "stock_loading"))
    vectors = facts["settings"]["num_vectors"]
    expanded = _prompt(facts, 0)
    if vectors:
        expanded = expanded_prompt(0, vectors, facts["metaclass"], facts["prompt_template"])
    in_output = facts["settings"].get("token_place") == "output"
    code = templates.get_template(f"{name_in(facts)}.py.jinja").render(
        repo_id=settings.hub_model_id or UNPUBLISHED_NAME,
        on_hub=settings.hub_model_id is not None,
        base_name=base.name,
        base_revision=None if base.is_local else base.revision,
        num_classes=len(names),
        token_parts=["", *(f"_{number}" for number in range(1, vectors))] if vectors else [],
        output_layers=list(BY_NAME[name_in(facts)].encoders[0].outputs) if in_output else [],
        # JSON strings are Python strings, too
        example_prompt=json.dumps(_prompt(facts, 0), ensure_ascii=False),
        expanded_prompt=json.dumps(expanded, ensure_ascii=False),
        example_class=" ".join(names[0].split())[:LONGEST_NAME],
    )
    return code.strip()


def write_classifier_card(settings: ClassifierSettings, folder: Path) -> None:
    """Writes the README.md of a classifier's folder from its classifier.json."""
    facts = read_json(folder / CLASSIFIER_FACTS)
    model = Pin.parse(facts["model"])
    metrics = facts.get("metrics", {})
    title = f"A classifier of {len(facts['class_names'])} classes"
    groups = facts.get("groups", [])
    datasets = _on_hub(facts["subset"]["dataset"])
    measured_on = _on_hub(facts["eval_dataset"] or facts["subset"]["dataset"])
    data = ModelCardData(
        license=settings.license,
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=None if model.is_local else model.name,
        datasets=datasets,
        tags=["sgd-mix", "arxiv:2505.11813"],
        model_name=title if metrics and measured_on else None,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=measured_on[0],
                dataset_name=measured_on[0],
                dataset_split=facts["settings"]["eval_split"],
                metric_type="accuracy",
                metric_value=metrics["accuracy"],
            )
        ]
        if metrics and measured_on
        else None,
    )
    _write_card(
        folder,
        data,
        "classifier_card.md",
        settings,
        facts,
        title=title,
        architecture=read_json(folder / "config.json")["architectures"][0],
        model=plain(facts["model"]),
        from_scratch=facts["settings"]["from_scratch"],
        synthetic=plain(facts["synthetic"]) if facts["synthetic"] else None,
        validation=facts.get("validation"),
        held_out=facts["settings"]["validation_split"] is None,
        validation_split=plain(facts["settings"]["validation_split"]),
        metrics=metrics,
        eval_split=plain(facts["settings"]["eval_split"]),
        eval_dataset=plain(facts["eval_dataset"]) if facts["eval_dataset"] else None,
        group_column=plain(facts["settings"]["group_column"]),
        groups=[
            [plain_name(label), plain_name(attribute), images, share]
            for label, attribute, images, share in groups[:LARGEST_TABLE]
        ],
        num_groups=len(groups),
    )


def _write_card(
    folder: Path,
    data: ModelCardData,
    template: str,
    settings: TrainingSettings,
    facts: dict,
    **fields,
) -> None:
    """Renders a template with the fields that both cards share; writes it if it has changed."""
    changed = _deviations(type(settings), facts["settings"])
    kept = {
        name: facts["settings"][name] for name in BORROWED[type(settings)] if name not in changed
    }
    values = ", ".join(f"{name} = {value}" for name, value in kept.items())
    borrowed = f"The paper does not state these settings; taken from {PEER}: {values}."
    subset = facts["subset"]
    limits = [
        f"{subset[name]} {name}"
        for name in ("examples_per_class", "imbalance_factor")
        if subset[name] is not None
    ]
    card = card_text(
        data,
        TEMPLATES / template,
        repo_id=settings.hub_model_id or UNPUBLISHED_NAME,
        on_hub=settings.hub_model_id is not None,
        num_classes=len(facts["class_names"]),
        subset=subset,
        data=plain(subset["dataset"]),
        few_shot=f" ({', '.join(limits)}, subset seed {subset['subset_seed']})" if limits else "",
        changed={name: plain(value) for name, value in changed.items()},
        borrowed=borrowed if values else "",
        license=settings.license,
        base_license=plain(facts["base_license"]) if facts["base_license"] else None,
        **fields,
    )
    readme = folder / CARD
    if not readme.exists() or readme.read_text(encoding="utf-8") != card:
        write_text(readme, card)


def _class_rows(facts: dict) -> list[list[str]]:
    """The card's table of classes: name, token and, if judged, label fidelity by arm."""
    classes = list(zip(facts["class_names"], _words(facts), strict=True))[:LARGEST_TABLE]
    rows = [[plain_name(name), f"`{plain_code(word)}`"] for name, word in classes]
    if "fidelity" in facts:
        for arm in JUDGED_ARMS:
            shares = {
                label: f"{right / images:.2f}"
                for label, right, images in facts["fidelity"]["arms"][arm]["by_class"]
            }
            for label, row in enumerate(rows):
                row.append(shares.get(label, ""))
    return rows


def _on_hub(text: str) -> list[str] | None:
    """The repository of a published pin for the card's YAML; None for a local folder."""
    pin = Pin.parse(text)
    return None if pin.is_local else [pin.name]


def _prompt(facts: dict, label: int) -> str:
    return prompt_of(_words(facts)[label], facts["metaclass"], facts["prompt_template"])


def _words(facts: dict) -> list[str]:
    """What stands for each class in prompts."""
    return facts["tokens"] or [words_of(name) for name in facts["class_names"]]


def _share(scores: dict) -> str:
    low, high = scores["interval"]
    return f"{scores['accuracy']:.3f} [{low:.3f}, {high:.3f}] of {scores['images']}"


def _confused(scores: dict, names: list[str]) -> list[str]:
    """The most frequently confused pairs of classes, in words."""
    most = sorted(scores["confused"], key=lambda pair: -pair[2])[:MOST_CONFUSED]
    return [
        f"{plain_name(names[label])} shown as {plain_name(names[predicted])}: {times} times"
        for label, predicted, times in most
    ]


def _deviations(settings_class: type[TrainingSettings], values: dict[str, Any]) -> dict[str, Any]:
    """The recorded `values` that differ from the defaults."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(settings_class)
        if field.default is not dataclasses.MISSING
    }
    return {
        name: value
        for name, value in values.items()
        if name in defaults and value != defaults[name]
    }
