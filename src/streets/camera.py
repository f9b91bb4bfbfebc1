"""A pinhole camera above a flat, gently bending street, and the poses of objects in front of it.

All lengths are meters. A point is (right, ahead, up), measured from the road below the camera.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

Point = tuple[float, float, float]
Pixel = tuple[float, float]

NEAR = 0.6  # anything closer to the lens than this is cut off


@dataclass(frozen=True)
class Pose:
    """The position of an object, seen from the camera, and its heading (0 = our way, clockwise from above)."""

    right: float
    ahead: float
    heading: float

    @cached_property
    def axis(self) -> tuple[float, float]:
        """The sine and cosine of the heading."""
        return math.sin(self.heading), math.cos(self.heading)

    def point(self, forward: float, side: float, up: float) -> Point:
        """Return a point of the body: `forward` of the center, `side` to the right, `up` from the ground."""
        sine, cosine = self.axis
        return (
            self.right + forward * sine + side * cosine,
            self.ahead + forward * cosine - side * sine,
            up,
        )

    def turn(self, forward: float, side: float, up: float) -> Point:
        """Return the street direction of a body direction."""
        sine, cosine = self.axis
        return forward * sine + side * cosine, forward * cosine - side * sine, up

    def viewpoint(self, lens_height: float) -> Point:
        """Return the camera, `lens_height` above the ground, as (forward, side, up) of the body."""
        sine, cosine = self.axis
        return (
            -self.right * sine - self.ahead * cosine,
            -self.right * cosine + self.ahead * sine,
            lens_height,
        )

    def moved(self, forward: float, side: float, turn: float = 0.0) -> "Pose":
        """Return a pose beside this one, for the members of a group."""
        right, ahead, _ = self.point(forward, side, 0.0)
        return Pose(right, ahead, self.heading + turn)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera.

    `focal` and `horizon` are canvas pixels, `lens_height` is in meters, `right` and `ahead` are the position in the
    street, and `bend` is the curvature of the street. A mirrored camera sees the reflection in a wet road.
    """

    width: int
    height: int
    focal: float
    horizon: float
    lens_height: float
    right: float
    ahead: float
    bend: float
    mirrored: bool = False

    def scaled(self, factor: float) -> "Camera":
        """Return the same camera for a canvas `factor` times the size."""
        return replace(
            self,
            width=round(self.width * factor),
            height=round(self.height * factor),
            focal=self.focal * factor,
            horizon=self.horizon * factor,
        )

    def pose_at(self, right: float, ahead: float, heading: float) -> Pose:
        """Return the pose, seen from the camera, of an object at a position of the straight street."""
        distance = ahead - self.ahead
        sway = self.bend * distance * abs(distance)
        return Pose(
            right - self.right + sway,
            distance,
            heading + math.atan(2.0 * self.bend * max(distance, 0.0)),
        )

    def pixel(self, point: Point) -> Pixel:
        """The canvas pixel of a point beyond the near plane."""
        right, ahead, up = point
        scale = self.focal / ahead
        height = self.lens_height + up if self.mirrored else self.lens_height - up
        return self.width / 2 + right * scale, self.horizon + height * scale

    def outline(self, points: Sequence[Point]) -> list[Pixel]:
        """Return the polygon of the points on the canvas, cut at the near plane; empty if it is out of view."""
        if min(point[1] for point in points) < NEAR:
            points = cut_near(points)
        pixels = [self.pixel(point) for point in points]
        return pixels if self._in_sight(pixels) else []

    def _in_sight(self, pixels: list[Pixel]) -> bool:
        if len(pixels) < 3:
            return False
        across, down = [pixel[0] for pixel in pixels], [pixel[1] for pixel in pixels]
        return max(across) > 0 and min(across) < self.width and max(down) > 0 and min(down) < self.height


def cut_near(points: Sequence[Point]) -> list[Point]:
    """Return the part of a polygon beyond the near plane."""
    clipped: list[Point] = []
    for start, end in zip(points, [*points[1:], points[0]], strict=True):
        if start[1] >= NEAR:
            clipped.append(start)
        if (start[1] >= NEAR) != (end[1] >= NEAR):
            share = (NEAR - start[1]) / (end[1] - start[1])
            clipped.append((start[0] + share * (end[0] - start[0]), NEAR, start[2] + share * (end[2] - start[2])))
    return clipped


def hull(pixels: Sequence[Pixel]) -> list[Pixel]:
    """The convex hull of points of a plane."""
    ordered = sorted(set(pixels))
    if len(ordered) < 3:
        return ordered
    return _chain(ordered)[:-1] + _chain(ordered[::-1])[:-1]


def _chain(ordered: Sequence[Pixel]) -> list[Pixel]:
    chain: list[Pixel] = []
    for x, y in ordered:
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2], chain[-1]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain
