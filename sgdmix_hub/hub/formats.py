"""The forms of manifest.json, adapter.json, classifier.json and sgdmix_pipeline.json, which others
may have written.
"""

from __future__ import annotations

from pathlib import Path

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import SEAL
from sgdmix_hub.forms import (
    COUNT,
    FILE_NAME,
    NAME,
    NUMBER,
    PIN,
    SHA256,
    SHARE,
    TEXT,
    listing,
    mapping,
    of_kind,
    optional,
    read_formed,
    record,
)

CLASSIFIER_FACTS = "classifier.json"  # beside a classifier's weights
SUBSET = record(
    {"dataset": PIN, "dataset_config_name": optional(NAME), "dataset_split": NAME},
    {
        "examples_per_class": optional(COUNT),
        "imbalance_factor": optional(NUMBER),
        "subset_seed": COUNT,
        "rows": COUNT,
        "rows_sha256": SHA256,
    },
)
VERSIONS = mapping(NAME, NAME)
MANIFEST = record(
    {
        "fingerprint": SHA256,
        "pins": record(
            {"dataset_name": PIN},
            {
                "adapter": PIN,
                "pretrained_model_name_or_path": PIN,
                "classifier": PIN,
                "segmenter": PIN,
                "detector": PIN,
                "few_step_lora": PIN,
                "judge": PIN,
                "pilot_classifier": PIN,
            },
        ),
        "subset": SUBSET,
        "rows": COUNT,
        "planned_rows": COUNT,
        "skipped": listing(record({"source_index": COUNT, "variant": COUNT, "reason": TEXT})),
        "files": mapping(record({"sha256": SHA256, "bytes": COUNT}), FILE_NAME),
        "license": optional(NAME),
        SEAL: SHA256,
    },
    {
        "format": COUNT,
        "resize": of_kind(
            "stretch, aspect-buckets or center-crop",
            lambda value: value in ("stretch", "aspect-buckets", "center-crop"),
        ),
        "license_name": NAME,
        "license_link": NAME,
        "prompt_class": of_kind("source or target", lambda value: value in ("source", "target")),
        "saliency": record(
            {
                "method": NAME,
                "trust": optional(
                    record(
                        {
                            "foreground_accuracy": SHARE,
                            "background_accuracy": SHARE,
                            "images": COUNT,
                        }
                    )
                ),
            },
            {"sought": listing(TEXT), "unmixed": COUNT},
        ),
        "stated": record(
            {
                "title": TEXT,
                "prose": optional(TEXT),
                "versions": VERSIONS,
                "licenses": mapping(optional(NAME)),
                "quality": listing(listing(TEXT, 2)),
            },
            {
                "real_rows": listing(COUNT),
                "adapter_files": mapping(SHA256, FILE_NAME),
                "gated": listing(NAME),
            },
        ),
        "planned_strengths": listing(record({"strength": SHARE, "rows": COUNT})),
        "evaluation": record({"synthetic": NAME, "pins": mapping(PIN, NAME)}),
    },
)
ARM = record(
    {
        "accuracy": SHARE,
        "interval": listing(SHARE, 2),
        "images": COUNT,
        "by_class": listing(listing(COUNT, 3)),
    }
)
FIDELITY = record(
    {
        "judge": PIN,
        "strength": SHARE,
        "arms": record({"noise, adapter": ARM, "mixed, adapter": ARM}),
    },
    {"judge_accuracy": optional(SHARE)},
)
ADAPTER = record(
    {
        "class_names": listing(TEXT, empty=False),
        "metaclass": NAME,
        "prompt_template": of_kind(
            "one line that holds {token} once and {metaclass} once",
            lambda value: (
                isinstance(value, str)
                and NAME(value) is None
                and value.count("{token}") == value.count("{metaclass}") == 1
            ),
        ),
        "base": PIN,
        "subset": SUBSET,
    },
    {
        "family": NAME,
        "tokens": listing(NAME),
        "base_license": optional(NAME),
        "base_gated": of_kind("true or false", lambda value: isinstance(value, bool)),
        "fidelity": FIDELITY,
    },
)
CLASSIFIER = record(
    {},
    {
        "subset": SUBSET,
        "class_names": listing(TEXT),
        "model": PIN,
        "synthetic": optional(PIN),
        "settings": record({}, {"eval_split": optional(NAME)}),
        "metrics": record({}, {"accuracy": SHARE}),
    },
)
MODEL_PINS = {
    "pretrained_model_name_or_path": PIN,
    "classifier": PIN,
    "segmenter": PIN,
    "detector": PIN,
    "few_step_lora": PIN,
}
# the settings are checked as any others, by `MethodSettings`
PIPELINE = record(
    {
        "format": COUNT,
        "settings": mapping(of_kind("a value", lambda value: not isinstance(value, dict)), NAME),
        "pins": record({}, MODEL_PINS),
        "class_names": optional(listing(TEXT)),
    }
)


def read_pipeline_facts(path: Path, version: int) -> dict:
    """A saved pipeline's settings, pins and class names. Raises `UserError`."""
    facts = read_formed(path, PIPELINE)
    if facts["format"] != version:
        raise UserError(
            f"{path.name} has format {facts['format']}, this version of sgdmix_hub reads "
            f"{version}: install the version that saved it"
        )
    pins = {name: facts["pins"][name] for name in MODEL_PINS if name in facts["pins"]}
    return {"settings": facts["settings"], "pins": pins, "class_names": facts["class_names"]}


def read_adapter_facts(path: Path, version: int) -> dict:
    """An adapter.json. Raises `UserError`, also if its format has another version."""
    stated = read_formed(path, record({"format": COUNT}))["format"]
    if stated != version:
        raise UserError(
            f"{path} has adapter format {stated}, this version of sgdmix_hub reads {version}: "
            "train the adapter again, or install the version that made it"
        )
    return read_formed(path, ADAPTER)


def read_classifier_facts(path: Path) -> dict:
    """A classifier.json; empty if there is none, as for classifiers from elsewhere.

    Raises `UserError`.
    """
    return read_formed(path, CLASSIFIER) if path.is_file() else {}
