"""Bicycles and motorbikes, parked or ridden. A rider is a person of their own; a wheel is a whole disc."""

import math

import numpy as np

from streets.body import RUBBER, box, draw_loft, draw_tire, ring, visible_side
from streets.camera import Pose
from streets.canvas import Canvas
from streets.classes import BICYCLE, MOTORBICYCLE
from streets.light import Color
from streets.paint import HEADLAMP, LIVERIES, REAR_LAMP, darker, pick
from streets.people import draw_rider

STEEL: Color = (120, 122, 126)
Tube = tuple[tuple[float, float, float], tuple[float, float, float], float]  # from, to, radius

FRAME: tuple[Tube, ...] = (
    ((-0.52, 0, 0.34), (-0.08, 0, 0.3), 0.02),
    ((-0.08, 0, 0.3), (-0.2, 0, 0.82), 0.026),
    ((-0.52, 0, 0.34), (-0.18, 0, 0.78), 0.018),
    ((-0.08, 0, 0.3), (0.34, 0, 0.72), 0.03),
    ((-0.17, 0, 0.72), (0.34, 0, 0.8), 0.026),
    ((0.52, 0, 0.34), (0.34, 0, 0.86), 0.024),
    ((0.34, 0, 0.86), (0.36, 0, 1.02), 0.02),
)


