"""Random scenes of the tiny base's world: pictures, attributes, and captions."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from sgdmix_hub.demo.birds import BEAK_SHAPES, COLORS, CRESTS, TAIL_SHAPES, WING_PATTERNS, Bird
from sgdmix_hub.demo.tiny_training import HELD_OUT, render_world, scene_generator
from sgdmix_hub.demo.world import PLACES, random_scene

JUDGE_TRAIN, REFERENCE = HELD_OUT + 1, HELD_OUT + 2  # splits that no base was trained or chosen on
SEED = 0

# What is looked for in an image, and the values it may have.
ATTRIBUTES = {
    "background": tuple(PLACES),
    "body": tuple(COLORS),
    "head": tuple(COLORS),
    "wing": tuple(COLORS),
    "wing_pattern": WING_PATTERNS,
    "tail_shape": TAIL_SHAPES,
    "beak_shape": BEAK_SHAPES,
    "crest": CRESTS,
}
# The words by which a caption states it.
PHRASES = {
    "background": "{place}",
    "body": "{body} bird",
    "head": "{head} head",
    "wing": "{wing} wings",
    "wing_pattern": "{wing_pattern} {wing} wings",
    "tail_shape": "{tail_shape} {tail} tail",
    "beak_shape": "{beak_shape} {beak} beak",
    "crest": "{crest} {crest_color} crest",
}
# How often the best constant answer is right; a caption never says that there is no crest.
CHANCE = {name: 1 / len(set(values) - {"none"}) for name, values in ATTRIBUTES.items()}


@dataclass(frozen=True)
class Scenes:
    """Pictures with attributes and captions.

    `images`: uint8 (N, 64, 64, 3). `masks`: bool (N, 64, 64), true on the bird. `labels`: int64 (N,
    attributes), positions in the tuples of `ATTRIBUTES`. `captions`: N texts. `stated`: bool (N,
    attributes), whether the caption names the attribute.
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    captions: list[str]
    stated: np.ndarray


def labels_of(bird: Bird, background: str) -> list[int]:
    shown = {"background": background} | asdict(bird)
    return [values.index(shown[name]) for name, values in ATTRIBUTES.items()]


def stated_in(caption: str, bird: Bird, background: str) -> list[bool]:
    """Per attribute, whether `caption` says what the scene shows."""
    words = {"place": PLACES[background]} | asdict(bird)
    return [PHRASES[name].format(**words) in caption for name in ATTRIBUTES]


def make_scenes(split: int, count: int) -> Scenes:
    """The first `count` scenes of a split, as `render_world` draws them."""
    described = [random_scene(scene_generator(SEED, split, index)) for index in range(count)]
    images = render_world(count, SEED, split)
    return Scenes(
        images=images[..., :3],
        masks=images[..., 3] > 0,
        labels=np.array([labels_of(bird, background) for bird, background, _ in described]),
        captions=[caption for _, _, caption in described],
        stated=np.array(
            [stated_in(caption, bird, background) for bird, background, caption in described]
        ),
    )
