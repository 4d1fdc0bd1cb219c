"""A fine-grained dataset of procedural birds, with true masks, as a folder for `load_dataset`."""

import io
from dataclasses import astuple, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    Image,
    NamedSplit,
    SplitDict,
    SplitInfo,
)
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image as PILImage

from .backgrounds import BACKGROUNDS
from .birds import BEAK_SHAPES, COLORS, CRESTS, TAIL_SHAPES, WING_PATTERNS, color_of, render_bird
from .world import random_bird

SPLITS = ("train", "validation", "test")
KINDS = {
    "crest": CRESTS,
    "wing_pattern": WING_PATTERNS,
    "tail_shape": TAIL_SHAPES,
    "beak_shape": BEAK_SHAPES,
}
TWIN_PARTS = (
    "head",
    "wing",
    "tail",
    "crest_color",
    "crest",
    "wing_pattern",
    "tail_shape",
    "beak_shape",
)
PARTS_BETWEEN_PAIRS = 4
# Two colours closer than this in RGB (each in [0, 1]) are hard to tell apart at 64 pixels.
DISTINCT_COLORS = 0.45
NOUNS = {
    ("short", "short"): "finch",
    ("short", "long"): "snipe",
    ("short", "hooked"): "parrot",
    ("long", "short"): "wagtail",
    ("long", "long"): "sunbird",
    ("long", "hooked"): "parakeet",
    ("forked", "short"): "swallow",
    ("forked", "long"): "tern",
    ("forked", "hooked"): "kite",
    ("fanned", "short"): "fantail",
    ("fanned", "long"): "hoopoe",
    ("fanned", "hooked"): "cockatoo",
}
PATTERN_EPITHETS = {
    "plain": "plain-winged",
    "barred": "bar-winged",
    "spotted": "spot-winged",
    "tipped": "tip-winged",
}
CARD = """\
# Procedural birds

Species that differ in a few parts (pairs of them in one), drawn by `sgdmix_hub.demo` on \
natural-looking backgrounds.
`mask` is the true foreground (0 or 255), `background` the kind of landscape.
"""


def appearance(bird):
    """The visible features of a bird, as a tuple: without a crest, no crest colour."""
    return astuple(replace(bird, crest_color="") if bird.crest == "none" else bird)


def with_other(bird, part, rng):
    """`bird` with another value of one part; another colour is a clearly different one."""
    current = getattr(bird, part)
    if part in KINDS:
        others = [kind for kind in KINDS[part] if kind != current]
    else:
        others = [
            name
            for name in COLORS
            if np.linalg.norm(color_of(name) - color_of(current)) > DISTINCT_COLORS
        ]
    return replace(bird, **{part: others[rng.integers(len(others))]})


def changed(bird, parts, count, rng):
    """`bird` with `count` of `parts` changed, each visibly."""
    visible = [part for part in parts if part != "crest_color" or bird.crest != "none"]
    for index in rng.permutation(len(visible))[:count]:
        bird = with_other(bird, visible[index], rng)
    return bird


def epithets(bird):
    """Adjectives that together with body colour and noun tell everything visible about a bird."""
    crest = (
        ["bare-crowned"]
        if bird.crest == "none"
        else [f"{bird.crest_color}-crested", f"{bird.crest}-crested"]
    )
    colors = [f"{bird.head}-headed", f"{bird.wing}-winged", f"{bird.tail}-tailed"]
    return [*crest, *colors, PATTERN_EPITHETS[bird.wing_pattern], f"{bird.beak}-billed"]


def species_name(bird, sibling, taken, rng):
    """A name not in `taken`, with few adjectives, first those that differ from its `sibling`."""
    words = [epithets(bird)[i] for i in rng.permutation(len(epithets(bird)))]
    words.sort(key=lambda word: word in epithets(sibling))
    ending = f"{bird.body} {NOUNS[bird.tail_shape, bird.beak_shape]}"
    for count in range(1, len(words) + 1):
        for chosen in combinations(words, count):
            name = " ".join((*chosen, ending))
            if name not in taken:
                return name
    raise AssertionError("two species look the same")


