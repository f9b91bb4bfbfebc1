"""Houses along both sides of the street: walls, rows of windows, shops on the ground floor."""

from dataclasses import dataclass

import numpy as np

from streets.camera import Camera, Point
from streets.canvas import Canvas
from streets.classes import BACKGROUND
from streets.light import Color
from streets.paint import LIVERIES, darker, pick

WALLS: tuple[Color, ...] = (
    (176, 160, 138), (150, 136, 122), (186, 180, 170), (128, 96, 82), (146, 108, 92), (116, 118, 122),
    (160, 164, 168), (96, 100, 108), (198, 188, 166), (134, 128, 112),
)  # fmt: skip
STOREY = 3.2


@dataclass(frozen=True)
class House:
    """A house from `near` to `far` along the street, its front at `front` across it."""

    front: float
    near: float
    far: float
    storeys: int


def draw_house(canvas: Canvas, camera: Camera, house: House, rng: np.random.Generator) -> None:
    """Draw the end wall that faces us and the front along the street."""
    canvas.begin(BACKGROUND)
    wall, high = pick(rng, WALLS), house.storeys * STOREY + 0.8
    away = 14.0 if house.front > 0 else -14.0
    ends = ((house.front, house.near), (house.front + away, house.near))
    light = canvas.weather.brightness((0.0, -1.0, 0.0))
    canvas.face(_upright(camera, ends[0], ends[1], 0.0, high), wall, light * 0.92)
    length = ((house.front, house.near), (house.front, house.far))
    light = canvas.weather.brightness((-1.0 if away > 0 else 1.0, 0.0, 0.0))
    canvas.face(_upright(camera, *length, 0.0, high), wall, light)
    canvas.face(_upright(camera, *length, high - 0.4, high), darker(wall, 0.75), light)
    _draw_windows(canvas, camera, house, rng, darker(wall, 0.8), light)
    _draw_shop(canvas, camera, house, rng, light)


def _upright(
    camera: Camera, start: tuple[float, float], end: tuple[float, float], low: float, high: float
) -> list[Point]:
    corners = [camera.pose_at(right, ahead, 0.0) for right, ahead in (start, end)]
    (a, b), (c, d) = ((pose.right, pose.ahead) for pose in corners)
    return [(a, b, low), (a, b, high), (c, d, high), (c, d, low)]


def _draw_windows(
    canvas: Canvas, camera: Camera, house: House, rng: np.random.Generator, frame: Color, light: float
) -> None:
    distance = house.near - camera.ahead
    if house.far - camera.ahead < 1.0:
        return
    bays = max(int((house.far - house.near) / rng.uniform(2.2, 4.0)), 1)
    width = (house.far - house.near) / bays
    style, glass = rng.integers(3), pick(rng, ((58, 66, 76), (84, 98, 110), (40, 44, 50)))
    lit = rng.random((house.storeys, bays)) < 0.35
    for storey in range(1, house.storeys):
        low = storey * STOREY + 1.0
        if style == 0 or distance > 55:  # a band of glass; far away, nobody can tell it from windows
            span = ((house.front, house.near + 0.4), (house.front, house.far - 0.4))
            canvas.face(_upright(camera, *span, low, low + 1.5), glass, light * 0.9)
            continue
        for bay in range(bays):
            start = house.near + bay * width
            span = ((house.front, start + 0.22 * width), (house.front, start + 0.78 * width))
            shine = canvas.weather.lamps and bool(lit[storey, bay])
            color: Color = (232, 198, 140) if shine else glass
            canvas.face(_upright(camera, *span, low, low + 1.6), color, light * 0.9, glow=0.6 * shine)
            if style == 1:
                canvas.face(_upright(camera, *span, low - 0.25, low), frame, light)


def _draw_shop(canvas: Canvas, camera: Camera, house: House, rng: np.random.Generator, light: float) -> None:
    glow = 0.65 if canvas.weather.lamps else 0.05
    start = house.near + 0.3
    while start < house.far - 2.5:
        stop = min(start + float(rng.uniform(3.0, 6.0)), house.far - 0.3)
        span = ((house.front, start), (house.front, stop))
        board, inside = pick(rng, LIVERIES), pick(rng, ((70, 66, 62), (120, 108, 92), (54, 60, 66)))
        canvas.face(_upright(camera, *span, 0.3, 2.5), inside, light * 0.8, glow=glow * 0.8)
        canvas.face(_upright(camera, *span, 2.6, 3.4), board, light, glow=glow * 0.5)
        door = ((house.front, start + 0.4), (house.front, start + 1.3))
        canvas.face(_upright(camera, *door, 0.0, 2.2), darker(inside, 0.6), light)
        start = stop + 0.25
