"""The constants of a drive: the street, the weather, the camera mount, the frequency of road users."""

import math
from dataclasses import dataclass

import numpy as np

from streets.camera import Camera
from streets.classes import CLASSES
from streets.light import WEATHERS, Weather, sample_weather

LANE = 3.4
HALF_LANE = 1.75  # from the middle of our lane to its markings


@dataclass(frozen=True)
class Street:
    """A street: meters across, from the middle of our lane; left is negative. Traffic keeps to the right."""

    lanes_left: int
    lanes_right: int
    strip: float  # for parking and cycling, on both sides
    pavement: float
    crossing: tuple[float, float] | None  # a side street joins between these distances along the street

    @property
    def left(self) -> float:
        """The left curb."""
        return -HALF_LANE - LANE * self.lanes_left - self.strip

    @property
    def right(self) -> float:
        """The right curb."""
        return HALF_LANE + LANE * self.lanes_right + self.strip

    def crosses(self, along: float, margin: float = 0.0) -> bool:
        """Return whether a position along the street is where the side street crosses."""
        return self.crossing is not None and self.crossing[0] - margin < along < self.crossing[1] + margin


@dataclass(frozen=True, kw_only=True)
class Drive:
    """A video.

    `frequencies` has a factor for each class; `focal_share` is the focal length and `horizon` the height of the
    horizon, as shares of the picture's width and height.
    """

    seed: int
    number: int
    weather_name: str
    weather: Weather
    street: Street
    speed: float
    interval: float
    focal_share: float
    horizon: float
    lens_height: float
    bend: float
    frequencies: dict[str, float]
    hood: bool
    motion: float
    quality: int

    def rng(self, *key: int) -> np.random.Generator:
        """Return the random numbers for one object of this drive, always the same for the same key."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.number, *key])))

    def position(self, time: float) -> float:
        """Return the distance driven; at a crossing we creep to the stop line."""
        if self.street.crossing:
            return 2.5 * (1.0 - math.exp(-time / 20.0))
        return self.speed * time

    def camera(self, time: float, height: int, width: int) -> Camera:
        """Return the camera at a time, for a canvas of height x width pixels; the suspension shakes it a little."""
        shake = 0.004 * math.sin(2.1 * time + self.number) + 0.003 * math.sin(5.3 * time)
        return Camera(
            width=width,
            height=height,
            focal=self.focal_share * width,
            horizon=(self.horizon + shake) * height,
            lens_height=self.lens_height,
            right=0.25 * math.sin(0.23 * time + self.number),
            ahead=self.position(time),
            bend=self.bend,
        )


def sample_drive(seed: int, number: int) -> Drive:
    """Return the drive of this number: weathers take turns, so that any few drives differ."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed]))).permutation(len(WEATHERS))
    name = list(WEATHERS)[int(order[number % len(WEATHERS)])]
    weather = sample_weather(name, rng)
    street = _sample_street(rng, junction=number % 3 == 1)
    return Drive(
        seed=seed,
        number=number,
        weather_name=name,
        weather=weather,
        street=street,
        speed=float(rng.uniform(3.5, 9.0)),
        interval=float(rng.uniform(0.4, 1.0)),
        focal_share=float(rng.uniform(0.85, 1.05)),
        horizon=float(rng.uniform(0.44, 0.53)),
        lens_height=float(rng.uniform(1.35, 1.7)),
        bend=0.0 if street.crossing else float(rng.normal(0.0, 0.0009)),
        frequencies=_sample_frequencies(rng, number),
        hood=bool(rng.random() < 0.4),
        motion=float(rng.uniform(0.0, 1.2)),
        quality=int(rng.integers(62, 93)),
    )


def _sample_street(rng: np.random.Generator, junction: bool) -> Street:
    start = float(rng.uniform(8.5, 10.5))
    return Street(
        lanes_left=int(rng.integers(1, 3)),
        lanes_right=int(rng.integers(0, 2)),
        strip=float(rng.uniform(2.4, 3.2)),
        pavement=float(rng.uniform(3.0, 5.5)),
        crossing=(start, start + float(rng.uniform(11.0, 15.0))) if junction else None,
    )


def _sample_frequencies(rng: np.random.Generator, number: int) -> dict[str, float]:
    """Return the frequency of each class; the rarer ones take turns to be common, so that no split misses one."""
    rare = [name for name in CLASSES if name != "car"]
    frequencies = {name: float(rng.uniform(0.6, 1.4)) for name in CLASSES}
    for turn in (2 * number, 2 * number + 1):
        frequencies[rare[turn % len(rare)]] *= 2.0
    return frequencies
