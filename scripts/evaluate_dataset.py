"""Scores every row of an augmented dataset: are labels kept, and backgrounds new?

python scripts/evaluate_dataset.py --synthetic outputs/cub --judge org/judge --output_dir out
"""

from sgdmix_hub.evaluate_dataset import main
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.settings.evaluation import EvaluationSettings

if __name__ == "__main__":
    launch(main, EvaluationSettings)
