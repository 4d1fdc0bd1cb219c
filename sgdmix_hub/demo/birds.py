"""Procedural birds: appearance (`Bird`), pose (`Pose`), and the drawn image with its mask."""

from dataclasses import dataclass

import cv2
import numpy as np

from .backgrounds import paint_background, rgb

COLORS = {
    "red": "d02828",
    "orange": "f08020",
    "yellow": "f4d030",
    "green": "3c9c3c",
    "teal": "20a098",
    "blue": "2c54d0",
    "purple": "8038b0",
    "pink": "f088b4",
    "brown": "80502c",
    "black": "1c1c20",
    "white": "f4f4f0",
    "gray": "8c9098",
}
CRESTS = ("none", "spiky", "swept", "round")
WING_PATTERNS = ("plain", "barred", "spotted", "tipped")
TAIL_SHAPES = ("short", "long", "forked", "fanned")
BEAK_SHAPES = ("short", "long", "hooked")
SUPERSAMPLING = 4
SUBPIXEL_BITS = 4
# A bird may be cut by the border by at most this share of its extent, so that most of it stays
# visible.
LARGEST_OVERHANG = 0.12


@dataclass(frozen=True)
class Bird:
    """Appearance of a species: colours are keys of `COLORS`, kinds come from the tuples above."""

    body: str
    head: str
    wing: str
    tail: str
    beak: str
    crest_color: str
    crest: str
    wing_pattern: str
    tail_shape: str
    beak_shape: str


@dataclass(frozen=True)
class Pose:
    """Angles in radians; `scale`: body length / image side; `stretch`: factor on the height."""

    tilt: float
    head_angle: float
    wing_angle: float
    scale: float
    flip: bool
    stretch: float


@dataclass(frozen=True)
class Light:
    """Light of a scene: factors `gain`, `contrast`, RGB `tint`; shading `shade`, `direction`."""

    gain: float
    contrast: float
    tint: tuple
    shade: float
    direction: float


@dataclass(frozen=True)
class Shape:
    """A filled polygon in body lengths, x towards the head and y up; `outline` darkens its edge."""

    points: np.ndarray
    color: np.ndarray
    outline: bool = False


def random_pose(rng):
    return Pose(
        tilt=rng.normal(0.15, 0.3),
        head_angle=rng.uniform(-0.35, 0.35),
        wing_angle=rng.uniform(0.6, 1.5) if rng.random() < 0.35 else rng.uniform(-0.1, 0.25),
        scale=rng.uniform(0.33, 0.5),
        flip=bool(rng.random() < 0.5),
        stretch=rng.uniform(0.9, 1.1),
    )


def random_light(rng):
    warmth = rng.normal(0, 0.04)
    return Light(
        gain=rng.uniform(0.85, 1.1),
        contrast=rng.uniform(0.88, 1.1),
        tint=(1 + warmth, 1.0, 1 - warmth),
        shade=rng.uniform(0.15, 0.4),
        direction=rng.uniform(0.2, np.pi - 0.2),
    )


def color_of(name):
    return rgb(COLORS[name])[0]


def contrasting(name):
    """White for a dark colour, near-black for a light one."""
    return color_of("black") if color_of(name) @ (0.3, 0.59, 0.11) > 0.5 else color_of("white")


def ellipse(x, y, a, b, angle=0.0, start=0.0, stop=2 * np.pi):
    """Points of an elliptic arc, (28, 2)."""
    turn = np.linspace(start, stop, 28)
    return turned(np.stack([a * np.cos(turn), b * np.sin(turn)], 1), angle) + (x, y)


