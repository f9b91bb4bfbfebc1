"""Colors that vehicles, street furniture and house fronts share, and the lamps that vehicles share."""

import numpy as np

from streets.camera import Pose
from streets.canvas import Canvas
from streets.light import Color

PAINTS: tuple[Color, ...] = (
    (236, 236, 234), (225, 227, 230), (186, 190, 194), (120, 124, 128), (92, 95, 100), (40, 41, 45),
    (24, 25, 28), (58, 74, 104), (40, 62, 116), (128, 34, 36), (168, 44, 40), (150, 128, 98),
    (96, 84, 70), (70, 92, 84), (196, 172, 76), (88, 56, 50),
)  # fmt: skip
LIVERIES: tuple[Color, ...] = (
    (206, 200, 188), (48, 108, 82), (52, 92, 148), (186, 60, 48), (214, 158, 54), (150, 156, 160),
    (92, 116, 72), (228, 230, 228), (110, 70, 62),
)  # fmt: skip
REAR_LAMP: Color = (196, 26, 30)
HEADLAMP: Color = (250, 246, 226)
PLATE: Color = (52, 82, 170)
TRIM: Color = (34, 35, 38)


def pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    """Return one of the colors, slightly varied."""
    red, green, blue = colors[int(rng.integers(len(colors)))]
    drift = rng.normal(0.0, 7.0)
    return red + drift, green + drift, blue + drift


def darker(color: Color, factor: float) -> Color:
    """Return the color, with each channel times the factor."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def draw_end_lamps(
    canvas: Canvas, pose: Pose, rear: float, front: float, side: float, heights: tuple[float, float]
) -> None:
    """Draw the shining lamps of a vehicle in the dark: red behind, white in front."""
    if not canvas.weather.lamps:
        return
    ahead = canvas.viewpoint(pose)[0]
    for lateral in (-side, side):
        if ahead < rear:
            canvas.lamp(pose.point(rear, lateral, heights[0]), 0.06, (255, 40, 36))
        elif ahead > front:
            canvas.lamp(pose.point(front, lateral, heights[1]), 0.09, (255, 250, 226))
