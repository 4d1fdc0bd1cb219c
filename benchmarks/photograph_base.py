"""A tiny base that has seen photographs: the packaged one, trained on with packaged photographs.

    cd outputs/cutouts/debs  # beside the packages of benchmarks/cutouts.py
    apt-get download lomiri-wallpapers-20.04 palapeli-data gcompris-qt-data
    for d in *.deb; do dpkg-deb -x $d ../deb/${d%%_*}; done; cd -
    python benchmarks/photograph_base.py outputs/cutouts

Stages, in order: `vae` (autoencoder), `unet` (text encoder and denoiser, on its latents), `export`
and `measure`. Each of the first two resumes from its checkpoint in `--work_dir`. The weights start
from the packaged base of drawn birds. About an hour on one core in all.

No background of benchmarks/photograph_shift.py is among the photographs trained on, nor a cut-out
of its half of the objects. One photograph in eight is held out and measured: how well the
autoencoder gives it back, beside the packaged one, and the denoiser's loss over the run. Writes
`photograph_base.json` and a sheet of held-out photographs, `docs/photograph_base.jpg`. The weights
stay in `--work_dir`/base.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import torch
from parts.photograph_base.crops import CROPS, cached_crops
from parts.photograph_base.measures import draw_sheet, figures, table
from parts.photograph_base.training import export, train_denoiser, train_vae

from sgdmix_hub.files import write_json

STAGES = ("vae", "unet", "export", "measure")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with deb/, the unpacked packages")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--crops", type=int, default=CROPS, help="to train on")
    parser.add_argument("--vae_steps", type=int, default=1600)
    parser.add_argument("--unet_steps", type=int, default=1100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("outputs/photograph_base"),
        help="crops, checkpoints, log.jsonl and the base",
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the sheet")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    work_dir, seed = arguments.work_dir, arguments.seed
    crops, shown, held_out = cached_crops(arguments.folder, work_dir, seed, arguments.crops)
    if "vae" in arguments.stages:
        train_vae(crops, held_out, work_dir, arguments.vae_steps, seed)
    if "unet" in arguments.stages:
        train_denoiser(crops, shown, held_out, work_dir, arguments.unet_steps, seed)
    if "export" in arguments.stages:
        export(work_dir, work_dir / "base", seed)
    if "measure" in arguments.stages:
        found = figures(work_dir, held_out)
        write_json(arguments.results / "photograph_base.json", found)
        print(table(found))
        sheet = draw_sheet(work_dir / "base", held_out)
        sheet.save(arguments.docs / "photograph_base.jpg", quality=85)


if __name__ == "__main__":
    main()
