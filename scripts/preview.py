"""What each choice of the method does to a dataset: python scripts/preview.py --dataset_name me/my-birds --output_dir outputs/preview"""

from sgdmix_hub.preview import main
from sgdmix_hub.processes import launch
from sgdmix_hub.program_settings import PreviewSettings

if __name__ == "__main__":
    launch(main, PreviewSettings)
