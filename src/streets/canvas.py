"""The canvas of all painters: each stroke colours the picture and, if it is solid, the label map too.

Things are painted far to near, so that a nearer thing covers the picture and the label of what is behind it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageDraw

from streets.camera import NEAR, Camera, Pixel, Point, Pose, hull
from streets.classes import BACKGROUND
from streets.light import Colour, Ink, Weather

Lamp = tuple[Pixel, float, Ink]  # where, radius in canvas pixels, colour


class Canvas:
    """`picture` is an RGB image; `labels` is a 16-bit image of the same size, or None."""

    def __init__(
        self, camera: Camera, weather: Weather, picture: Image.Image, labels: Image.Image | None = None
    ) -> None:
        """Start with what is painted already, all of it background."""
        self.camera = camera
        self.weather = weather
        self.picture = picture
        self.lamps: list[Lamp] = []
        self._brush = ImageDraw.Draw(picture, "RGBA")
        self._marker = ImageDraw.Draw(labels) if labels is not None else None
        self._value = BACKGROUND
        self._group: int | None = None
        self._counts: Counter[int] = Counter()

    def begin(self, class_id: int) -> None:
        """Start a new object of the class; 0 is background. Within a group, it is one of the group."""
        if self._group is not None:
            return
        self._value = class_id * 1000 + self._counts[class_id] if class_id else BACKGROUND
        self._counts[class_id] += 1

    @contextmanager
    def group(self, value: int) -> Iterator[None]:
        """Within this block all objects have one value: a crowd that nobody would take apart."""
        self._group = self._value = value
        yield
        self._group = None

    def face(
        self,
        points: Sequence[Point],
        colour: Colour,
        brightness: float = 1.0,
        *,
        glow: float = 0.0,
        alpha: int = 255,
        solid: bool = True,
    ) -> None:
        """A flat polygon. A face that lies on another (a window) need not be solid."""
        outline = self.camera.outline(points)
        if outline:
            distance = sum(point[1] for point in points) / len(points)
            self._fill(outline, self.weather.ink(colour, brightness, distance, glow), alpha, solid)

    def shell(self, points: Sequence[Point], colour: Colour, brightness: float = 1.0) -> None:
        """The silhouette of a convex body, given by its corners."""
        if min(point[1] for point in points) > NEAR:
            outline = hull([self.camera.pixel(point) for point in points])
            self._fill(outline, self.weather.ink(colour, brightness, points[0][1]), 255, True)

    def limb(
        self, start: Point, end: Point, thick: float, thin: float, colour: Colour, brightness: float = 1.0
    ) -> None:
        """A rounded, tapering rod with the radii `thick` at its start and `thin` at its end."""
        if min(start[1], end[1]) < NEAR:
            return
        ink = self.weather.ink(colour, brightness, start[1])
        (ax, ay), (bx, by) = self.camera.pixel(start), self.camera.pixel(end)
        wide, narrow = self.camera.focal * thick / start[1], self.camera.focal * thin / end[1]
        if wide < 1.0:  # too thin to show its rounded ends
            self._line(((ax, ay), (bx, by)), ink)
            return
        length = max(((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5, 1e-6)
        nx, ny = (ay - by) / length, (bx - ax) / length
        sides = [
            (ax + nx * wide, ay + ny * wide),
            (bx + nx * narrow, by + ny * narrow),
            (bx - nx * narrow, by - ny * narrow),
            (ax - nx * wide, ay - ny * wide),
        ]
        self._fill(sides, ink, 255, True)
        self._disc((ax, ay), wide, ink)
        self._disc((bx, by), narrow, ink)

    def ball(self, centre: Point, radius: float, colour: Colour, brightness: float = 1.0) -> None:
        """A ball; the lower half of it is not shaded."""
        if centre[1] > NEAR:
            ink = self.weather.ink(colour, brightness, centre[1])
            self._disc(self.camera.pixel(centre), self.camera.focal * radius / centre[1], ink)

    def lamp(self, centre: Point, radius: float, colour: Colour) -> None:
        """A light source; it glows if the lamps of the drive are on. It is a stroke, not a solid."""
        if centre[1] < NEAR:
            return
        glow = 0.95 if self.weather.lamps else 0.25
        ink = self.weather.ink(colour, 1.0, centre[1], glow)
        pixel, size = self.camera.pixel(centre), max(self.camera.focal * radius / centre[1], 0.6)
        self._disc(pixel, size, ink, solid=False)
        if self.weather.lamps:
            self.lamps.append((pixel, size, ink))

    def beside(self, pose: Pose) -> Point:
        """The camera as seen by a body: (forward, side, up)."""
        return pose.viewer(-self.camera.lift if self.camera.mirrored else self.camera.lift)

    def _fill(self, outline: list[Pixel], ink: Ink, alpha: int, solid: bool) -> None:
        if len(outline) < 3:
            return
        if not solid and max(x for x, _ in outline) - min(x for x, _ in outline) < 0.8:
            return  # a detail that nobody sees
        self._brush.polygon(outline, fill=(*ink, alpha))
        if solid and self._marker is not None:
            self._marker.polygon(outline, fill=self._value)

    def _line(self, ends: tuple[Pixel, Pixel], ink: Ink) -> None:
        self._brush.line(ends, fill=ink, width=1)
        if self._marker is not None:
            self._marker.line(ends, fill=self._value, width=1)

    def _disc(self, centre: Pixel, radius: float, ink: Ink, solid: bool = True) -> None:
        x, y = centre
        box = (x - radius, y - radius, x + radius, y + radius)
        self._brush.ellipse(box, fill=ink)
        if solid and self._marker is not None:
            self._marker.ellipse(box, fill=self._value)


Painter = Callable[[Canvas, Pose, np.random.Generator, float], None]  # (canvas, where, its luck, seconds)
