"""One frame: the scene in layers, then the lens, then the label map. It depends on its numbers alone."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from streets.buildings import House, draw_house
from streets.camera import Camera, hull
from streets.canvas import Canvas
from streets.classes import EGO
from streets.drive import Drive
from streets.ground import paint_ground, paint_sky, wetness
from streets.lens import photograph
from streets.traffic import VIEW_DISTANCE, SceneObject, visible_objects

SMOOTH_UP_TO = 1_500_000  # pixels; larger pictures are drawn at their own size, smaller ones at twice that

REFLECTED = 35.0  # meters; a wet road smears the images of farther objects beyond recognition


@dataclass(frozen=True)
class Frame:
    """A rendered frame: `image` is uint8 (height, width, 3); `label` is uint16 (height, width)."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint16]


def render(drive: Drive, number: int, height: int, width: int) -> Frame:
    """Return a frame of a drive: the same arguments give the same pixels, whatever was rendered before."""
    time, supersampling = number * drive.interval, 2 if height * width <= SMOOTH_UP_TO else 1
    camera = drive.camera(time, height * supersampling, width * supersampling)
    visible = visible_objects(drive, camera, time, shrink=supersampling)
    picture = paint_sky(camera, drive)
    distance = paint_ground(picture, camera, drive)
    picture = _cast_shadows(picture, camera, drive, visible)
    if drive.weather.wet:
        mirrored = _mirror_image(camera, drive, visible, time)
        picture = Image.composite(mirrored, picture, wetness(camera, drive, distance))
    labels = Image.new("I;16", picture.size)
    canvas = Canvas(camera, drive.weather, picture, labels)
    _paint_scene(canvas, drive, visible, time)
    if drive.hood:
        _paint_hood(picture, labels, drive)
    image = photograph(picture, canvas.lamps, drive, drive.rng(4, number), supersampling)
    return Frame(image, _downsample_labels(np.asarray(labels), supersampling))


def _paint_scene(canvas: Canvas, drive: Drive, visible: list[SceneObject], time: float) -> None:
    for side in (-1, 1):
        for house, key in reversed(_houses(canvas.camera, drive, side)):
            draw_house(canvas, canvas.camera, house, drive.rng(*key))
    for thing in visible:
        thing.kind.paint(canvas, thing.pose, drive.rng(*thing.key), time)


def _houses(camera: Camera, drive: Drive, side: int) -> list[tuple[House, tuple[int, ...]]]:
    """Return the houses of one side, near to far. Blocks are 18 m long; some are gaps with a view of the sky."""
    street = drive.street
    houses: list[tuple[House, tuple[int, ...]]] = []
    curb = street.right + street.pavement if side > 0 else street.left - street.pavement
    for block in range(int(camera.ahead // 18) - 1, int((camera.ahead + VIEW_DISTANCE * 1.4) // 18) + 1):
        key = (6, side + 1, block + 2**24)
        rng = drive.rng(*key)
        near, far = block * 18.0 + rng.uniform(0.0, 1.5), (block + 1) * 18.0 - rng.uniform(0.0, 1.5)
        if street.crossing:
            near, far = _outside(near, far, street.crossing)
        if far - near > 3.0 and rng.random() < 0.85:
            setback = float(rng.uniform(0.0, 2.5)) * side
            houses.append((House(curb + setback, near, far, int(rng.integers(2, 8))), (*key, 1)))
    return houses


def _outside(near: float, far: float, gap: tuple[float, float]) -> tuple[float, float]:
    """Return the part of a stretch that a side street leaves."""
    if near < gap[0] - 4.0:
        return near, min(far, gap[0] - 4.0)
    return max(near, gap[1] + 4.0), far


def _cast_shadows(picture: Image.Image, camera: Camera, drive: Drive, visible: list[SceneObject]) -> Image.Image:
    """Darken the ground under objects, and behind them as seen from the sun."""
    coarse = camera.scaled(0.25)
    mask = Image.new("L", (coarse.width, coarse.height))
    sun = drive.weather.sun
    if drive.weather.direct > 0.2:
        for thing in visible:
            far = thing.kind.height / sun[2]
            _shade(mask, coarse, thing, (-sun[0] * far, -sun[1] * far), 124)
    for thing in visible:
        _shade(mask, coarse, thing, (0.0, 0.0), 165)
    mask = mask.filter(ImageFilter.GaussianBlur(coarse.width / 420))
    black = Image.new("RGB", picture.size, (14, 15, 18))
    return Image.composite(black, picture, mask.resize(picture.size, Image.Resampling.BILINEAR))


def _shade(mask: Image.Image, camera: Camera, thing: SceneObject, reach: tuple[float, float], depth: int) -> None:
    long, wide = thing.kind.length / 2, thing.kind.width / 2
    if thing.kind.height > 4 and reach == (0.0, 0.0):
        long = wide = 0.3  # under a tree or a mast there is only its foot
    foot = [thing.pose.point(x, y, 0.0)[:2] for x, y in ((-long, -wide), (long, -wide), (long, wide), (-long, wide))]
    shape = hull([*foot, *((x + reach[0], y + reach[1]) for x, y in foot)])
    outline = camera.outline([(x, y, 0.0) for x, y in shape])
    if outline:
        ImageDraw.Draw(mask).polygon(outline, fill=depth)


def _mirror_image(camera: Camera, drive: Drive, visible: list[SceneObject], time: float) -> Image.Image:
    """Return the scene upside down, as water on the road shows it, smeared downwards."""
    coarse = replace(camera.scaled(0.25), mirrored=True)
    upright = paint_sky(replace(coarse, horizon=coarse.height - coarse.horizon), drive)
    canvas = Canvas(coarse, drive.weather, upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    _paint_scene(canvas, drive, [thing for thing in visible if thing.pose.ahead < REFLECTED], time)
    smear = coarse.height / 60
    return canvas.picture.filter(ImageFilter.GaussianBlur((smear / 4, smear))).resize(
        (camera.width, camera.height), Image.Resampling.BILINEAR
    )


def _paint_hood(picture: Image.Image, labels: Image.Image, drive: Drive) -> None:
    width, height = picture.size
    rng = drive.rng(5)
    rise, tone = float(rng.uniform(0.03, 0.07)), float(rng.uniform(30, 170))
    box = (-0.25 * width, (1 - rise) * height, 1.25 * width, (1 + 4 * rise) * height)
    ink = drive.weather.ink((tone, tone, tone), drive.weather.brightness((0, 0, 1)), 0.0)
    ImageDraw.Draw(picture).ellipse(box, fill=ink)
    ImageDraw.Draw(labels).ellipse(box, fill=EGO)


def _downsample_labels(labels: NDArray[np.uint16], supersampling: int) -> NDArray[np.uint16]:
    """Return the most frequent of the four values under each pixel, so that labels meet the picture's smooth edges."""
    if supersampling == 1:
        return labels
    a, b, c, d = (labels[i::2, j::2] for i in (0, 1) for j in (0, 1))
    first = (a == b) | (a == c) | (a == d)
    return np.where(first, a, np.where((b == c) | (b == d), b, np.where(c == d, c, a)))
