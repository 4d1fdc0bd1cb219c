"""Procedural backgrounds: ten kinds of landscape, each drawn anew from a random generator.

Every painter has the signature `(rng, size) -> float32 (size, size, 3)`, RGB about in [0, 1].
"""

import cv2
import numpy as np

SUPERSAMPLING = 2


def fractal_noise(rng, size, octaves=(3, 6, 12), aspect=(1.0, 1.0), persistence=0.55):
    """Smooth noise of several octaves, float32 (size, size), zero mean and unit variance.

    `octaves` are grid cells across the image; `aspect` multiplies them along (y, x): (1, 0.2) gives
    horizontal streaks.
    """
    total = np.zeros((size, size), np.float32)
    for level, cells in enumerate(octaves):
        rows, columns = (max(2, round(cells * factor)) for factor in aspect)
        grid = rng.standard_normal((rows + 1, columns + 1), dtype=np.float32)
        total += persistence**level * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    total -= total.mean()
    return total / (total.std() + 1e-6)


def color_ramp(value, colors):
    """Maps `value` (..., clipped to [0, 1]) through `colors` (k, 3) to float32 (..., 3)."""
    colors = np.asarray(colors, np.float32)
    position = np.clip(value, 0, 1)[..., None] * (len(colors) - 1)
    low = np.clip(position.astype(np.int32)[..., 0], 0, len(colors) - 2)
    return colors[low] + (position - low[..., None]) * (colors[low + 1] - colors[low])


def rgb(*codes):
    """Hexadecimal colours -> float32 (k, 3) in [0, 1]."""
    return (
        np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in codes], np.float32)
        / 255
    )


def vertical(size):
    """Height from the top, float32 (size, 1) in [0, 1]."""
    return np.linspace(0, 1, size, dtype=np.float32)[:, None]


def tinted(rng, color, spread=0.06):
    """`color` (3,) with a small random change, as a tuple that cv2 takes."""
    return tuple(
        float(c)
        for c in np.clip(color + rng.normal(0, spread) + rng.normal(0, spread / 3, 3), 0, 1)
    )


def strokes(rng, canvas, count, colors, start, length, angle, width):
    """Draws `count` strokes; `start`, `length` (image sides), `angle` map a generator to values."""
    size = len(canvas)
    for _ in range(count):
        x, y = start(rng)
        direction, reach = angle(rng), length(rng)
        ends = (
            np.array([[x, y], [x + reach * np.cos(direction), y - reach * np.sin(direction)]])
            * size
            * 16
        )
        color = tinted(rng, colors[rng.integers(len(colors))])
        first, second = (tuple(int(v) for v in end) for end in ends)
        cv2.line(canvas, first, second, color, max(1, round(width * size)), cv2.LINE_8, 4)


def anywhere(low=0.0, high=1.0):
    """A function drawing a point whose height from the top is in [low, high]."""
    return lambda rng: (rng.uniform(-0.05, 1.05), rng.uniform(low, high))


def between(low, high):
    return lambda rng: rng.uniform(low, high)


def forest(rng, size):
    canvas = color_ramp(
        0.5 + 0.22 * fractal_noise(rng, size), rgb("14301c", "2c5a2c", "4f8038", "86a850")
    )
    for _ in range(rng.integers(3, 7)):
        x, width, lean = rng.uniform(0, 1), rng.uniform(0.03, 0.1), rng.normal(0, 0.05)
        edges = np.array(
            [
                [x - width / 2, -0.1],
                [x + width / 2, -0.1],
                [x + lean + width * 0.6, 1.1],
                [x + lean - width * 0.6, 1.1],
            ]
        )
        cv2.fillPoly(
            canvas,
            [(edges * size).astype(np.int32)],
            tinted(rng, rgb("3b2a1c", "54402c", "2a2018")[rng.integers(3)], 0.04),
        )
    leaves = color_ramp(
        0.5 + 0.3 * fractal_noise(rng, size, (7, 14)), rgb("1c3c1c", "4a7a30", "9cb85c")
    )
    cover = np.clip(fractal_noise(rng, size, (4, 9)) * 0.8 - 0.3, 0, 1)[..., None]
    return canvas * (1 - cover) + leaves * cover


