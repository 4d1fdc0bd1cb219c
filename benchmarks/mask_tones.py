"""Are toned photographs recognised, and is nothing else? What `consensus` makes of them.

    python benchmarks/mask_tones.py outputs/cutouts/domain
    python benchmarks/mask_tones.py outputs/cutouts/domain --half told

`domain` is made by benchmarks/cutouts.py, with 3 poses for the first command, which reads only the
objects whose name has an even CRC-32, and birds of other seeds than those that docs quote. Copies
of every photograph are toned and saved as JPEG of quality 75, the default of chroma included, at
256 pixels. Real photographs of one hue are shown by the objects on a plain background. Writes
`mask_tones.json` and `.md` to `--results`.

Rules, set before the other half was looked at:

- What is measured (how far the colours are from one curve through the lightnesses, as means around
  pixels, and their chroma) was found in trials on the even half, and so was `TONED_SHARE`.
- `TONED_SPREAD` is half of what the least of the photographs and birds of the even half have,
  rounded down to a half: whoever looks most like a toned one is twice as far.
- It is used only if of the even half no photograph and no bird is taken for toned, at least .9 of
  the sepia and of the cyanotype copies are, and at most .1 of the objects on any plain background.
- The other half is looked at once, and told whatever it says. It holds if none of its photographs
  and birds is taken for toned.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import cv2
import numpy as np
from cutouts import placed, stamps
from parts.masks.photographs import BIRD_SEEDS, Photograph, birds, chosen_on, photographs, resized
from parts.masks.scores import FAILURE, FLOOR
from PIL import Image

from sgdmix_hub.files import write_json
from sgdmix_hub.method.outlines import small_lab
from sgdmix_hub.method.saliency.consensus import MASK_SIZE, consensus
from sgdmix_hub.method.saliency.tones import has_colours, off_curve
from sgdmix_hub.metrics.mask_quality import mask_iou

QUALITY, SIZE = 75, 256
# The usual sepia of photo programs, RGB to RGB: its rows are nearly one colour.
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
# Tone -> colours from black to white, evenly spread over the grey values.
TONES = {
    "weak sepia": ((8, 4, 2), (136, 126, 116), (255, 252, 244)),
    "cyanotype": ((8, 24, 58), (38, 92, 150), (245, 248, 244)),
    "split tone": ((10, 20, 50), (128, 128, 120), (255, 240, 205)),
    "duotone": ((28, 18, 82), (255, 196, 84)),
    "strong duotone": ((120, 10, 60), (30, 215, 170)),
}
PLAIN = {
    "white": (255, 255, 255),
    "paper": (238, 234, 226),
    "grey": (128, 128, 128),
    "black": (12, 12, 12),
    "sky": (150, 190, 230),
    "sand": (214, 190, 150),
    "grass": (90, 120, 60),
    "wood": (150, 110, 70),
}


def as_jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(buffer).convert("RGB"))


def toned(image: np.ndarray, tone: str) -> np.ndarray:
    """A toned copy of a uint8 RGB image, after a JPEG."""
    if tone == "sepia":
        return as_jpeg(np.rint(image @ SEPIA.T).clip(0, 255).astype(np.uint8))
    colours = np.array(TONES[tone], float)
    at = np.linspace(0, 255, len(colours))
    ramp = np.stack([np.interp(np.arange(256), at, of) for of in colours.T], axis=1)
    return as_jpeg(np.rint(ramp).astype(np.uint8)[cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)])


def on_plain(rgba: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A cut-out on a plain background that darkens a little to the right."""
    layer = placed(rgba, np.random.default_rng(0), SIZE, 0.25, 0.0, None)
    ground = np.array(colour) / 255 * np.linspace(1, 0.93, SIZE)[:, None]
    mixed = layer[..., :3] + (1 - layer[..., 3:]) * ground
    return as_jpeg(np.rint(255 * mixed.clip(0, 1)).astype(np.uint8))


def taken_for_toned(images: list[np.ndarray]) -> dict[str, float]:
    """How many, which share, and how far from a curve the least is."""
    found = [not has_colours(resized(image, MASK_SIZE)) for image in images]
    return {
        "images": len(found),
        "without colours": int(np.sum(found)),
        "share": float(np.mean(found)),
        "least": min(off_curve(small_lab(image)) for image in images),
    }


def trusted_failures(rows: list[Photograph], tone: str) -> dict[str, int]:
    """Of toned copies: the masks at the floor of `consensus` or above, and those of them that fail,
    as if toned images were not recognised (`before`), and of those that are not (`left`).
    """
    counts = dict.fromkeys(("before", "failed before", "left", "failed left"), 0)
    for row in rows:
        pixels = resized(toned(row.image, tone), MASK_SIZE)
        mask, trust = consensus(pixels)
        if trust < FLOOR:
            continue
        true = resized(row.true.astype(np.uint8) * 255, MASK_SIZE) > 127
        failed = bool(mask_iou(mask[None], true[None])[0] < FAILURE)
        for name in ("before", "left") if has_colours(pixels) else ("before",):
            counts[name] += 1
            counts[f"failed {name}"] += failed
    return counts


def table(results: dict) -> str:
    lines = [
        "| Images | without colours | least distance from a curve |",
        "|---|---|---|",
    ]
    for name, of in results["recognised"].items():
        lines.append(
            f"| {name} | {of['without colours']} of {of['images']} ({of['share']:.3f}) | "
            f"{of['least']:.1f} |"
        )
    lines += [
        "",
        f"Masks of toned copies at {FLOOR:g} or more, and failures among them:",
        "",
        "| Copies | if not recognised | left |",
        "|---|---|---|",
    ]
    for name, of in results["trusted"].items():
        lines.append(
            f"| {name} | {of['failed before']} of {of['before']} | "
            f"{of['failed left']} of {of['left']} |"
        )
    return "\n".join(lines) + "\n"


def figures(rows: list[Photograph], drawn: list[Photograph], objects: list[np.ndarray]) -> dict:
    tones = ("sepia", *TONES)
    copies = {tone: [toned(row.image, tone) for row in rows] for tone in tones}
    plain = {name: [on_plain(rgba, of) for rgba in objects] for name, of in PLAIN.items()}
    images = {
        "photographs": [row.image for row in rows],
        "birds": [row.image for row in drawn],
        "backgrounds alone": [row.ground for row in rows if row.ground is not None],
        **copies,
        **{f"on plain {name}": of for name, of in plain.items()},
    }
    return {
        "recognised": {name: taken_for_toned(of) for name, of in images.items()},
        "trusted": {tone: trusted_failures(rows, tone) for tone in tones},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("--half", choices=("told", "chosen"), default="chosen")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    chosen = arguments.half == "chosen"
    rows = photographs(arguments.domain, None, 3 if chosen else 1)
    rows = [row for row in rows if row.chosen_on == chosen]
    of_half = [
        rgba for name, _, rgba in stamps(arguments.domain.parent) if chosen_on(name) == chosen
    ]
    path = arguments.results / "mask_tones"
    file = path.with_suffix(".json")
    results = json.loads(file.read_text()) if file.exists() else {}
    results[arguments.half] = figures(rows, birds(BIRD_SEEDS[chosen], 5), of_half)
    write_json(file, results)
    words = {"chosen": "Even half, three poses", "told": "Other half"}
    text = "\n".join(
        f"## {words[half]}\n\n{table(results[half])}" for half in words if half in results
    )
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
