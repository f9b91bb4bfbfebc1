"""What is fixed for a drive: the street, the weather, the camera mount, which road users are common."""

import math
from dataclasses import dataclass

import numpy as np

from streets.camera import Camera
from streets.classes import CLASSES
from streets.light import WEATHERS, Weather, draw_weather

LANE = 3.4
OURS = 1.75  # from the middle of our lane to its markings


@dataclass(frozen=True)
class Street:
    """Metres across, from the middle of our lane; left is negative. Traffic keeps to the right."""

    lanes_left: int
    lanes_right: int
    strip: float  # for parking and cycling, on both sides
    pavement: float
    crossing: tuple[float, float] | None  # a side street joins between these distances along the street

    @property
    def left(self) -> float:
        """The left kerb."""
        return -OURS - LANE * self.lanes_left - self.strip

    @property
    def right(self) -> float:
        """The right kerb."""
        return OURS + LANE * self.lanes_right + self.strip

    def crosses(self, along: float, margin: float = 0.0) -> bool:
        """Whether a place along the street lies where the side street crosses."""
        return self.crossing is not None and self.crossing[0] - margin < along < self.crossing[1] + margin


@dataclass(frozen=True)
class Drive:
    """One video. `common` gives each class's factor of frequency; `view` is the focal length and `horizon`
    the height of the horizon, both as shares of the picture's width and height."""

    seed: int
    number: int
    weather_name: str
    weather: Weather
    street: Street
    speed: float
    interval: float
    view: float
    horizon: float
    lift: float
    bend: float
    common: dict[str, float]
    bonnet: bool
    motion: float
    quality: int

    def rng(self, *key: int) -> np.random.Generator:
        """The random numbers of one thing of this drive, always the same for the same key."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.number, *key])))

    def position(self, time: float) -> float:
        """How far we have driven; at a crossing we creep to the stop line."""
        if self.street.crossing:
            return 2.5 * (1.0 - math.exp(-time / 20.0))
        return self.speed * time

    def camera(self, time: float, height: int, width: int) -> Camera:
        """The view at a time, on a canvas of height x width pixels; the suspension shakes it a little."""
        shake = 0.004 * math.sin(2.1 * time + self.number) + 0.003 * math.sin(5.3 * time)
        return Camera(
            width=width,
            height=height,
            focal=self.view * width,
            horizon=(self.horizon + shake) * height,
            lift=self.lift,
            right=0.25 * math.sin(0.23 * time + self.number),
            ahead=self.position(time),
            bend=self.bend,
        )


def draw_drive(seed: int, number: int) -> Drive:
    """The drive of this number: weathers take turns, so that any few drives differ."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed]))).permutation(len(WEATHERS))
    name = list(WEATHERS)[int(order[number % len(WEATHERS)])]
    weather = draw_weather(name, rng)
    street = _draw_street(rng, junction=number % 3 == 1)
    return Drive(
        seed=seed,
        number=number,
        weather_name=name,
        weather=weather,
        street=street,
        speed=float(rng.uniform(3.5, 9.0)),
        interval=float(rng.uniform(0.4, 1.0)),
        view=float(rng.uniform(0.85, 1.05)),
        horizon=float(rng.uniform(0.44, 0.53)),
        lift=float(rng.uniform(1.35, 1.7)),
        bend=0.0 if street.crossing else float(rng.normal(0.0, 0.0009)),
        common=_draw_common(rng, number),
        bonnet=bool(rng.random() < 0.4),
        motion=float(rng.uniform(0.0, 1.2)),
        quality=int(rng.integers(62, 93)),
    )


def _draw_street(rng: np.random.Generator, junction: bool) -> Street:
    start = float(rng.uniform(8.5, 10.5))
    return Street(
        lanes_left=int(rng.integers(1, 3)),
        lanes_right=int(rng.integers(0, 2)),
        strip=float(rng.uniform(2.4, 3.2)),
        pavement=float(rng.uniform(3.0, 5.5)),
        crossing=(start, start + float(rng.uniform(11.0, 15.0))) if junction else None,
    )


def _draw_common(rng: np.random.Generator, number: int) -> dict[str, float]:
    """Two of the rarer classes take turns to be common, so that no split by drive misses one."""
    rare = [name for name in CLASSES if name != "car"]
    common = {name: float(rng.uniform(0.6, 1.4)) for name in CLASSES}
    for turn in (2 * number, 2 * number + 1):
        common[rare[turn % len(rare)]] *= 2.0
    return common