def sea(rng, size):
    height = vertical(size)
    horizon = rng.uniform(-0.25, 0.4)
    depth = np.clip((height - horizon) / (1 - horizon), 0, 1)
    waves = fractal_noise(rng, size, (6, 12, 20), aspect=(1.0, 0.3))
    water = color_ramp(
        0.35 + 0.35 * depth + 0.13 * waves, rgb("7fb2c4", "3f88a8", "1f6488", "134a6c")
    )
    foam = np.clip(waves - 1.35, 0, 0.8)[..., None] * (0.3 + 0.7 * depth[..., None])
    water = water * (1 - foam) + rgb("e6f2f4")[0] * foam
    return np.where(
        (height < horizon)[..., None],
        color_ramp(height + 0 * waves, rgb("b8d4e4", "dfe6e2")),
        water,
    )


def sky(rng, size):
    palette = [
        rgb("3f7fc8", "78aee0", "b4d4ee"),
        rgb("5a6fae", "c08fa0", "f0b880"),
        rgb("6f8fae", "93abc0", "c4d0d8"),
    ][rng.integers(3)]
    canvas = color_ramp(
        vertical(size) * rng.uniform(0.7, 1.0) + np.zeros((1, size), np.float32), palette
    )
    clouds = fractal_noise(rng, size, (2, 5, 10), aspect=(1.3, 0.8))
    cover = np.clip(clouds * 0.5 + rng.uniform(-0.3, 0.25), 0, 0.95)[..., None]
    lit = color_ramp(
        0.6 + 0.25 * np.roll(clouds, size // 16, axis=0), rgb("a8b0bc", "f4f4f2", "ffffff")
    )
    return canvas * (1 - cover) + lit * cover


def meadow(rng, size):
    canvas = color_ramp(
        0.5 + 0.2 * fractal_noise(rng, size) + 0.3 * (vertical(size) - 0.5),
        rgb("a8bc5c", "7aa440", "4c7c2c", "345c24"),
    )
    blades = rgb("8cb048", "5a8a30", "b4c468", "3c6824")
    strokes(
        rng,
        canvas,
        80,
        blades,
        anywhere(0.05, 1.1),
        between(0.06, 0.18),
        lambda r: np.pi / 2 + r.normal(0, 0.25),
        0.016,
    )
    petals = rgb("f4e468", "f4f0e8", "e890b0", "c8a0e0")[rng.integers(4)]
    for _ in range(rng.integers(0, 16)):
        center = tuple(int(v) for v in rng.uniform(0, 1, 2) * size)
        cv2.circle(
            canvas, center, round(size * rng.uniform(0.01, 0.024)), tinted(rng, petals, 0.05), -1
        )
    return canvas


def desert(rng, size):
    height = vertical(size)
    canvas = color_ramp(height + np.zeros((1, size), np.float32), rgb("a8cce0", "e4dcc4"))
    across = np.linspace(0, 2 * np.pi, size, dtype=np.float32)[None]
    ripples = fractal_noise(rng, size, (9, 16), aspect=(1.0, 0.35))
    for level in np.linspace(rng.uniform(-0.1, 0.3), 0.85, rng.integers(2, 5)):
        crest = level + rng.uniform(0.02, 0.09) * np.sin(
            across * rng.uniform(0.4, 1.3) + rng.uniform(0, 6.3)
        )
        below = height - crest
        dune = color_ramp(
            0.75 - 1.3 * below + 0.09 * ripples + rng.normal(0, 0.06),
            rgb("a8703c", "c8935a", "e0b57a", "f0d4a0"),
        )
        canvas = np.where((below > 0)[..., None], dune, canvas)
    return canvas


def snow(rng, size):
    drifts = fractal_noise(rng, size, (2, 5, 10), aspect=(1.3, 0.6))
    canvas = color_ramp(0.6 + 0.22 * drifts, rgb("93a8c4", "c0cee0", "e6ecf4", "fbfbfd"))
    for _ in range(rng.integers(0, 5)):
        x, base, tall = rng.uniform(0, 1), rng.uniform(0.15, 0.75), rng.uniform(0.2, 0.5)
        tree = tinted(rng, rgb("3c5850", "52645c")[rng.integers(2)], 0.03)
        for layer in range(3):
            top, half = base - tall * (1 - layer * 0.25), tall * (0.14 + 0.06 * layer)
            triangle = np.array(
                [[x, top], [x - half, top + tall * 0.5], [x + half, top + tall * 0.5]]
            )
            cv2.fillPoly(canvas, [(triangle * size).astype(np.int32)], tree)
    for _ in range(rng.integers(5, 30)):
        center = tuple(int(v) for v in rng.uniform(0, 1, 2) * size)
        cv2.circle(canvas, center, round(size * 0.011), (0.98, 0.98, 1.0), -1)
    return canvas


def cliff(rng, size):
    layers = fractal_noise(rng, size, (5, 11, 18), aspect=(1.2, 0.35))
    blocks = fractal_noise(rng, size, (3, 7), aspect=(0.7, 1.6))
    palette = [
        rgb("403c3c", "746c66", "a49c90", "c8c0b0"),
        rgb("4c342c", "84604c", "b08c70", "d0b498"),
    ][rng.integers(2)]
    canvas = color_ramp(0.5 + 0.16 * layers + 0.13 * blocks, palette)
    ledge = np.clip(np.gradient(layers, axis=0) * size * 0.02, -0.16, 0.16)[..., None]
    for _ in range(rng.integers(2, 6)):
        steps = np.cumsum(rng.normal((0.0, 0.09), (0.05, 0.03), (8, 2)), axis=0) + rng.uniform(
            (0, -0.3), (1, 0.8)
        )
        cv2.polylines(
            canvas,
            [(steps * size).astype(np.int32)],
            False,
            tinted(rng, palette[0], 0.03),
            max(1, size // 64),
        )
    return canvas + ledge


def marsh(rng, size):
    height = vertical(size)
    canvas = color_ramp(
        0.25 + 0.5 * height + 0.14 * fractal_noise(rng, size, aspect=(1.2, 0.3)),
        rgb("c4ccb4", "8ea08a", "62786c", "40584c"),
    )
    reeds = rgb("a89850", "7c8440", "c4b070", "5c6430")
    strokes(
        rng,
        canvas,
        42,
        reeds,
        anywhere(0.5, 1.15),
        between(0.35, 0.8),
        lambda r: np.pi / 2 + r.normal(0, 0.12),
        0.014,
    )
    for _ in range(rng.integers(3, 8)):
        x, y = rng.uniform(0, 1), rng.uniform(0.05, 0.6)
        cv2.ellipse(
            canvas,
            (int(x * size), int(y * size)),
            (round(size * 0.018), round(size * 0.06)),
            0,
            0,
            360,
            tinted(rng, rgb("6c4424")[0], 0.03),
            -1,
        )
    return canvas


def autumn(rng, size):
    canvas = color_ramp(
        0.5 + 0.22 * fractal_noise(rng, size), rgb("4c2c18", "8c5020", "b87428", "d8a040")
    )
    colors = rgb("c85020", "e09830", "a83820", "e8bc50", "7c4820", "d87828")
    for _ in range(70):
        center = tuple(int(v) for v in rng.uniform(0, 1, 2) * size)
        axes = tuple(
            max(1, round(size * v)) for v in (rng.uniform(0.025, 0.06), rng.uniform(0.012, 0.03))
        )
        cv2.ellipse(
            canvas,
            center,
            axes,
            rng.uniform(0, 180),
            0,
            360,
            tinted(rng, colors[rng.integers(len(colors))]),
            -1,
        )
    return canvas


def night(rng, size):
    height = vertical(size)
    canvas = color_ramp(
        height + 0.12 * fractal_noise(rng, size, (2, 5)),
        rgb("080c20", "141c40", "2c3460", "4a4878"),
    )
    for _ in range(rng.integers(8, 24)):
        center = tuple(int(v) for v in rng.uniform(0, 1, 2) * size)
        cv2.circle(canvas, center, 1, (rng.uniform(0.6, 1.0),) * 3, -1)
    if rng.random() < 0.6:
        center = tuple(int(v) for v in rng.uniform(0.1, 0.9, 2) * size)
        cv2.circle(canvas, center, round(size * rng.uniform(0.04, 0.09)), (0.95, 0.93, 0.78), -1)
    ridge = fractal_noise(rng, size, (3, 7, 14))[:1] * 0.05 + rng.uniform(0.65, 0.95)
    hills = color_ramp(
        0.4 + 0.2 * fractal_noise(rng, size, (5, 10)), rgb("060a10", "101c20", "1c2c2c")
    )
    return np.where((height > ridge)[..., None], hills, canvas)


PAINTERS = {
    "forest": forest,
    "sea": sea,
    "sky": sky,
    "meadow": meadow,
    "desert": desert,
    "snow": snow,
    "cliff": cliff,
    "marsh": marsh,
    "autumn": autumn,
    "night": night,
}
BACKGROUNDS = tuple(PAINTERS)


def paint_background(name, rng, resolution):
    """A new background of the kind `name`, float32 (resolution, resolution, 3) RGB in [0, 1]."""
    canvas = np.ascontiguousarray(PAINTERS[name](rng, resolution * SUPERSAMPLING), np.float32)
    return np.clip(cv2.resize(canvas, (resolution, resolution), interpolation=cv2.INTER_AREA), 0, 1)
