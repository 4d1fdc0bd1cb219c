"""A domain of photographs with true masks: real cut-outs on real photographs, from Debian packages.

    mkdir -p outputs/cutouts/debs outputs/cutouts/deb && cd outputs/cutouts/debs
    apt-get download tuxpaint-stamps-default lomiri-wallpapers-16.04 mate-backgrounds \\
        plasma-workspace-wallpapers stellarium-data
    for d in *.deb; do dpkg-deb -x $d ../deb/${d%%_*}; done; cd -
    python benchmarks/cutouts.py outputs/cutouts --poses 2

Two sets: `ordinary` (any background, mild colour matching) and `hard` (cluttered backgrounds; of 24
crops the one whose colours are nearest to the object's; stronger colour matching). Writes
`FOLDER/domain/{ordinary,hard}/NNN.png`, `NNN_mask.png`, `NNN_ground.png` (the background without
the object) and `domain/meta.json`. Deterministic. Objects and backgrounds were picked by eye. The
licences of the packages hold for their pictures. One photograph per object: images of one object
are not independent.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SEED = 20261128
STAMPS = "usr/share/tuxpaint/stamps/"
LOMIRI, MATE = "usr/share/backgrounds/", "usr/share/backgrounds/mate/nature/"
PLASMA, STELLARIUM = "usr/share/wallpapers/", "usr/share/stellarium/landscapes/"
NUMBER = {"ordinary": 100, "hard": 80}  # objects per set
LARGEST_BACKGROUND = 1400  # pixels

# Category -> stamps that are photographs with a cut-out that fits the object.
OBJECTS = {
    "birds": "crow duck helmeted_guineafowl hen heron_greatblue magellanic_penguin ostrich owl "
    "peacock pink_flamingo silver-gull tucan turkey vulture cuckoo",
    "amphibians": "frog-1",
    "fish": "butterflyfish coraltrout dolphinfish lionfish lobster moonwrasse",
    "insects": "grasshopper hornet hoverfly mantis",
    "mammals": "chimp gorilla otter sea_lion badger european-bear bison cow_white gnu-baby-stand "
    "gnu-baby goat mountaingoat sheep_lamb zebu dromedary lion tiger deer doe wapiti dog elephant "
    "donkey zebra giraffe pig pig_golden rabbit_little rhino_black beaver capybara mouse rabbit-2 "
    "squirrel wombat",
    "shellfish": "abalone",
    "food": "Cherry_Stella cherimoya kiwi orange_seville walnut ginger broccoli corn Roast_turkey "
    "Christmas_pudding",
    "things": "trumpet drum_tomtom_floor drumkit guitar_electric violin cylinder garbagecan "
    "home_compost_bin toilet wrench_plumbers grannysmith German_Christmas_toy Candy_cane_photo_1 "
    "grave-a grave-f basketball soccer tennis_ball trophy_cup inukshuk-photo",
    "people": "fireman240a",
    "plants": "adeenia anthoorium bolsom chemparathi flowers/daffodil flower5 flower6 flower7 "
    "flower9 iris marigold pigface red-gazania yellow-flower cep-2 cep holm_oak liberia-palm",
    "vehicles": "f22_raptor infantry-stryker sedan truck dumper firetruck 747 green_korean_bus "
    "wheel_tractor",
}
CALM = [
    LOMIRI + "Bridge_by_Sander_Klootwijk.jpg",
    LOMIRI + "picosdeeuropa_by_Aitzol_Berasategi.jpg",
    LOMIRI + "sunset_by_Aitzol_Berasategi.jpg",
    MATE + "Dune.jpg",
    MATE + "GreenMeadow.jpg",
    MATE + "Storm.jpg",
    *(PLASMA + f"{n}/contents/images/1920x1080.jpg" for n in ("BytheWater", "DarkestHour")),
    PLASMA + "summer_1am/contents/images/1920x1080.jpg",
    STELLARIUM + "guereins/guereinsb.png",
]
CLUTTER = [
    LOMIRI + "Dragonfly_by_Bolly.jpg",
    LOMIRI + "Wine_by_Jakkub_Mede.jpg",
    MATE + "GreenMeadow.jpg",
    MATE + "Dune.jpg",
    *(PLASMA + f"{n}/contents/images/1920x1080.jpg" for n in ("EveningGlow", "FallenLeaf")),
    PLASMA + "Path/contents/images/1920x1080.jpg",
    STELLARIUM + "garching/garching-gl1.png",
    STELLARIUM + "garching/garching-gl3.png",
]


def stamps(root: Path) -> list[tuple[str, str, np.ndarray]]:
    """(name, category, RGBA uint8 cropped to the alpha's box) of every object."""
    paths: dict[str, Path] = {}
    for path in (root / "deb").glob(f"*/{STAMPS}**/*.png"):
        if path.parent.name not in ("cartoon", "symbols"):
            paths.setdefault(path.stem, path)
            paths[f"{path.parent.name}/{path.stem}"] = path
    objects = []
    for category, names in OBJECTS.items():
        for name in names.split():
            image = Image.open(paths[name]).convert("RGBA")
            box = image.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox()
            objects.append((name.split("/")[-1], category, np.asarray(image.crop(box))))
    return objects


def backgrounds(root: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Name -> photograph, uint8 (h, w, 3), at most `LARGEST_BACKGROUND` wide and high."""
    photographs = {}
    for name in names:
        image = Image.open(next((root / "deb").glob(f"*/{name}")))
        image.draft("RGB", (1600, 1600))
        pixels = np.asarray(image.convert("RGBA"))
        opaque_rows = np.flatnonzero((pixels[..., 3] > 250).all(axis=1))
        if len(opaque_rows) < len(pixels) * 0.98:  # a panorama without a sky
            pixels = pixels[opaque_rows.min() : opaque_rows.max() + 1]
        pixels = pixels[..., :3]
        scale = LARGEST_BACKGROUND / max(pixels.shape[:2])
        if scale < 1:
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        key = name.split("/")[3] if name.startswith(PLASMA) else Path(name).name
        photographs[key] = np.ascontiguousarray(pixels)
    return photographs


def crop(pixels: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A random square crop of at least half of the shorter side, mirrored half of the time."""
    side = min(pixels.shape[:2])
    length = int(rng.uniform(max(0.5, min(1.0, 200 / side)), 1.0) * side)
    y = rng.integers(0, pixels.shape[0] - length + 1)
    x = rng.integers(0, pixels.shape[1] - length + 1)
    interpolation = cv2.INTER_AREA if length > size else cv2.INTER_CUBIC
    part = cv2.resize(
        pixels[y : y + length, x : x + length], (size, size), interpolation=interpolation
    )
    return part[:, ::-1] if rng.random() < 0.5 else part


def placed(
    rgba: np.ndarray,
    rng: np.random.Generator,
    size: int,
    share: float,
    angle: float,
    cut: str | None,
) -> np.ndarray:
    """The object on an empty canvas, premultiplied float32 (size, size, 4).

    `share` of the image's area, if the frame and the object's resolution allow it; `cut`: the
    border of the image that cuts the object.
    """
    layer = rgba.astype(np.float32) / 255
    layer = np.dstack([layer[..., :3] * layer[..., 3:], layer[..., 3]])
    h, w = layer.shape[:2]
    scale = np.sqrt(share * size * size / max(layer[..., 3].sum(), 1.0))
    scale = min(scale, 1.6 * size / 256, 0.96 * size / max(h, w))
    radians = np.deg2rad(angle)
    sine, cosine = abs(np.sin(radians)), abs(np.cos(radians))
    box_w, box_h = scale * (w * cosine + h * sine), scale * (w * sine + h * cosine)
    x = rng.uniform(min(box_w / 2, size / 2), max(size - box_w / 2, size / 2))
    y = rng.uniform(min(box_h / 2, size / 2), max(size - box_h / 2, size / 2))
    outside = rng.uniform(0.05, 0.2)
    if cut == "left":
        x = box_w / 2 - outside * box_w
    if cut == "right":
        x = size - box_w / 2 + outside * box_w
    if cut == "bottom":
        y = size - box_h / 2 + outside * box_h
    if scale < 0.9:  # warpAffine does not smooth
        small = (max(2, round(w * scale)), max(2, round(h * scale)))
        layer = cv2.resize(layer, small, interpolation=cv2.INTER_AREA)
        scale = 1.0
        h, w = layer.shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, scale)
    matrix[:, 2] += np.array([x - 0.5 - (w - 1) / 2, y - 0.5 - (h - 1) / 2])
    return np.clip(cv2.warpAffine(layer, matrix, (size, size), flags=cv2.INTER_LINEAR), 0, 1)


def lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.clip(rgb, 0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)


def as_photographed(image: np.ndarray) -> np.ndarray:
    """The picture after one JPEG: object and background share a camera."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    return np.asarray(Image.open(buffer))


def blend(layer: np.ndarray, ground: np.ndarray, matching: float) -> tuple[np.ndarray, np.ndarray]:
    """The object over the background, uint8, and its mask, bool.

    `matching`: how far the object's mean Lab colour moves towards the background's.
    """
    alpha = layer[..., 3]
    mask = alpha > 0.5
    below = ground.astype(np.float32) / 255
    tones = lab(layer[..., :3] / np.maximum(alpha[..., None], 1e-3))
    shift = lab(below).reshape(-1, 3).mean(0) - tones[mask].mean(0)
    moved = tones + shift * np.array([matching, matching * 0.7, matching * 0.7], np.float32)
    moved[..., 0] = np.clip(moved[..., 0], 0, 100)
    color = np.clip(cv2.cvtColor(moved.astype(np.float32), cv2.COLOR_LAB2RGB), 0, 1)
    share = np.clip((alpha[..., None] - 0.1) / 0.9, 0, 1)  # the outermost edge shows old ground
    mixed = np.rint(255 * (share * color + (1 - share) * below)).clip(0, 255).astype(np.uint8)
    return as_photographed(mixed), mask


def distance(layer: np.ndarray, ground: np.ndarray) -> float:
    """How far the object's Lab colours are from those around it; infinite without surroundings."""
    mask = layer[..., 3] > 0.5
    tones = lab(layer[..., :3] / np.maximum(layer[..., 3:], 1e-3))[mask]
    reach = (
        np.ones((41, 41), np.uint8)
        if len(mask) == 256
        else np.ones((len(mask) // 6,) * 2, np.uint8)
    )
    around = lab(ground.astype(np.float32) / 255)[
        cv2.dilate(mask.astype(np.uint8), reach).astype(bool) & ~mask
    ]
    if len(around) == 0:
        return float("inf")
    means = (tones.mean(0) - around.mean(0)) * [0.7, 1, 1]
    return float(np.linalg.norm(means) + 0.7 * np.linalg.norm(tones.std(0) - around.std(0)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with deb/, the unpacked packages")
    parser.add_argument("--size", type=int, default=256, help="width and height of the images")
    parser.add_argument("--poses", type=int, default=1, help="images per object and set")
    arguments = parser.parse_args()
    root, size = arguments.folder, arguments.size
    objects = stamps(root)
    clutter = backgrounds(root, CLUTTER)
    pools = {"ordinary": backgrounds(root, CALM) | clutter, "hard": clutter}
    meta = []
    for number, (kind, count) in enumerate(NUMBER.items()):
        folder = root / "domain" / kind
        folder.mkdir(parents=True, exist_ok=True)
        names, hard = sorted(pools[kind]), kind == "hard"
        for pose in range(arguments.poses):
            rng = np.random.default_rng([SEED, number] + ([pose] if pose else []))
            for position, which in enumerate(rng.permutation(len(objects))[:count]):
                name, category, rgba = objects[which]
                if rng.random() < 0.5:
                    rgba = rgba[:, ::-1]
                cut = rng.choice(["left", "right", "bottom"]) if rng.random() < 0.2 else None
                share, angle = rng.uniform(0.10, 0.50), rng.uniform(-8, 8)
                layer = placed(rgba, rng, size, share, angle, cut)
                crops = [
                    (n, crop(pools[kind][n], rng, size))
                    for n in rng.choice(names, 24 if hard else 1)
                ]
                nearest = min(crops, key=lambda c: distance(layer, c[1])) if hard else crops[0]
                image, mask = blend(layer, nearest[1], 0.5 if hard else 0.2)
                index = pose * count + position
                Image.fromarray(image).save(folder / f"{index:03d}.png")
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{index:03d}_mask.png")
                ground = as_photographed(np.ascontiguousarray(nearest[1]))
                Image.fromarray(ground).save(folder / f"{index:03d}_ground.png")
                meta.append(
                    {
                        "set": kind,
                        "index": index,
                        "pose": pose,
                        "object": name,
                        "category": category,
                        "background": str(nearest[0]),
                        "share": round(float(mask.mean()), 4),
                        "cut": None if cut is None else str(cut),
                    }
                )
    (root / "domain" / "meta.json").write_text(json.dumps(meta, indent=0), encoding="utf-8")
    print(f"{len(objects)} objects, {len(meta)} images: {root / 'domain'}")


if __name__ == "__main__":
    main()