def make_species(num_species, seed):
    """`[(name, Bird), ...]`: species 2k + 1 differs from 2k in one part, pairs in a few parts.

    The first species do not depend on how many follow.
    """
    rng = np.random.default_rng(seed)
    bird = random_bird(rng)
    species, seen = {}, set()
    while len(species) < num_species:
        first = changed(bird, ("body", "beak", *TWIN_PARTS), PARTS_BETWEEN_PAIRS, rng)
        second = changed(first, TWIN_PARTS, 1, rng)
        if seen & {appearance(first), appearance(second)}:
            continue
        seen |= {appearance(first), appearance(second)}
        species[species_name(first, second, species, rng)] = first
        species[species_name(second, first, species, rng)] = second
        bird = first
    return list(species.items())[:num_species]


def png(array):
    """Image array uint8 (H, W) or (H, W, 3) -> what a `datasets.Image` column stores."""
    buffer = io.BytesIO()
    PILImage.fromarray(array).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def make_row(bird, label, rng, tie, resolution, shown):
    """`shown`: numbers of the landscapes that the row's is drawn from, if it is not tied."""
    own, other = label % len(BACKGROUNDS), shown[rng.integers(len(shown))]
    background = own if rng.random() < tie else other
    image, mask = render_bird(bird, rng, BACKGROUNDS[background], resolution)
    return {
        "image": png(image),
        "label": label,
        "mask": png(np.uint8(mask) * 255),
        "background": background,
    }


def shown_backgrounds(seed, train_backgrounds=None):
    """Split -> numbers of its landscapes: all, or `train_backgrounds` of them in training, drawn by
    the seed, and the others in validation and test.
    """
    everything = tuple(range(len(BACKGROUNDS)))
    if train_backgrounds is None:
        return dict.fromkeys(SPLITS, everything)
    order = np.random.default_rng([seed, len(SPLITS)]).permutation(len(BACKGROUNDS)).tolist()
    known, new = sorted(order[:train_backgrounds]), sorted(order[train_backgrounds:])
    return {split: tuple(known if split == "train" else new) for split in SPLITS}


def make_dataset(
    num_species,
    train_per_class,
    validation_per_class,
    test_per_class,
    seed,
    tie=0.0,
    resolution=64,
    train_backgrounds=None,
):
    """Splits train, validation, test with columns image, label, mask (L, 0 or 255), background.

    Image k of a class depends on (seed, split, label, k) alone. `tie` is the share of TRAINING
    images shown on the species' own background; the rest and the other splits have uniformly drawn
    ones, on which a classifier that learned the background is wrong. `train_backgrounds`: how many
    landscapes are shown in training; the other splits then show the others alone.
    """
    species = make_species(num_species, seed)
    features = Features(
        image=Image(),
        label=ClassLabel(names=[name for name, _ in species]),
        mask=Image(),
        background=ClassLabel(names=list(BACKGROUNDS)),
    )
    splits = DatasetDict()
    shown = shown_backgrounds(seed, train_backgrounds)

    def rng_of(*numbers):
        return np.random.default_rng([seed, *numbers])

    sizes = (train_per_class, validation_per_class, test_per_class)
    for index, (split, per_class) in enumerate(zip(SPLITS, sizes, strict=True)):
        share = tie if split == "train" else 0.0
        rows = [
            make_row(bird, label, rng_of(index, label, k), share, resolution, shown[split])
            for k in range(per_class)
            for label, (_, bird) in enumerate(species)
        ]
        splits[split] = Dataset.from_list(rows, features=features, split=NamedSplit(split))
    return splits


def save_dataset(dataset_dict, folder):
    """Writes the folder: one parquet file per split and a card; always the same bytes."""
    folder = Path(folder)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    split_infos, data_files, download_size = SplitDict(), [], 0
    for split, dataset in dataset_dict.items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        split_infos.add(
            SplitInfo(split, num_bytes=dataset.to_parquet(path), num_examples=len(dataset))
        )
        data_files.append({"split": split, "path": f"data/{split}-*"})
        download_size += path.stat().st_size
    info = DatasetInfo(
        features=dataset.features,
        splits=split_infos,
        download_size=download_size,
        dataset_size=sum(split.num_bytes for split in split_infos.values()),
    )
    data = DatasetCardData(license="apache-2.0", task_categories=["image-classification"])
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    MetadataConfigs({"default": {"data_files": data_files}}).to_dataset_card_data(data)
    DatasetCard(f"---\n{data}\n---\n{CARD}").save(folder / "README.md")
