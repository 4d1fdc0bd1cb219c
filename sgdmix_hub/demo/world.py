"""The world of the tiny base: random birds, and captions in words that are single tokens."""

from .birds import BEAK_SHAPES, COLORS, CRESTS, TAIL_SHAPES, WING_PATTERNS, Bird

PLACES = {
    "forest": "in a forest",
    "sea": "at the sea",
    "sky": "in the sky",
    "meadow": "on a meadow",
    "desert": "in the desert",
    "snow": "in the snow",
    "cliff": "on a cliff",
    "marsh": "in a marsh",
    "autumn": "in autumn leaves",
    "night": "at night",
}
PART_KEPT = 0.85
BARE_CAPTIONS = 0.08
ADJECTIVE_CAPTIONS = 0.3


def random_bird(rng):
    """A bird whose every part is drawn independently and uniformly."""
    colors = list(COLORS)
    body, head, wing, tail, beak, crest_color = (
        colors[i] for i in rng.integers(len(colors), size=6)
    )
    crest, wing_pattern, tail_shape, beak_shape = (
        kinds[rng.integers(len(kinds))]
        for kinds in (CRESTS, WING_PATTERNS, TAIL_SHAPES, BEAK_SHAPES)
    )
    return Bird(
        body, head, wing, tail, beak, crest_color, crest, wing_pattern, tail_shape, beak_shape
    )


def part_phrases(bird):
    """The bird's parts in words, e.g. `["red head", "barred blue wings", ...]`."""
    phrases = [
        f"{bird.head} head",
        f"{bird.wing_pattern} {bird.wing} wings",
        f"{bird.tail_shape} {bird.tail} tail",
        f"{bird.beak_shape} {bird.beak} beak",
    ]
    if bird.crest != "none":
        phrases.append(f"{bird.crest} {bird.crest_color} crest")
    return phrases


def caption(bird, background_name, rng):
    """A caption that names most parts, in random order, or none.

    Parts stand behind `with` or, as a learned token would, before `bird`.
    """
    if rng.random() < BARE_CAPTIONS:
        return "a photo of a bird"
    phrases = [phrase for phrase in part_phrases(bird) if rng.random() < PART_KEPT]
    phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    body = bird.body if rng.random() < PART_KEPT else ""
    if rng.random() < ADJECTIVE_CAPTIONS:
        words = ["a photo of a", *phrases, body, "bird"]
    else:
        words = ["a photo of a", body, "bird", "with " + ", ".join(phrases) if phrases else ""]
    if rng.random() < PART_KEPT:
        words.append(PLACES[background_name])
    return " ".join(word for word in words if word)


def vocabulary():
    """Every word that `caption` can use, sorted."""
    texts = ["a photo of a bird with head wings tail beak crest ,", *PLACES.values(), *COLORS]
    texts += [*CRESTS[1:], *WING_PATTERNS, *TAIL_SHAPES, *BEAK_SHAPES]
    return sorted(set(" ".join(texts).split()))


def random_scene(rng, backgrounds=tuple(PLACES)):
    """A random bird, background and caption, as `(bird, background_name, caption)`."""
    bird = random_bird(rng)
    background_name = backgrounds[rng.integers(len(backgrounds))]
    return bird, background_name, caption(bird, background_name, rng)