def turned(points, angle, about=(0.0, 0.0)):
    """`points` (n, 2) rotated counter-clockwise by `angle` about a point."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return (np.asarray(points) - about) @ np.array([[cosine, sine], [-sine, cosine]]) + about


def tail_shapes(bird):
    color = color_of(bird.tail)
    outlines = {
        "short": [[(-0.38, 0.1), (-0.68, 0.08), (-0.7, -0.1), (-0.38, -0.1)]],
        "long": [[(-0.38, 0.1), (-1.05, 0.1), (-1.12, 0.0), (-1.05, -0.09), (-0.38, -0.1)]],
        "forked": [
            [(-0.38, 0.1), (-0.95, 0.34), (-0.72, 0.06), (-0.4, -0.06)],
            [(-0.38, -0.1), (-0.95, -0.3), (-0.72, -0.02), (-0.4, 0.06)],
        ],
        "fanned": [
            [
                (-0.36, 0.06),
                *ellipse(-0.4, 0.0, 0.46, 0.46, 0, np.pi - 0.75, np.pi + 0.75),
                (-0.36, -0.06),
            ]
        ],
    }[bird.tail_shape]
    return [Shape(np.array(points), color, outline=True) for points in outlines]


def leg_shapes(bird):
    color = color_of(bird.beak) * 0.75
    legs = []
    for x in (-0.1, 0.06):
        leg = [
            (x - 0.03, -0.2),
            (x + 0.03, -0.2),
            (x + 0.04, -0.46),
            (x + 0.12, -0.5),
            (x - 0.06, -0.5),
            (x - 0.02, -0.46),
        ]
        legs.append(Shape(np.array(leg), color))
    return legs


def wing_shapes(bird, angle):
    """A teardrop from the shoulder back, with its pattern, turned up by `angle`."""
    shoulder, tip, depth = (0.24, 0.1), -0.52, 0.19
    base, mark = color_of(bird.wing), contrasting(bird.wing)

    def half_depth(x):
        along = (x - tip) / (shoulder[0] - tip)
        return depth * np.sqrt(np.clip(along, 0, 1)) * np.sqrt(np.clip(1.0 - along**4, 0, 1))

    def strip(left, right, margin=1.0):
        x = np.linspace(left, right, 12)
        upper, lower = 0.06 + half_depth(x) * margin, 0.06 - half_depth(x) * margin
        return np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])

    shapes = [Shape(strip(tip, shoulder[0]), base, outline=True)]
    if bird.wing_pattern == "barred":
        shapes += [Shape(strip(x, x + 0.08, 0.85), mark) for x in (-0.36, -0.18, 0.0)]
    elif bird.wing_pattern == "spotted":
        centers = ((-0.32, 0.06), (-0.14, 0.13), (-0.14, -0.02), (0.06, 0.13), (0.06, -0.02))
        shapes += [Shape(ellipse(x, y, 0.055, 0.055), mark) for x, y in centers]
    elif bird.wing_pattern == "tipped":
        shapes.append(Shape(strip(tip, -0.2, 0.97), mark))
    return [Shape(turned(s.points, -angle, shoulder), s.color, s.outline) for s in shapes]


def head_shapes(bird, angle):
    """Crest, beak, head and eye; the head turns about the neck by `angle`."""
    x, y, radius = 0.47, 0.27, 0.22
    crests = {
        "none": [],
        "spiky": [
            turned([(-0.07, radius * 0.8), (0.0, radius + 0.24), (0.08, radius * 0.8)], lean)
            for lean in (-0.3, 0.25, 0.8)
        ],
        "swept": [
            np.array([(0.1, 0.16), (-0.02, 0.3), (-0.42, 0.42), (-0.28, 0.2), (-0.19, 0.04)])
        ],
        "round": [ellipse(-0.07, 0.14, 0.25, 0.24, 0.35)],
    }[bird.crest]
    beaks = {
        "short": [(0.17, 0.1), (0.42, -0.02), (0.17, -0.12)],
        "long": [(0.17, 0.08), (0.68, -0.05), (0.67, -0.09), (0.17, -0.09)],
        "hooked": [
            (0.14, 0.15),
            (0.34, 0.12),
            (0.44, -0.02),
            (0.42, -0.2),
            (0.32, -0.09),
            (0.15, -0.11),
        ],
    }
    parts = [Shape(points, color_of(bird.crest_color), outline=True) for points in crests]
    parts.append(Shape(np.array(beaks[bird.beak_shape]), color_of(bird.beak), outline=True))
    parts.append(Shape(ellipse(0, 0, radius, radius), color_of(bird.head), outline=True))
    parts.append(Shape(ellipse(0.07, 0.05, 0.07, 0.07), color_of("white")))
    parts.append(Shape(ellipse(0.08, 0.05, 0.045, 0.045), color_of("black")))
    return [
        Shape(turned(p.points + (x, y), angle, (0.34, 0.12)), p.color, p.outline) for p in parts
    ]


def bird_shapes(bird, pose):
    """All parts of the bird from back to front, in body lengths with y up, posed."""
    body, belly = color_of(bird.body), 0.75 * color_of(bird.body) + 0.25
    shapes = [
        *tail_shapes(bird),
        *leg_shapes(bird),
        Shape(ellipse(0, 0, 0.5, 0.3, 0.15), body, outline=True),
        Shape(ellipse(0.1, -0.1, 0.3, 0.15, 0.25), belly),
        *head_shapes(bird, pose.head_angle),
        *wing_shapes(bird, pose.wing_angle),
    ]
    mirror = np.array([-1.0 if pose.flip else 1.0, 1.0])
    return [
        Shape(turned(s.points * (1, pose.stretch), pose.tilt) * mirror, s.color, s.outline)
        for s in shapes
    ]


def placed(shapes, rng, scale):
    """Shapes in image units (y down) at a uniformly drawn position.

    At most `LARGEST_OVERHANG` of the bird's extent lies outside the image.
    """
    scaled = [s.points * (scale, -scale) for s in shapes]
    corners = np.concatenate(scaled)
    low, high = corners.min(0), corners.max(0)
    overhang = LARGEST_OVERHANG * (high - low)
    bounds = np.sort(np.stack([-overhang - low, 1 + overhang - high]), axis=0)
    offset = rng.uniform(bounds[0], bounds[1])
    return [
        Shape(points + offset, s.color, s.outline) for points, s in zip(scaled, shapes, strict=True)
    ]


def draw(shapes, resolution):
    """Draws antialiased shapes.

    Returns premultiplied RGB float32 (H, W, 3) and coverage float32 (H, W), both in [0, 1].
    """
    size = resolution * SUPERSAMPLING
    canvas = np.zeros((size, size, 4), np.uint8)
    thickness = max(1, size // 128)
    for shape in shapes:
        points = [np.round(shape.points * size * 2**SUBPIXEL_BITS).astype(np.int32)]
        color = tuple(int(c) for c in np.round(shape.color * 255))
        cv2.fillPoly(canvas, points, (*color, 255), cv2.LINE_8, SUBPIXEL_BITS)
        if shape.outline:
            dark = tuple(int(c * 0.6) for c in color)
            cv2.polylines(canvas, points, True, (*dark, 255), thickness, cv2.LINE_8, SUBPIXEL_BITS)
    layer = (
        cv2.resize(canvas, (resolution, resolution), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )
        / 255
    )
    return layer[..., :3], layer[..., 3]


def lit(image, light):
    """`image` float32 (H, W, 3) in [0, 1] under the scene's light."""
    return np.clip(
        ((image - 0.5) * light.contrast + 0.5) * light.gain * np.float32(light.tint), 0, 1
    )


