"""What the settings of `sgdmix run` become, without running a stage."""

from sgdmix_hub.run import all_stages
from sgdmix_hub.settings.programs import RunSettings


def stages(folder, **given):
    """The stages' settings, by their place in the run."""
    given = {
        "dataset_name": "org/birds",
        "output_dir": str(folder / "run"),
        "metaclass": "bird",
    } | given
    return [stage.settings for stage in all_stages(RunSettings(**given))]
