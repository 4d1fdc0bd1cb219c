"""The studio in a real browser: how long people wait, how much memory it takes, and its pictures.

    pip install 'sgdmix_hub[studio]' playwright
    python benchmarks/studio.py --parts choose large classes rows hub screenshots

choose: 500 drawn birds at 256 pixels. large: images of 6000 x 4000 pixels. classes: 200 classes.
rows: a version of 100,000 rows. hub: the same on a Hub on this machine, with the bytes that it was
asked for. Each runs in a process of its own; they write studio.json. screenshots: the pictures in
docs/. Needs chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch
from measure import pss
from parts.studio.drawing import CHROMIUM, Visit, visiting
from parts.studio.versions import large_images, many_rows
from psutil import Process

from sgdmix_hub import augment
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.demo.loopback_hub import WRITE_TOKEN, hub_environment, loopback_hub
from sgdmix_hub.files import write_json
from sgdmix_hub.open_studio import page_of
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.studio import StudioSettings

IMAGES, CLASSES, SIZE = 500, 10, 256
LARGE = 12
DRAWN_CLASSES = 200
ROWS, IN_A_SHARD = 100_000, 4000
DOCS = Path(__file__).parents[1] / "docs"
BASE = Path(__file__).parents[1] / "sgdmix_hub" / "demo" / "tiny_base"
PHONE = (375, 812)
REPOSITORY = "birds/many"
PUSH = """
import sys
from huggingface_hub import HfApi

