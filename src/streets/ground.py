"""The first layer of a picture: the sky, the far skyline, the road with its markings, the pavement."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from streets.camera import Camera
from streets.drive import HALF_LANE, LANE, Drive, Street
from streets.light import Weather

Floats = NDArray[np.float32]
ASPHALT, PAVEMENT, CURB, PAINT, JOINT = range(5)
ALBEDO = np.array([(106, 107, 109), (160, 155, 148), (182, 180, 174), (232, 232, 224), (134, 129, 124)], np.float32)


def smooth_noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> Floats:
    """Return noise of a size (height, width), with mean 0 and deviation about 1, that varies from cell to cell."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def paint_sky(camera: Camera, drive: Drive) -> Image.Image:
    """Return a picture with the sky down to the horizon, with clouds and a row of far houses."""
    weather, rng, size = drive.weather, drive.rng(1), (64, 96)
    level = np.linspace(0.0, 1.0, size[0], dtype=np.float32)[:, None, None]
    sky = np.array(weather.sky_top, np.float32) * (1 - level) + np.array(weather.sky_low, np.float32) * level
    field = smooth_noise(rng, (9, 4), size) + 0.5 * smooth_noise(rng, (22, 10), size)
    cover = np.clip(field * 0.6 + 2.2 * weather.clouds - 0.9, 0.0, 1.0)[:, :, None] * 0.7
    cloud = np.array(weather.sky_low, np.float32) * (1.0 + 0.12 * np.clip(field[::-1], -1, 1))[:, :, None]
    above = Image.fromarray(np.clip(sky * (1 - cover) + cloud * cover, 0, 255).astype(np.uint8))
    picture = Image.new("RGB", (camera.width, camera.height))
    picture.paste(above.resize((camera.width, max(round(camera.horizon) + 2, 1)), Image.Resampling.BILINEAR))
    _paint_skyline(picture, camera, weather, rng)
    return picture


def _paint_skyline(picture: Image.Image, camera: Camera, weather: Weather, rng: np.random.Generator) -> None:
    brush, x = ImageDraw.Draw(picture), -0.02
    while x < 1.02:
        width, height = rng.uniform(0.03, 0.09), rng.uniform(0.03, 0.15)
        ink = weather.ink((120, 122, 126), weather.brightness((0, -1, 0)), rng.uniform(110, 220))
        box = (
            x * camera.width,
            camera.horizon - height * camera.height,
            (x + width) * camera.width,
            camera.horizon + 2,
        )
        brush.rectangle(box, fill=ink)
        x += width * rng.uniform(0.7, 1.2)


