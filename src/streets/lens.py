"""The effects of lens, sensor and weather: glare, rain, blur, vignette, exposure, noise."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from streets.canvas import Lamp
from streets.drive import Drive

BAND = 256  # rows of noise at a time, so that a large picture needs little memory


def photograph(
    picture: Image.Image, lamps: list[Lamp], drive: Drive, rng: np.random.Generator, supersampling: int
) -> NDArray[np.uint8]:
    """Return the picture of the camera, `supersampling` times smaller than the canvas: uint8 (height, width, 3)."""
    lit = [lamp for lamp in lamps if _shows(picture, lamp)]
    picture = picture.reduce(supersampling) if supersampling > 1 else picture
    unit = picture.width / 500
    if lit:
        picture = ImageChops.add(picture, _glare(picture.size, lit, supersampling))
    if drive.weather.wet > 0.5:
        _draw_rain(picture, rng, unit)
    shake = drive.motion * float(rng.uniform(0.3, 1.0)) * unit
    picture = picture.filter(ImageFilter.BoxBlur((shake, shake * 0.3)))
    picture = picture.filter(ImageFilter.GaussianBlur(drive.weather.blur * unit))
    return _expose(np.asarray(picture), drive, rng)


def _shows(picture: Image.Image, lamp: Lamp) -> bool:
    """Return whether nothing has been painted over the lamp."""
    (x, y), _, ink = lamp
    column, row = int(x), int(y)
    return 0 <= column < picture.width and 0 <= row < picture.height and picture.getpixel((column, row)) == ink


def _glare(size: tuple[int, int], lamps: list[Lamp], supersampling: int) -> Image.Image:
    shrink = 4
    glare = Image.new("RGB", (max(size[0] // shrink, 1), max(size[1] // shrink, 1)))
    brush = ImageDraw.Draw(glare)
    for (x, y), radius, ink in lamps:
        x, y, radius = (
            x / supersampling / shrink,
            y / supersampling / shrink,
            2.2 * radius / supersampling / shrink + 0.4,
        )
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    near, far = (glare.filter(ImageFilter.GaussianBlur(share * glare.width)) for share in (0.012, 0.04))
    return ImageChops.add(near, far).resize(size, Image.Resampling.BILINEAR)


def _draw_rain(picture: Image.Image, rng: np.random.Generator, unit: float) -> None:
    brush, slant = ImageDraw.Draw(picture, "RGBA"), float(rng.uniform(-0.25, 0.25))
    for x, y, length in rng.random((170, 3)).tolist():
        x, y, fall = x * picture.width, y * picture.height, (6 + 22 * length) * unit
        brush.line((x, y, x + slant * fall, y + fall), fill=(214, 220, 226, 46), width=max(round(unit), 1))


def _expose(picture: NDArray[np.uint8], drive: Drive, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply exposure with a soft shoulder, dark corners, and noise that grows with the light."""
    height, width, _ = picture.shape
    gain = drive.weather.exposure * float(rng.uniform(0.95, 1.05))
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] ** 2
    out = np.empty_like(picture)
    for top in range(0, height, BAND):
        rows = picture[top : top + BAND].astype(np.float32)
        down = (np.arange(top, top + len(rows), dtype=np.float32) / height * 2 - 1)[:, None, None] ** 2
        light = rows * (gain * (1.0 - 0.12 * (across + down)))
        grain = rng.standard_normal(rows.shape, np.float32)
        light += grain * (drive.weather.noise * (0.7 + 0.002 * rows))
        out[top : top + BAND] = np.clip(light, 0, 255)
    return out
