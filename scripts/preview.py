"""Shows what each choice of the method does to a dataset, on one page.

python scripts/preview.py --dataset_name me/my-birds --output_dir outputs/preview
"""

from sgdmix_hub.preview import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.programs import PreviewSettings

if __name__ == "__main__":
    launch(main, PreviewSettings)
