"""Cars: sedans, taxis, hatchbacks, off-roaders and minibuses."""

from dataclasses import dataclass

import numpy as np

from streets.body import (
    GLASS,
    Loft,
    Outline,
    box,
    draw_flank,
    draw_hubs,
    draw_loft,
    draw_pair,
    draw_pane,
    draw_panel,
    draw_tire,
    visible_side,
)
from streets.camera import Pose
from streets.canvas import Canvas
from streets.classes import CAR
from streets.paint import (
    HEADLAMP,
    PAINTS,
    PLATE,
    REAR_LAMP,
    TRIM,
    darker,
    draw_end_lamps,
    pick,
)


@dataclass(frozen=True, kw_only=True)
class CarShape:
    """The side view of a car: `rear_pane` and `windshield` are edges of the profile."""

    profile: Outline
    windows: tuple[Outline, ...]
    rear_pane: int
    windshield: int
    half: float
    belt: float
    axles: tuple[float, float]


SEDAN = CarShape(
    profile=(
        (-2.3, 0.26), (-2.33, 0.7), (-2.22, 1.0), (-1.72, 1.05), (-1.0, 1.44),
        (0.25, 1.47), (1.1, 1.02), (2.1, 0.84), (2.34, 0.62), (2.32, 0.26),
    ),
    windows=(
        ((-1.5, 1.02), (-0.95, 1.37), (-0.36, 1.4), (-0.36, 1.02)),
        ((-0.28, 1.02), (-0.28, 1.4), (0.22, 1.41), (0.9, 1.02)),
    ),
    rear_pane=3, windshield=5, half=0.9, belt=1.02, axles=(-1.42, 1.42),
)  # fmt: skip
HATCH = CarShape(
    profile=(
        (-1.9, 0.28), (-1.95, 0.75), (-1.88, 1.05), (-1.5, 1.5), (0.35, 1.54),
        (1.1, 1.06), (1.8, 0.9), (1.98, 0.66), (1.96, 0.28),
    ),
    windows=(
        ((-1.62, 1.06), (-1.35, 1.43), (-0.4, 1.47), (-0.4, 1.06)),
        ((-0.3, 1.06), (-0.3, 1.47), (0.3, 1.48), (0.92, 1.06)),
    ),
    rear_pane=2, windshield=4, half=0.86, belt=1.06, axles=(-1.25, 1.25),
)  # fmt: skip
OFFROAD = CarShape(
    profile=(
        (-2.25, 0.38), (-2.3, 0.9), (-2.24, 1.15), (-1.9, 1.72), (0.3, 1.76),
        (1.0, 1.2), (2.0, 1.08), (2.3, 0.84), (2.28, 0.38),
    ),
    windows=(
        ((-2.0, 1.18), (-1.75, 1.64), (-1.1, 1.68), (-1.1, 1.18)),
        ((-1.02, 1.18), (-1.02, 1.68), (-0.3, 1.7), (-0.3, 1.18)),
        ((-0.2, 1.18), (-0.2, 1.7), (0.25, 1.7), (0.82, 1.18)),
    ),
    rear_pane=2, windshield=4, half=0.95, belt=1.18, axles=(-1.4, 1.42),
)  # fmt: skip
MINIBUS = CarShape(
    profile=(
        (-2.3, 0.34), (-2.36, 0.9), (-2.32, 1.15), (-2.15, 1.86), (1.3, 1.9),
        (1.95, 1.14), (2.3, 0.95), (2.4, 0.72), (2.38, 0.34),
    ),
    windows=(
        ((-2.05, 1.16), (-1.95, 1.7), (-1.0, 1.74), (-1.0, 1.16)),
        ((-0.9, 1.16), (-0.9, 1.74), (0.3, 1.76), (0.3, 1.16)),
        ((0.4, 1.16), (0.4, 1.76), (1.2, 1.76), (1.75, 1.16)),
    ),
    rear_pane=2, windshield=4, half=0.92, belt=1.16, axles=(-1.5, 1.55),
)  # fmt: skip
SHAPES = (SEDAN, SEDAN, HATCH, OFFROAD, MINIBUS)


def draw_car(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a sedan, hatchback, off-roader or minibus; some sedans are taxis."""
    canvas.begin(CAR)
    shape, paint = SHAPES[int(rng.integers(len(SHAPES)))], pick(rng, PAINTS)
    size = float(rng.uniform(0.95, 1.05))
    body = Loft([(x * size, y * size) for x, y in shape.profile], shape.half * size, shape.belt * size, 0.8)
    side = visible_side(canvas, pose) * body.half
    radius = 0.325 * size
    for axle in shape.axles:
        draw_tire(canvas, pose, axle * size, -side, radius, 0.22)
        draw_tire(canvas, pose, axle * size, side, radius, 0.22)
    draw_loft(canvas, pose, body, paint)
    _draw_car_glass(canvas, pose, body, shape, size)
    _draw_car_ends(canvas, pose, body, rng)
    if abs(canvas.viewpoint(pose)[1]) > body.half:
        sill = [(body.rear, 0.28), (body.rear, 0.42), (body.front, 0.42), (body.front, 0.28)]
        draw_flank(canvas, pose, body, 1 if side > 0 else -1, sill, darker(paint, 0.6))
        draw_hubs(canvas, pose, [axle * size for axle in shape.axles], side, radius, (150, 152, 156))
    if shape is SEDAN and rng.random() < 0.3:
        draw_loft(canvas, pose, box(-0.45, -0.2, 0.28, body.top, body.top + 0.15), (232, 200, 90))


def _draw_car_glass(canvas: Canvas, pose: Pose, body: Loft, shape: CarShape, size: float) -> None:
    draw_pane(canvas, pose, body, shape.rear_pane, GLASS)
    draw_pane(canvas, pose, body, shape.windshield, GLASS, begin=0.06, stop=0.94)
    side = visible_side(canvas, pose)
    if abs(canvas.viewpoint(pose)[1]) > body.half:
        for window in shape.windows:
            draw_flank(canvas, pose, body, side, [(x * size, y * size) for x, y in window], GLASS, dim=0.9)
        handle = [
            (-0.62, body.belt - 0.14),
            (-0.62, body.belt - 0.1),
            (-0.42, body.belt - 0.1),
            (-0.42, body.belt - 0.14),
        ]
        draw_flank(canvas, pose, body, side, handle, TRIM)


def _draw_car_ends(canvas: Canvas, pose: Pose, body: Loft, rng: np.random.Generator) -> None:
    rear, front, half, belt = body.rear, body.front, body.half, body.belt
    braking = 0.8 if canvas.weather.lamps or rng.random() < 0.25 else 0.15
    draw_panel(canvas, pose, rear, (-half, half), (0.28, 0.46), TRIM)
    draw_pair(canvas, pose, rear, (half * 0.58, half * 0.97), (belt - 0.3, belt - 0.12), REAR_LAMP, glow=braking)
    draw_panel(canvas, pose, rear, (-0.24, 0.24), (0.56, 0.68), PLATE)
    draw_panel(canvas, pose, front, (-half * 0.5, half * 0.5), (0.48, 0.66), TRIM)
    draw_panel(canvas, pose, front, (-half * 0.85, half * 0.85), (0.28, 0.4), TRIM)
    draw_pair(canvas, pose, front, (half * 0.58, half * 0.95), (0.56, 0.7), HEADLAMP, glow=0.2)
    draw_panel(canvas, pose, front, (-0.22, 0.22), (0.4, 0.5), PLATE)
    draw_end_lamps(canvas, pose, rear, front, half * 0.76, (belt - 0.2, 0.62))
