"""The weather and the light of a drive, and how they color a surface."""

import math
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from streets.camera import Point

Color = tuple[float, float, float]
Ink = tuple[int, int, int]


@dataclass(frozen=True)
class Weather:
    """The effect of the sky on the picture. Colors are 0-255; `haze` is the fog density per meter."""

    sky_top: Color
    sky_low: Color
    clouds: float  # share of the sky, 0-1
    ambient: float
    direct: float  # light that has a direction and throws shadows
    _: KW_ONLY
    tint: Color  # factors per channel
    haze: float
    wet: float = 0.0  # how much of the sky the road reflects, 0-1
    lamps: bool = False
    exposure: float = 1.0
    noise: float = 2.5  # standard deviation of the sensor noise, in levels
    blur: float = 0.4  # defocus, in pixels of a picture 500 wide
    sun: Point = (0.5, 0.5, 0.7)  # unit vector towards the sun

    def brightness(self, normal: Point) -> float:
        """Return the light that falls on a surface with this outward normal."""
        facing = sum(a * b for a, b in zip(normal, self.sun, strict=True))
        overhead = 0.85 + 0.15 * normal[2]  # the sky lights horizontal surfaces more than upright ones
        return self.ambient * overhead + self.direct * max(facing, 0.0)

    def ink(self, color: Color, brightness: float, distance: float, glow: float = 0.0) -> Ink:
        """Return the visible color of a surface; `glow` (0-1) is the share that it emits itself."""
        headlights = 0.6 * math.exp(-distance / 16.0) if self.lamps else 0.0
        clear = math.exp(-max(distance, 0.0) * self.haze * (1.0 - 0.6 * glow))
        lit, own = brightness * (1.0 - glow) * clear, (glow + (1.0 - glow) * headlights) * clear
        (red, green, blue), (r, g, b), (x, y, z) = color, self.tint, self.sky_low
        return (
            min(int(red * (own + lit * r) + x * (1.0 - clear)), 255),
            min(int(green * (own + lit * g) + y * (1.0 - clear)), 255),
            min(int(blue * (own + lit * b) + z * (1.0 - clear)), 255),
        )


WEATHERS: dict[str, Weather] = {
    "clear": Weather(
        (84, 134, 200), (196, 214, 228), 0.35, 0.62, 0.66, tint=(1.03, 1.0, 0.94), haze=0.0022, exposure=1.05, blur=0.3
    ),
    "overcast": Weather((168, 175, 184), (205, 208, 210), 0.8, 0.86, 0.06, tint=(0.97, 1.0, 1.04), haze=0.005),
    "rain": Weather(
        (126, 134, 144),
        (168, 174, 180),
        0.7,
        0.76,
        0.03,
        tint=(0.93, 0.98, 1.05),
        haze=0.009,
        wet=0.75,
        noise=3.5,
        blur=0.8,
    ),
    "fog": Weather((196, 199, 201), (203, 205, 206), 0.1, 0.84, 0.02, tint=(0.99, 1.0, 1.01), haze=0.026, blur=0.6),
    "night": Weather(
        (14, 17, 30),
        (46, 42, 48),
        0.3,
        0.27,
        0.06,
        tint=(1.0, 0.94, 0.9),
        haze=0.004,
        wet=0.3,
        lamps=True,
        exposure=1.1,
        noise=6.0,
        blur=0.6,
    ),
    "dusk": Weather(
        (92, 96, 140), (226, 172, 136), 0.5, 0.5, 0.28, tint=(1.06, 0.95, 0.92), haze=0.006, lamps=True, noise=4.0
    ),
}


def sample_weather(name: str, rng: np.random.Generator) -> Weather:
    """Return a day of the named weather: the position of the sun, the haze, the exposure of the camera."""
    mean = WEATHERS[name]
    around, height = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 0.95)
    sun = (math.sin(around) * math.cos(height), math.cos(around) * math.cos(height), math.sin(height))
    warm = rng.normal(0.0, 0.03)
    return replace(
        mean,
        sun=sun,
        haze=mean.haze * rng.uniform(0.6, 1.3),
        exposure=mean.exposure * rng.uniform(0.85, 1.15),
        noise=mean.noise * rng.uniform(0.7, 1.6),
        blur=mean.blur * rng.uniform(0.6, 1.8),
        tint=(mean.tint[0] + warm, mean.tint[1], mean.tint[2] - warm),
    )
