"""All stages in a row: accelerate launch scripts/run.py --dataset_name me/my-birds --metaclass bird --output_dir outputs/my-birds"""

from sgdmix_hub.processes import launch
from sgdmix_hub.program_settings import RunSettings
from sgdmix_hub.run import main

if __name__ == "__main__":
    launch(main, RunSettings)
