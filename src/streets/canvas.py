"""The canvas of all painters: a stroke colors the picture and, if it is solid, the label map too.

Objects are painted far to near, so that a nearer one covers the picture and the label of those behind it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageDraw

from streets.camera import NEAR, Camera, Pixel, Point, Pose, hull
from streets.classes import BACKGROUND
from streets.light import Color, Ink, Weather

Lamp = tuple[Pixel, float, Ink]  # where, radius in canvas pixels, color


class Canvas:
    """A picture and its label map.

    `picture` is an RGB image; `labels` is a 16-bit image of the same size, or None.
    """

    def __init__(
        self, camera: Camera, weather: Weather, picture: Image.Image, labels: Image.Image | None = None
    ) -> None:
        """Start with a picture that is all background."""
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
        """Give all objects within this block one value: a crowd that nobody would take apart."""
        self._group = self._value = value
        yield
        self._group = None

    def face(
        self,
        points: Sequence[Point],
        color: Color,
        brightness: float = 1.0,
        *,
        glow: float = 0.0,
        alpha: int = 255,
        solid: bool = True,
    ) -> None:
        """Draw a flat polygon. A face that lies on another, such as a window, need not be solid."""
        outline = self.camera.outline(points)
        if outline:
            distance = sum(point[1] for point in points) / len(points)
            self._fill(outline, self.weather.ink(color, brightness, distance, glow), alpha, solid)

    def shell(self, points: Sequence[Point], color: Color, brightness: float = 1.0) -> None:
        """Draw the silhouette of a convex body, given by its corners."""
        if min(point[1] for point in points) > NEAR:
            outline = hull([self.camera.pixel(point) for point in points])
            self._fill(outline, self.weather.ink(color, brightness, points[0][1]), 255, True)

    def limb(self, start: Point, end: Point, thick: float, thin: float, color: Color, brightness: float = 1.0) -> None:
        """Draw a rounded, tapering rod with the radii `thick` at its start and `thin` at its end."""
        if min(start[1], end[1]) < NEAR:
            return
        ink = self.weather.ink(color, brightness, start[1])
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

    def ball(self, center: Point, radius: float, color: Color, brightness: float = 1.0) -> None:
        """Draw a ball; its lower half is not shaded."""
        if center[1] > NEAR:
            ink = self.weather.ink(color, brightness, center[1])
            self._disc(self.camera.pixel(center), self.camera.focal * radius / center[1], ink)

    def lamp(self, center: Point, radius: float, color: Color) -> None:
        """Draw a light source, which is not solid; it glows if the lamps of the drive are on."""
        if center[1] < NEAR:
            return
        glow = 0.95 if self.weather.lamps else 0.25
        ink = self.weather.ink(color, 1.0, center[1], glow)
        pixel, size = self.camera.pixel(center), max(self.camera.focal * radius / center[1], 0.6)
        self._disc(pixel, size, ink, solid=False)
        if self.weather.lamps:
            self.lamps.append((pixel, size, ink))

    def viewpoint(self, pose: Pose) -> Point:
        """Return the camera as seen from a body: (forward, side, up)."""
        return pose.viewpoint(-self.camera.lens_height if self.camera.mirrored else self.camera.lens_height)

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

    def _disc(self, center: Pixel, radius: float, ink: Ink, solid: bool = True) -> None:
        x, y = center
        box = (x - radius, y - radius, x + radius, y + radius)
        self._brush.ellipse(box, fill=ink)
        if solid and self._marker is not None:
            self._marker.ellipse(box, fill=self._value)


Painter = Callable[[Canvas, Pose, np.random.Generator, float], None]  # (canvas, pose, random numbers, seconds)
