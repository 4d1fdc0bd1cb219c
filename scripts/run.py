"""All stages in a row: accelerate launch scripts/run.py --dataset_name me/my-birds --metaclass bird
--output_dir outputs/my-birds
"""

from sgdmix_hub.run import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.programs import RunSettings

if __name__ == "__main__":
    launch(main, RunSettings)
