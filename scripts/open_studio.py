"""Opens a page to choose how a dataset is mixed, or to look through published versions.

python scripts/studio.py --dataset_name me/my-birds
"""

from sgdmix_hub.open_studio import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.studio import StudioSettings

if __name__ == "__main__":
    launch(main, StudioSettings)