HfApi().create_repo(sys.argv[2], repo_type="dataset")
HfApi().upload_folder(folder_path=sys.argv[1], repo_id=sys.argv[2], repo_type="dataset")
"""


def studio(folder: Path, **settings) -> StudioSettings:
    name = "generate.yaml" if settings.get("published") is None else "drop.csv"
    return StudioSettings(save_to=str(folder / name), **settings)


def waits(visit: Visit) -> dict[str, float]:
    """Seconds from the first request to what the choosing page shows."""
    return {
        "first_image": visit.until("figcaption:text-is('source')"),
        "first_masks": visit.until("figcaption:text-is('mask')"),
        "first_mixtures": visit.until("figcaption:text-is('mixed')"),
    }


def measure_choose(folder: Path) -> dict:
    """Times on 500 images: to the first image, and to a changed setting."""
    birds = make_dataset(CLASSES, IMAGES // CLASSES, 1, 1, seed=0, resolution=SIZE)
    save_dataset(birds, folder / "birds")
    started = time.monotonic()
    settings = studio(folder, dataset_name=str(folder / "birds"), num_images=IMAGES)
    page = page_of(settings, torch.device("cpu"))
    figures = {"images": IMAGES, "page_is_built": time.monotonic() - started}
    with visiting(page) as visit:
        figures |= waits(visit)
        changes = {
            "mixing_method": "source",
            "selection_method": "random",
            "mask_refinement": "none",
            "saliency_method": "minimum-barrier",
        }
        for name, value in changes.items():
            figures[f"changed_{name}"] = visit.choose(name, value)
        figures["next_page"] = visit.press("Next page")
    return figures


def measure_large(folder: Path) -> dict:
    """Times on photographs as cameras make them."""
    large_images(folder / "large", LARGE)
    settings = studio(folder, dataset_name=str(folder / "large"), num_images=LARGE)
    with visiting(page_of(settings, torch.device("cpu"))) as visit:
        return {"images": LARGE, "pixels": [6000, 4000]} | waits(visit)


def measure_classes(folder: Path) -> dict:
    """Times with 200 classes of one image each."""
    classes = DRAWN_CLASSES
    save_dataset(make_dataset(classes, 1, 1, 1, seed=0, resolution=SIZE), folder / "birds")
    settings = studio(folder, dataset_name=str(folder / "birds"), num_images=classes)
    with visiting(page_of(settings, torch.device("cpu"))) as visit:
        return {"images": classes, "classes": classes} | waits(visit)


def measure_rows(folder: Path) -> dict:
    """Memory and times with 100,000 rows."""
    many_rows(folder / "many", ROWS, IN_A_SHARD)
    held = sum(path.stat().st_size for path in (folder / "many").rglob("*.parquet"))
    before = pss(Process())
    started = time.monotonic()
    settings = studio(folder, published=[str(folder / "many")])
    page = page_of(settings, torch.device("cpu"))
    figures = {"rows": ROWS, "files_gb": held / 1e9, "opened": time.monotonic() - started}
    with visiting(page) as visit:
        figures["first_page"] = visit.until(".sgdmix-row img")
        figures["sorted"] = visit.choose("Sort by", "saliency_distance")
        figures["next_page"] = visit.press("Next page")
        figures["more_memory_mb"] = (pss(Process()) - before) / 1e6
        figures["arrow_mb"] = pa.total_allocated_bytes() / 1e6
    return figures


def measure_hub(folder: Path) -> dict:
    """Bytes and times with the same rows on a Hub, which is asked for what is shown."""
    many_rows(folder / "many", ROWS, IN_A_SHARD)
    held = sum(path.stat().st_size for path in (folder / "many").rglob("*.parquet"))
    figures = {"rows": ROWS, "files_gb": held / 1e9}
    with loopback_hub() as hub:
        environment = os.environ | hub_environment(hub, WRITE_TOKEN)
        push = [sys.executable, "-c", PUSH, str(folder / "many"), REPOSITORY]
        subprocess.run(push, env=environment, check=True, stdout=subprocess.DEVNULL)
        hub.calls.clear()
        command = [sys.executable, __file__, "--alone", "of_hub"]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as visitor:
            assert visitor.stdin is not None and visitor.stdout is not None
            for line in visitor.stdout:
                if not line.startswith("{"):
                    continue  # what the studio says
                for name, seconds in json.loads(line).items():
                    sent = sum(call.sent for call in hub.calls if call.method == "GET")
                    figures |= {name: seconds, f"{name}_mb": sent / 1e6}
                    figures[f"{name}_requests"] = len(hub.calls)
                    hub.calls.clear()
                    print(file=visitor.stdin, flush=True)
    return figures


def visit_hub(folder: Path) -> dict:
    """What the visitor of `measure_hub` does; waits at every step until the bytes are counted."""

    def told(name: str, seconds: float) -> None:
        print(json.dumps({name: seconds}), flush=True)
        input()

    started = time.monotonic()
    page = page_of(studio(folder, published=[REPOSITORY]), torch.device("cpu"))
    told("opened", time.monotonic() - started)
    with visiting(page) as visit:
        told("first_page", visit.until(".sgdmix-row img"))
        told("next_page", visit.press("Next page"))
        told("sorted", visit.choose("Sort by", "saliency_distance"))
        told("next_sorted_page", visit.press("Next page"))
    return {}


def draw_screenshots(folder: Path) -> dict:
    """Draws the pictures in docs/: choosing, browsing, and both on a phone."""
    save_dataset(make_dataset(6, 10, 1, 1, seed=0, resolution=SIZE), folder / "birds")
    birds = str(folder / "birds")
    with visiting(page_of(studio(folder, dataset_name=birds), torch.device("cpu"))) as visit:
        waits(visit)
        visit.page.get_by_text("images are left out").wait_for()
        visit.picture(DOCS / "studio_choose.png")
        visit.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        visit.page.locator(".sgdmix-row").first.scroll_into_view_if_needed()
        visit.picture(DOCS / "studio_phone.png")
    outputs = [str(folder / name) for name in ("birds-sgdmix", "paper-sgdmix")]
    for output, preset in zip(outputs, ("recommended", "paper"), strict=True):
        augment.main(
            AugmentSettings(
                dataset_name=birds,
                output_dir=output,
                preset=preset,
                saliency_method="consensus",
                pretrained_model_name_or_path=str(BASE),
                strength=0.5,
                foreground_strength=0.0 if preset == "recommended" else None,
                resolution=64,
                publish_mixed=True,
                max_skipped=1.0,
            )
        )
    draw_browsing(studio(folder, published=outputs, dataset_name=birds))
    return {}


def draw_browsing(settings: StudioSettings) -> None:
    """The picture of two versions side by side, one row marked."""
    with visiting(page_of(settings, torch.device("cpu"))) as visit:
        visit.until(".sgdmix-row img")
        visit.choose("Sort by", "saliency_distance")
        visit.page.get_by_label("Mark source").first.check()
        visit.page.get_by_text("Rows marked as bad: 1").wait_for()
        visit.picture(DOCS / "studio_browse.png")


PARTS: dict[str, Callable[[Path], dict]] = {
    "choose": measure_choose,
    "large": measure_large,
    "classes": measure_classes,
    "rows": measure_rows,
    "hub": measure_hub,
    "screenshots": draw_screenshots,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/studio.json"))
    alone = PARTS | {"of_hub": visit_hub}
    parser.add_argument("--alone", choices=alone, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("studio: there is no chromium")
    if args.alone:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(alone[args.alone](Path(folder))))
        return
    figures = json.loads(args.results.read_text()) if args.results.exists() else {}
    for part in args.parts:
        command = [sys.executable, __file__, "--alone", part]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        values = json.loads(done.stdout.splitlines()[-1])
        print(part, values, flush=True)
        if values:
            figures[part] = values
            write_json(args.results, figures)


if __name__ == "__main__":
    main()