def paint_ground(picture: Image.Image, camera: Camera, drive: Drive) -> Floats:
    """Paint road and pavement over the lower part of the picture; return each row's distance in meters."""
    across, along, distance = _survey(camera)
    material = Image.fromarray(_materials(drive.street, across, along)).convert("P")
    weather, size = drive.weather, material.size
    light = weather.brightness((0, 0, 1)) + (0.6 * np.exp(-distance / 16.0) if weather.lamps else 0.0 * distance)
    peak = 1.15 * float(light.max())
    inks = ALBEDO * (0.72 if weather.wet else 1.0) * np.array(weather.tint, np.float32) * peak
    material.putpalette(np.clip(inks, 0, 255).astype(np.uint8).tobytes())
    relief = _grain(drive, across[::2, ::2], along[::2], distance[::2]) * (light[::2] / peak * 255)
    shade = Image.fromarray(np.clip(relief, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    ground = ImageChops.multiply(material.convert("RGB"), Image.merge("RGB", (shade, shade, shade)))
    clear = np.broadcast_to(255 * np.exp(-distance * weather.haze), across.shape).astype(np.uint8)
    fog = Image.new("RGB", size, tuple(int(level) for level in weather.sky_low))
    picture.paste(Image.composite(ground, fog, Image.fromarray(clear)), (0, camera.height - size[1]))
    return distance[:, 0]


def _survey(camera: Camera) -> tuple[Floats, Floats, Floats]:
    """Return, for the pixels below the horizon, their position across and along the street, and each row's distance."""
    top = max(round(camera.horizon) + 1, 0)
    rows = np.arange(top, camera.height, dtype=np.float32)[:, None] + 0.5 - camera.horizon
    columns = np.arange(camera.width, dtype=np.float32)[None] + 0.5 - camera.width / 2
    distance = camera.focal * camera.lens_height / rows
    across = columns * (distance / camera.focal) + (camera.right - camera.bend * distance**2)
    return across, distance + camera.ahead, distance


def _grain(drive: Drive, across: Floats, along: Floats, distance: Floats) -> Floats:
    """Return stains, patches and grit of the surface, as a factor of brightness."""
    rng, size = drive.rng(2), (513, 513)  # 20 m a side; its mirror images continue it without a seam
    stains = smooth_noise(rng, (40, 40), size) + 0.8 * smooth_noise(rng, (9, 9), size)
    tile = 1.0 + 0.05 * stains + 0.04 * rng.standard_normal(size, np.float32)
    column, row = (np.abs(((position * 25.6).astype(np.int32) & 1023) - 512) for position in (across, along))
    worn = 1.0 - 0.06 * np.exp(-(((np.abs((across + HALF_LANE) % LANE - HALF_LANE) - 0.8) / 0.35) ** 2))
    strength = np.clip(14.0 / distance, 0.15, 1.0)
    grain: Floats = (1.0 + (tile[row, column] - 1.0) * strength) * worn
    return grain


def _materials(street: Street, across: Floats, along: Floats) -> NDArray[np.uint8]:
    left, right = street.left, street.right
    road = (across > left) & (across < right)
    material = np.where(road, np.uint8(ASPHALT), np.uint8(PAVEMENT))
    joints = ((across % 0.8 < 0.05) | (along % 0.8 < 0.05)) & (along - along.min() < 25)
    material[~road & joints] = JOINT
    material[(np.abs(across - left) < 0.13) | (np.abs(across - right) < 0.13)] = CURB
    material[_markings(street, across, along)] = PAINT
    if street.crossing:
        _paint_crossing(material, street, across, along)
    return material


def _markings(street: Street, across: Floats, along: Floats) -> NDArray[np.bool_]:
    dash = along % 8.0 < 3.6
    lines = np.zeros(across.shape, bool)
    for lane in range(1 - street.lanes_left, street.lanes_right + 1):
        if lane != 0:
            lines |= (
                np.abs(across - (HALF_LANE if lane > 0 else -HALF_LANE) - LANE * (lane - (lane > 0))) < 0.075
            ) & dash
    center = np.abs(np.abs(across + HALF_LANE) - 0.14) < 0.06
    strips = np.abs(across - street.right + street.strip) < 0.07
    strips |= np.abs(across - street.left - street.strip) < 0.07
    marked: NDArray[np.bool_] = lines | center | strips
    return marked


def _paint_crossing(material: NDArray[np.uint8], street: Street, across: Floats, along: Floats) -> None:
    """Paint the side street, with a zebra crossing before it and the stop line before that."""
    assert street.crossing is not None
    start, stop = street.crossing
    open_road = np.broadcast_to((along > start) & (along < stop), material.shape)
    material[open_road] = ASPHALT
    road = (across > street.left + 0.2) & (across < street.right - 0.2)
    zebra = (along > start - 3.6) & (along < start - 0.6)
    material[road & (along > start - 4.8) & (along < start)] = ASPHALT
    material[road & zebra & (across % 1.0 < 0.5)] = PAINT
    material[(across > -HALF_LANE) & (across < street.right - street.strip) & (np.abs(along - start + 4.6) < 0.2)] = (
        PAINT
    )


def wetness(camera: Camera, drive: Drive, distance: Floats) -> Image.Image:
    """Return how much each canvas pixel mirrors the scene, an "L" image: puddles near, all of the road far away."""
    rng, top = drive.rng(3), camera.height - len(distance)
    puddles = np.clip(0.55 + 0.4 * smooth_noise(rng, (12, 7), (len(distance), camera.width)), 0.15, 1.0)
    grazing = np.clip(0.25 + distance / 45.0, 0.0, 0.8)[:, None]
    mask = np.zeros((camera.height, camera.width), np.uint8)
    mask[top:] = np.clip(255 * drive.weather.wet * puddles * grazing, 0, 255)
    return Image.fromarray(mask)