def shading(coverage, light):
    """Factor (H, W, 1) that darkens the side of the bird away from the light."""
    size = len(coverage)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    weight = coverage.sum()
    away = (y - (coverage * y).sum() / weight) * np.sin(light.direction) - (
        x - (coverage * x).sum() / weight
    ) * np.cos(light.direction)
    return (1.05 - light.shade * np.clip(away * 5, -0.3, 1))[..., None]


def as_uint8(image):
    return np.uint8(np.clip(image, 0, 1) * 255 + 0.5)


def render_scene(background_name, rng, resolution=64):
    """A background without a bird: image uint8 (H, W, 3) RGB and its `Light`.

    `render_bird` makes the same draws first: with equal generator states, both give the same
    background.
    """
    light = random_light(rng)
    return as_uint8(lit(paint_background(background_name, rng, resolution), light)), light


def render_bird(bird, rng, background_name, resolution=64):
    """One picture of `bird`: image uint8 (H, W, 3) RGB and its true mask, bool (H, W).

    The mask holds every pixel of which the bird covers a quarter or more, thin legs included.
    """
    scene, light = render_scene(background_name, rng, resolution)
    pose = random_pose(rng)
    colors, coverage = draw(placed(bird_shapes(bird, pose), rng, pose.scale), resolution)
    alpha = coverage[..., None]
    foreground = lit(colors / np.maximum(alpha, 1e-3), light) * shading(coverage, light)
    image = scene.astype(np.float32) / 255 * (1 - alpha) + np.clip(foreground, 0, 1) * alpha
    return as_uint8(image), coverage >= 0.25