def draw_bicycle(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a ridden bicycle."""
    _bicycle(canvas, pose, rng)
    turn = float(rng.uniform(0, 6)) + 5.0 * time
    feet = [(-0.08 + 0.16 * math.cos(a), side * 0.12, 0.34 + 0.16 * math.sin(a))
            for side, a in ((-1, turn), (1, turn + math.pi))]  # fmt: skip
    helmet = pick(rng, LIVERIES) if rng.random() < 0.3 else None
    draw_rider(
        canvas,
        pose,
        rng,
        hip=(-0.18, 0, 0.96),
        hands=(0.34, 0.25, 1.04),
        feet=(feet[0], feet[1]),
        helmet=helmet,
    )


def draw_parked_bicycle(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a bicycle on its stand."""
    _bicycle(canvas, pose, rng)


def _bicycle(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    canvas.begin(BICYCLE)
    paint = pick(rng, LIVERIES)
    for axle in (-0.52, 0.52):
        _spoked_wheel(canvas, pose, axle)
    for start, end, radius in FRAME:
        canvas.limb(pose.point(*start), pose.point(*end), radius, radius, paint)
    canvas.limb(pose.point(0.34, -0.26, 1.03), pose.point(0.34, 0.26, 1.03), 0.02, 0.02, STEEL, 0.8)
    canvas.limb(pose.point(-0.3, 0, 0.88), pose.point(-0.1, 0, 0.88), 0.06, 0.035, RUBBER)
    if rng.random() < 0.6:
        draw_loft(canvas, pose, box(0.42, 0.7, 0.17, 0.78, 1.0), (96, 98, 100))
    canvas.limb(pose.point(-0.85, 0, 0.5), pose.point(-0.62, 0, 0.72), 0.03, 0.04, darker(paint, 0.7))


def _spoked_wheel(canvas: Canvas, pose: Pose, axle: float) -> None:
    draw_tire(canvas, pose, axle, 0.022, 0.34, 0.044)
    side = visible_side(canvas, pose) * 0.024
    hollow = [pose.point(axle + 0.29 * math.cos(t), side, 0.34 + 0.29 * math.sin(t))
              for t in (math.pi * k / 7 for k in range(14))]  # fmt: skip
    canvas.face(hollow, (138, 140, 140), 0.8, solid=False)
    for spoke in range(5 if pose.ahead < 16 else 0):
        turn = math.pi * spoke / 5
        dx, dz = 0.29 * math.cos(turn), 0.29 * math.sin(turn)
        ends = [pose.point(axle + s * dx + 0.008 * w, side, 0.34 + s * dz) for s, w in
                ((-1, -1), (-1, 1), (1, 1), (1, -1))]  # fmt: skip
        canvas.face(ends, (60, 62, 64), 0.8, solid=False)


def draw_motorbike(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a ridden scooter; a delivery rider has a box behind the seat."""
    _motorbike(canvas, pose, rng)
    draw_rider(
        canvas,
        pose,
        rng,
        hip=(-0.22, 0, 0.88),
        hands=(0.4, 0.3, 1.04),
        feet=((0.16, -0.16, 0.36), (0.16, 0.16, 0.36)),
        helmet=pick(rng, LIVERIES) if rng.random() < 0.75 else None,
    )
    if canvas.weather.lamps and canvas.viewpoint(pose)[0] > 0:
        canvas.lamp(pose.point(0.52, 0.0, 0.9), 0.08, (255, 250, 226))


def draw_parked_motorbike(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a scooter on its stand."""
    _motorbike(canvas, pose, rng)


def _motorbike(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    canvas.begin(MOTORBICYCLE)
    paint, boxed = pick(rng, LIVERIES), rng.random() < 0.45
    seen_from_ahead = canvas.viewpoint(pose)[0] > 0
    parts = [_nose, _tail] if not seen_from_ahead else [_tail, _nose]
    for draw in parts:
        draw(canvas, pose, paint)
        if draw is _tail and boxed:
            draw_loft(canvas, pose, box(-0.98, -0.52, 0.25, 0.82, 1.3), pick(rng, LIVERIES))


def _tail(canvas: Canvas, pose: Pose, paint: Color) -> None:
    _thick_wheel(canvas, pose, -0.62)
    canvas.limb(pose.point(-0.6, 0, 0.62), pose.point(-0.1, 0, 0.56), 0.15, 0.17, paint, 0.9)
    canvas.limb(pose.point(-0.15, 0, 0.4), pose.point(0.3, 0, 0.33), 0.15, 0.13, darker(paint, 0.6))
    canvas.limb(pose.point(-0.72, 0, 0.8), pose.point(0.05, 0, 0.76), 0.1, 0.11, RUBBER, 1.2)
    if canvas.viewpoint(pose)[0] < -0.8:
        canvas.ball(pose.point(-0.8, 0, 0.66), 0.07, REAR_LAMP, 1.1)


def _nose(canvas: Canvas, pose: Pose, paint: Color) -> None:
    _thick_wheel(canvas, pose, 0.66)
    canvas.limb(pose.point(0.66, 0, 0.42), pose.point(0.6, 0, 0.56), 0.12, 0.1, paint, 0.85)
    for side in (-0.1, 0.1):
        canvas.limb(pose.point(0.36, side, 0.36), pose.point(0.42, side, 0.86), 0.12, 0.13, paint)
    canvas.limb(pose.point(0.44, 0, 0.9), pose.point(0.42, 0, 1.02), 0.12, 0.06, darker(paint, 0.7))
    for side in (-1, 1):
        canvas.limb(pose.point(0.42, 0, 1.02), pose.point(0.36, side * 0.33, 1.04), 0.03, 0.03, RUBBER)
        canvas.limb(pose.point(0.36, side * 0.3, 1.04), pose.point(0.34, side * 0.36, 1.22), 0.012, 0.012, STEEL)
        canvas.ball(pose.point(0.34, side * 0.37, 1.24), 0.055, STEEL)
    if canvas.viewpoint(pose)[0] > 0.6:
        canvas.ball(pose.point(0.52, 0, 0.9), 0.085, HEADLAMP)


def _thick_wheel(canvas: Canvas, pose: Pose, axle: float) -> None:
    draw_tire(canvas, pose, axle, 0.055, 0.28, 0.11)
    side = visible_side(canvas, pose) * 0.057
    hub = [(x, y, z + 0.12) for x, y, z in ring(pose, axle, side, 0.16)]
    canvas.face(hub, STEEL, 0.8, solid=False)
