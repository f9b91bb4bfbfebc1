"""Unlabeled objects along a street, in the colors and sizes of labeled ones."""

import math

import numpy as np

from streets.body import GLASS, Loft, box, draw_flank, draw_loft, draw_panel, visible_side
from streets.camera import Pose
from streets.canvas import Canvas
from streets.classes import BACKGROUND
from streets.light import Color
from streets.paint import LIVERIES, PAINTS, darker, pick

LEAVES: tuple[Color, ...] = ((62, 88, 44), (78, 98, 48), (50, 76, 46), (96, 100, 50), (124, 104, 48))
BARK: Color = (78, 64, 52)
POLE: Color = (104, 108, 110)


def draw_tree(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a street tree with a crown of many tufts, dark below and bright above."""
    canvas.begin(BACKGROUND)
    tall, leaves = float(rng.uniform(4.5, 8.0)), pick(rng, LEAVES)
    canvas.limb(pose.point(0, 0, 0), pose.point(0.1, 0.1, tall * 0.65), 0.16, 0.08, BARK, 0.8)
    tufts = rng.normal(0.0, 1.0, (34, 4))
    tufts *= np.minimum(1.0, 1.7 / np.linalg.norm(tufts, axis=1, keepdims=True))  # no leaf floats alone
    tufts = tufts[np.argsort(tufts[:, 2])]
    light = canvas.weather.brightness((0.0, -0.4, 0.3))
    for x, y, z, tone in tufts.tolist():
        center = pose.point(0.75 * x, 0.75 * y, tall * 0.72 + 0.6 * z)
        canvas.ball(center, 0.5 + 0.1 * tone, leaves, max(light * (0.88 + 0.17 * z + 0.09 * tone), 0.2))


def draw_bush(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a low hedge of tufts."""
    canvas.begin(BACKGROUND)
    leaves, light = pick(rng, LEAVES), canvas.weather.brightness((0.0, -0.5, 0.5))
    for x, y, z in rng.uniform(-1.0, 1.0, (9, 3)).tolist():
        canvas.ball(pose.point(0.9 * x, 0.35 * y, 0.45 + 0.2 * z), 0.42, leaves, light * (0.85 + 0.2 * z))


def draw_street_lamp(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a mast with an arm over the road."""
    canvas.begin(BACKGROUND)
    canvas.limb(pose.point(0, 0, 0), pose.point(0, 0, 7.4), 0.11, 0.06, POLE, 0.8)
    canvas.limb(pose.point(0, 0, 7.4), pose.point(1.9, 0, 7.9), 0.05, 0.05, POLE, 0.8)
    canvas.limb(pose.point(1.5, 0, 7.8), pose.point(2.2, 0, 7.9), 0.1, 0.1, POLE, 0.9)
    if canvas.weather.lamps:
        canvas.lamp(pose.point(1.9, 0, 7.75), 0.2, (255, 214, 150))


def draw_signal(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a traffic light on an arm."""
    canvas.begin(BACKGROUND)
    canvas.limb(pose.point(0, 0, 0), pose.point(0, 0, 5.6), 0.1, 0.08, POLE, 0.8)
    canvas.limb(pose.point(0, 0, 5.5), pose.point(3.2, 0, 5.6), 0.06, 0.05, POLE, 0.8)
    for along in (1.6, 3.0):
        case = ((-0.18, 5.1), (-0.18, 6.1), (0.18, 6.1), (0.18, 5.1))
        canvas.face([pose.point(along + x, 0, z) for x, z in case], (30, 32, 32), 0.8)
        color: Color = (240, 60, 50) if rng.random() < 0.5 else (60, 220, 140)
        canvas.lamp(pose.point(along, -0.02, 5.9 if color[0] > 200 else 5.3), 0.11, color)


def draw_sign(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a round or square traffic sign, or a blue board."""
    canvas.begin(BACKGROUND)
    color: Color = ((36, 84, 168), (190, 44, 44), (226, 190, 60), (226, 228, 226))[int(rng.integers(4))]
    canvas.limb(pose.point(0, 0, 0), pose.point(0, 0, 2.4), 0.04, 0.04, POLE, 0.8)
    if rng.random() < 0.5:
        canvas.ball(pose.point(0, 0, 2.4), 0.33, color, 0.8)
        canvas.ball(pose.point(-0.01, 0, 2.4), 0.22, (228, 228, 224), 0.8)
    else:
        size = float(rng.uniform(0.35, 0.8))
        corners = ((-size, 2.0), (-size, 2.2 + size), (size, 2.2 + size), (size, 2.0))
        canvas.face([pose.point(0, y, z) for y, z in corners], color, 0.8)


def draw_bin(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a waste bin, switch cabinet or post box: a painted box."""
    canvas.begin(BACKGROUND)
    paint, high = pick(rng, LIVERIES), float(rng.uniform(0.8, 1.5))
    half = float(rng.uniform(0.22, 0.45))
    body = box(-half, half, half * 0.8, 0.0, high)
    draw_loft(canvas, pose, body, paint)
    draw_loft(canvas, pose, box(-half * 1.1, half * 1.1, half * 0.9, high, high + 0.12), darker(paint, 0.6))


def draw_kiosk(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a stall: a van-sized box with a counter and a bright roof."""
    canvas.begin(BACKGROUND)
    paint = pick(rng, PAINTS if rng.random() < 0.6 else LIVERIES)
    body = box(-1.5, 1.5, 0.95, 0.0, 2.3)
    draw_loft(canvas, pose, body, paint)
    shine = 0.7 if canvas.weather.lamps else 0.0
    counter = [(-1.2, 1.0), (-1.2, 1.8), (1.2, 1.8), (1.2, 1.0)]
    if abs(canvas.viewpoint(pose)[1]) > body.half:
        draw_flank(
            canvas,
            pose,
            body,
            visible_side(canvas, pose),
            counter,
            (230, 196, 140) if shine else GLASS,
            glow=shine,
        )
    draw_panel(canvas, pose, -1.5, (-0.7, 0.7), (0.9, 1.9), pick(rng, LIVERIES))
    draw_loft(canvas, pose, box(-1.8, 1.8, 1.25, 2.3, 2.5), pick(rng, LIVERIES))


def draw_barrier(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a length of railing, or of a red and white water-filled barrier."""
    canvas.begin(BACKGROUND)
    if rng.random() < 0.5:
        for index, start in enumerate(np.arange(-2.0, 2.0, 1.0).tolist()):
            paint: Color = (188, 52, 44) if index % 2 else (222, 220, 214)
            draw_loft(canvas, pose, box(start, start + 0.96, 0.22, 0.0, 0.85), paint)
        return
    for up in (0.35, 0.95):
        canvas.limb(pose.point(2.0, 0, up), pose.point(-2.0, 0, up), 0.03, 0.03, (214, 214, 210), 0.8)
    for along in np.linspace(2.0, -2.0, 9).tolist():
        canvas.limb(pose.point(along, 0, 0.0), pose.point(along, 0, 1.0), 0.025, 0.025, (206, 206, 204), 0.8)


def draw_shelter(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a bus stop: posts, a flat roof, a lit poster that is as large as a person."""
    canvas.begin(BACKGROUND)
    poster = pick(rng, PAINTS)
    for along in (1.9, 0.0, -1.9):
        canvas.limb(pose.point(along, 0, 0), pose.point(along, 0, 2.4), 0.05, 0.05, POLE, 0.8)
    frame = ((-1.8, 0.4), (-1.8, 2.1), (-0.5, 2.1), (-0.5, 0.4))
    canvas.face([pose.point(x, 0, z) for x, z in frame], (120, 124, 126))
    canvas.face([pose.point(x * 0.97 - 0.03, 0, 0.1 + z * 0.93) for x, z in frame], poster, glow=0.4, solid=False)
    draw_loft(canvas, pose, Loft([(-2.1, 2.4), (-2.1, 2.55), (2.1, 2.55), (2.1, 2.4)], 0.7), (92, 96, 100))


def draw_plant(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a slim conifer in a tub."""
    canvas.begin(BACKGROUND)
    leaves, light = pick(rng, LEAVES), canvas.weather.brightness((0.0, -0.5, 0.4))
    draw_loft(canvas, pose, box(-0.3, 0.3, 0.3, 0.0, 0.45), (134, 118, 104))
    rim = [pose.point(0.42 * math.cos(t), 0.42 * math.sin(t), 0.5) for t in (math.pi * k / 4 for k in range(8))]
    canvas.shell([*rim, pose.point(0, 0, 1.9)], leaves, light)
