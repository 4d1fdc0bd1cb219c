"""`sgdmix demo`: every stage on this machine, offline, on drawn birds.

    birds -> classifier -> adapter -> augmented dataset -> classifier trained with it

Draws the images, writes `run.yaml` and starts `sgdmix run` with it, as for a real dataset.
"""

import argparse
import os
import sys
from pathlib import Path

import yaml

PACKAGE = Path(__file__).parents[1]
USERS_CACHES = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE")
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}


def parse_args(argv):
    parser = argparse.ArgumentParser(
        prog="sgdmix demo", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("outputs/demo"),
        help="folder for all outputs of the demo",
    )
    return parser.parse_args(argv)


def run_settings(folder: Path) -> dict:
    """The settings of the run, with the models that ship in the package."""
    return {
        "recipe": "demo-birds",
        "dataset_name": str(folder / "birds"),
        "output_dir": str(folder / "run"),
        "metaclass": "bird",
        "segmenter": str(PACKAGE / "demo" / "tiny_segmenter"),
        "model": str(PACKAGE / "demo" / "tiny_resnet"),
        "pretrained_model_name_or_path": str(PACKAGE / "demo" / "tiny_base"),
        "license": "apache-2.0",
        "resolution": 64,
    }


def main(argv=None):
    folder = parse_args(argv).output_dir
    for name in USERS_CACHES:
        os.environ.pop(name, None)
    os.environ.update(QUIET, HF_HOME=str((folder / "hf_home").resolve()))
    # Imported only now: the libraries read the environment at import.
    from sgdmix_hub.demo import make_birds

    make_birds.main(["--output_dir", str(folder / "birds")])
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(run_settings(folder), sort_keys=False), encoding="utf-8")
    words = ["run", "--accelerate", "cpu2", "--config", str(config)]
    print(f"$ sgdmix {' '.join(words)}", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "sgdmix_hub.cli", *words])


if __name__ == "__main__":
    main()
