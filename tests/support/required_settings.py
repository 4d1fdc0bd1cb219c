"""What every program needs to be told, and what an error may say."""

from sgdmix_hub.errors import LONGEST_LINE
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.programs import PreviewSettings, PublishSettings, RunSettings
from sgdmix_hub.settings.training import ClassifierSettings

DATA = {"dataset_name": "org/birds", "output_dir": "out"}
REQUIRED = {
    AugmentSettings: DATA | {"strength": 0.0, "classifier": "org/classifier"},
    AdapterSettings: DATA | {"metaclass": "bird"},
    ClassifierSettings: DATA,
    PreviewSettings: DATA,
    RunSettings: DATA | {"metaclass": "bird"},
    PublishSettings: {"folder": "out", "hub_dataset_id": "org/birds", "tag": "v1.0.0"},
    EvaluationSettings: {"synthetic": "out", "judge": "org/judge", "output_dir": "out"},
}
TOKEN = "hf_" + "aBcD" * 9


def is_safe(message):
    return (
        len(message) <= LONGEST_LINE
        and message.isprintable()
        and message == message.strip() != ""
        and TOKEN not in message
    )
