"""Bodies that are a side view, extruded sideways: vehicles, boxes, roofs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streets.camera import Point, Pose
from streets.canvas import Canvas
from streets.light import Color

GLASS: Color = (42, 52, 62)
RUBBER: Color = (28, 28, 30)
Outline = Sequence[tuple[float, float]]  # (forward, up) of a side view


@dataclass(frozen=True)
class Loft:
    """`profile` runs from the lower rear over the roof to the lower front. The body is `half` wide on each
    side up to the height `belt`, from where it narrows to `half * roof` at its top."""

    profile: Outline
    half: float
    belt: float = 99.0
    roof: float = 1.0

    @property
    def rear(self) -> float:
        """The forward coordinate of the rear end (negative)."""
        return min(forward for forward, _ in self.profile)

    @property
    def front(self) -> float:
        """The forward coordinate of the front end."""
        return max(forward for forward, _ in self.profile)

    @property
    def top(self) -> float:
        """The height of the roof."""
        return max(up for _, up in self.profile)

    def width(self, up: float) -> float:
        """Return half the width at a height."""
        if up <= self.belt:
            return self.half
        return self.half * (1.0 - (1.0 - self.roof) * (up - self.belt) / (self.top - self.belt))


def box(rear: float, front: float, half: float, low: float, high: float) -> Loft:
    """Return a plain box."""
    return Loft(((rear, low), (rear, high), (front, high), (front, low)), half)


def visible_side(canvas: Canvas, pose: Pose) -> int:
    """Return which flank of a body faces the camera: +1 its right, -1 its left."""
    return 1 if canvas.viewpoint(pose)[1] > 0 else -1


def draw_loft(canvas: Canvas, pose: Pose, body: Loft, color: Color) -> None:
    """Draw the body, its far faces first and the flank last."""
    viewpoint = canvas.viewpoint(pose)
    edges = list(zip(body.profile[:-1], body.profile[1:], strict=True))
    edges.sort(key=lambda edge: -abs(edge[0][0] + edge[1][0] - 2 * viewpoint[0]))
    for edge in edges:
        _draw_strip(canvas, pose, body, edge, color, viewpoint)
    side = visible_side(canvas, pose)
    if abs(viewpoint[1]) > body.half:
        draw_flank(canvas, pose, body, side, body.profile, color, solid=True)


def _draw_strip(
    canvas: Canvas,
    pose: Pose,
    body: Loft,
    edge: tuple[tuple[float, float], tuple[float, float]],
    color: Color,
    viewpoint: Point,
) -> None:
    (start, low), (end, high) = edge
    length = math.hypot(end - start, high - low)
    along, upward = (low - high) / length, (end - start) / length
    if along * (viewpoint[0] - start) + upward * (viewpoint[2] - low) > 0:
        canvas.face(
            strip(pose, body, edge, 1.0, 0.0, 1.0),
            color,
            canvas.weather.brightness(pose.turn(along, 0.0, upward)),
        )


def strip(
    pose: Pose,
    body: Loft,
    edge: tuple[tuple[float, float], tuple[float, float]],
    share: float,
    begin: float,
    stop: float,
) -> list[Point]:
    """Return a part of the strip that a profile edge sweeps: `share` of its width, `begin` to `stop` of its length."""
    (start, low), (end, high) = edge
    ends = [(start + (end - start) * t, low + (high - low) * t) for t in (begin, stop)]
    left = [pose.point(forward, -share * body.width(up), up) for forward, up in ends]
    right = [pose.point(forward, share * body.width(up), up) for forward, up in reversed(ends)]
    return left + right


def draw_flank(
    canvas: Canvas,
    pose: Pose,
    body: Loft,
    side: int,
    outline: Outline,
    color: Color,
    *,
    dim: float = 1.0,
    glow: float = 0.0,
    solid: bool = False,
) -> None:
    """Draw a shape on the flank of a body: the flank itself, a window, a door."""
    points = [pose.point(forward, side * body.width(up), up) for forward, up in outline]
    canvas.face(points, color, dim * flank_light(canvas, pose, side), glow=glow, solid=solid)


def flank_light(canvas: Canvas, pose: Pose, side: int) -> float:
    """Return the brightness of an upright flank."""
    return canvas.weather.brightness(pose.turn(0.0, float(side), 0.0))


def draw_pane(
    canvas: Canvas,
    pose: Pose,
    body: Loft,
    edge: int,
    color: Color,
    *,
    share: float = 0.86,
    begin: float = 0.1,
    stop: float = 0.92,
    glow: float = 0.0,
) -> None:
    """Draw a pane in one strip of the body, such as the windshield, if it faces the camera."""
    ends = (body.profile[edge], body.profile[edge + 1])
    (start, low), (end, high) = ends
    viewpoint = canvas.viewpoint(pose)
    if (low - high) * (viewpoint[0] - start) + (end - start) * (viewpoint[2] - low) > 0:
        canvas.face(strip(pose, body, ends, share, begin, stop), color, 0.9, glow=glow, solid=False)


def draw_panel(
    canvas: Canvas,
    pose: Pose,
    end: float,
    sides: tuple[float, float],
    heights: tuple[float, float],
    color: Color,
    *,
    glow: float = 0.0,
) -> None:
    """Draw a rectangle on the front (`end` > 0) or the rear of a body, if that end faces the camera."""
    ahead = canvas.viewpoint(pose)[0]
    if (ahead > end) if end > 0 else (ahead < end):
        (left, right), (low, high) = sides, heights
        corners = ((left, low), (left, high), (right, high), (right, low))
        points = [pose.point(end, side, up) for side, up in corners]
        canvas.face(
            points,
            color,
            canvas.weather.brightness(pose.turn(1.0 if end > 0 else -1.0, 0, 0)),
            glow=glow,
            solid=False,
        )


def draw_pair(
    canvas: Canvas,
    pose: Pose,
    end: float,
    sides: tuple[float, float],
    heights: tuple[float, float],
    color: Color,
    *,
    glow: float = 0.0,
) -> None:
    """Draw two equal panels left and right, such as lights."""
    draw_panel(canvas, pose, end, sides, heights, color, glow=glow)
    draw_panel(canvas, pose, end, (-sides[1], -sides[0]), heights, color, glow=glow)


def ring(pose: Pose, forward: float, side: float, radius: float) -> list[Point]:
    """Return the rim of a wheel that stands on the ground; far wheels have fewer corners."""
    corners = 14 if pose.ahead < 16 else 8 if pose.ahead < 35 else 5
    turns = [2 * math.pi * corner / corners for corner in range(corners)]
    return [pose.point(forward + radius * math.cos(t), side, radius + radius * math.sin(t)) for t in turns]


def draw_tire(canvas: Canvas, pose: Pose, forward: float, side: float, radius: float, thick: float) -> None:
    """Draw a whole wheel with its tread, seen from any side; `side` is its outer face."""
    inner = side - math.copysign(thick, side)
    canvas.shell(ring(pose, forward, side, radius) + ring(pose, forward, inner, radius), RUBBER, 0.7)


def draw_hubs(canvas: Canvas, pose: Pose, axles: Sequence[float], side: float, radius: float, color: Color) -> None:
    """Draw the wheels on the visible flank: a dark arch, the tire, the rim."""
    light = flank_light(canvas, pose, 1 if side > 0 else -1)
    for axle in axles:
        arch = [(x, y, z * 1.06) for x, y, z in ring(pose, axle, side, radius * 1.12)]
        canvas.face(arch, (20, 20, 22), 0.6, solid=False)
        canvas.face(ring(pose, axle, side, radius), RUBBER, 0.8)
        rim = [
            pose.point(axle + radius * 0.62 * math.cos(t), side, radius + radius * 0.62 * math.sin(t))
            for t in (math.pi * corner / 5 for corner in range(10))
        ]
        canvas.face(rim, color, light, solid=False)
