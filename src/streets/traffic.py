"""The position of every object at a time.

All objects are in slots of endless belts: a lane, a row of parked cars, a pavement, a row of trees. A belt moves along
(or across) the street at its own speed, and the object of a slot depends on the slot's own random numbers. So any
frame can be rendered without those before it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass

from streets.camera import Camera, Pose
from streets.canvas import Painter
from streets.carriers import draw_bus, draw_tricycle, draw_truck
from streets.cars import draw_car
from streets.crowds import draw_bicycle_rack, draw_crowd, draw_jam, draw_motorbike_rack
from streets.cycles import (
    draw_bicycle,
    draw_motorbike,
    draw_parked_bicycle,
    draw_parked_motorbike,
)
from streets.drive import HALF_LANE, LANE, Drive
from streets.furniture import (
    draw_barrier,
    draw_bin,
    draw_bush,
    draw_kiosk,
    draw_plant,
    draw_shelter,
    draw_sign,
    draw_signal,
    draw_street_lamp,
    draw_tree,
)
from streets.people import draw_person

VIEW_DISTANCE = 70.0  # meters
AWAY, TOWARDS, RIGHTWARDS, LEFTWARDS = 0.0, math.pi, math.pi / 2, -math.pi / 2
CYCLE = 1024  # slots of a belt, after which it repeats
GOLDEN = 0.618034  # steps of this share make the kinds take turns, so that any few slots have them all
SMALLEST = 36.0  # things whose bounding box has fewer pixels of the final picture are not drawn


@dataclass(frozen=True)
class Kind:
    """A kind of object: its painter, its box in meters, and the class that sets its frequency in a drive."""

    paint: Painter
    length: float
    width: float
    height: float
    class_name: str = ""

    @property
    def smallest(self) -> float:
        """The fewest pixels of its bounding box with which it is drawn; nobody misses a far bin."""
        return SMALLEST if self.class_name else 4 * SMALLEST


KINDS: dict[str, Kind] = {
    "car": Kind(draw_car, 4.5, 1.8, 1.5, "car"),
    "truck": Kind(draw_truck, 6.4, 2.3, 3.0, "truck"),
    "bus": Kind(draw_bus, 10.6, 2.5, 3.1, "bus"),
    "tricycle": Kind(draw_tricycle, 2.9, 1.1, 1.7, "tricycle"),
    "motorbike": Kind(draw_motorbike, 1.8, 0.6, 1.6, "motorbicycle"),
    "bicycle": Kind(draw_bicycle, 1.7, 0.5, 1.7, "bicycle"),
    "person": Kind(draw_person, 0.5, 0.5, 1.7, "person"),
    "parked motorbike": Kind(draw_parked_motorbike, 1.8, 0.6, 1.1, "motorbicycle"),
    "parked bicycle": Kind(draw_parked_bicycle, 1.7, 0.4, 1.0, "bicycle"),
    "crowd": Kind(draw_crowd, 1.8, 1.6, 1.7),
    "bicycle rack": Kind(draw_bicycle_rack, 1.7, 2.4, 1.0),
    "motorbike rack": Kind(draw_motorbike_rack, 1.8, 2.4, 1.1),
    "jam": Kind(draw_jam, 16.0, 4.8, 1.5),
    "tree": Kind(draw_tree, 2.5, 2.5, 6.0),
    "bush": Kind(draw_bush, 2.0, 1.0, 0.9),
    "plant": Kind(draw_plant, 0.8, 0.8, 1.8),
    "street lamp": Kind(draw_street_lamp, 0.2, 0.2, 7.5),
    "signal": Kind(draw_signal, 0.3, 0.3, 5.6),
    "sign": Kind(draw_sign, 0.2, 0.5, 2.5),
    "bin": Kind(draw_bin, 0.7, 0.6, 1.2),
    "kiosk": Kind(draw_kiosk, 3.0, 1.9, 2.4),
    "barrier": Kind(draw_barrier, 4.0, 0.4, 0.9),
    "shelter": Kind(draw_shelter, 4.2, 1.4, 2.5),
}


@dataclass(frozen=True)
class Belt:
    """A row of slots, `spacing` apart, that moves at `speed`.

    `fill` is the share of slots that are occupied, and `kinds` gives the frequency of each kind. `offset` is the
    position of the belt across the street, or along it for a belt that crosses. Objects are up to `jitter` meters
    beside the belt.
    """

    offset: float
    heading: float
    speed: float
    spacing: float
    fill: float
    _: KW_ONLY
    kinds: Mapping[str, float]
    jitter: float = 0.0
    crosses: bool = False


@dataclass(frozen=True)
class SceneObject:
    """An object in view; `key` selects its random numbers."""

    kind: Kind
    pose: Pose
    key: tuple[int, ...]

    @property
    def nearest(self) -> float:
        """The distance of its nearest point."""
        return self.pose.ahead - self.extent(abs(math.cos(self.pose.heading)), abs(math.sin(self.pose.heading)))

    def extent(self, along: float, aside: float) -> float:
        """Return half the box's size in a direction given by the cosines with its length and its width."""
        return 0.5 * (along * self.kind.length + aside * self.kind.width)

    def pixels(self, focal: float) -> float:
        """Return the size of its bounding box in the picture."""
        across = 2 * self.extent(abs(math.sin(self.pose.heading)), abs(math.cos(self.pose.heading)))
        return across * self.kind.height * (focal / max(self.pose.ahead, 1.0)) ** 2


MOTOR = {"car": 1.0, "truck": 0.15, "bus": 0.17, "tricycle": 0.16, "motorbike": 0.2}
CYCLES = {"bicycle": 2.2, "motorbike": 0.9, "tricycle": 0.6}
PARKED = {"car": 1.0, "truck": 0.16, "tricycle": 0.25, "parked motorbike": 0.45, "bicycle rack": 0.12,
          "motorbike rack": 0.1, "kiosk": 0.12, "barrier": 0.12}  # fmt: skip
ON_FOOT = {"person": 1.0, "parked bicycle": 0.4, "parked motorbike": 0.15, "crowd": 0.05}
CLUTTER = {"bin": 1.0, "sign": 0.8, "bush": 0.8, "barrier": 0.8, "kiosk": 0.5, "shelter": 0.3, "plant": 0.5}


def visible_objects(drive: Drive, camera: Camera, time: float, shrink: float) -> list[SceneObject]:
    """Return all objects in view, far to near; `shrink` canvas pixels make one pixel of the final picture."""
    visible = list(_lead(drive, camera, time)) if not drive.street.crossing else []
    for number, belt in enumerate(belts(drive)):
        visible += _on_belt(drive, camera, belt, number, time)
    visible = [thing for thing in visible if thing.pixels(camera.focal / shrink) >= thing.kind.smallest]
    return sorted(visible, key=lambda thing: -thing.nearest)


def belts(drive: Drive) -> list[Belt]:
    """Return all belts of a drive."""
    street = drive.street
    strip_center = street.right - street.strip / 2
    pace = 0.0 if street.crossing else 1.0  # at a crossing the traffic waits
    along = [
        Belt(-HALF_LANE - LANE / 2, TOWARDS, -6.5 * pace, 15.0, 0.55, kinds=MOTOR, jitter=0.3),
        Belt(strip_center - 0.7, AWAY, 4.2, 9.0, 0.4, kinds=CYCLES, jitter=0.25),
        Belt(street.left + 0.7 + street.strip / 2, TOWARDS, -4.0, 8.0, 0.45, kinds=CYCLES, jitter=0.25),
        Belt(street.right - 0.8, AWAY, 0.0, 7.0, 0.45, kinds=PARKED, jitter=0.1),
        Belt(street.left + 0.95, TOWARDS, 0.0, 7.0, 0.6, kinds=PARKED, jitter=0.1),
        Belt(street.right + 1.3, TOWARDS, -1.2, 3.0, 0.4, kinds=ON_FOOT, jitter=0.8),
        Belt(street.right + 2.2, AWAY, 1.3, 4.0, 0.4, kinds=ON_FOOT, jitter=0.8),
        Belt(street.left - 1.4, AWAY, 1.1, 3.0, 0.4, kinds=ON_FOOT, jitter=0.8),
        *_fixtures(drive),
    ]
    if street.lanes_right:
        along.append(Belt(LANE, AWAY, drive.speed * 0.85 * pace, 15.0, 0.6, kinds=MOTOR, jitter=0.3))
    if street.lanes_left > 1:
        along.append(Belt(-HALF_LANE - LANE * 1.5, TOWARDS, -5.0 * pace, 16.0, 0.5, kinds=MOTOR, jitter=0.3))
    return along + (_crossing_belts(*street.crossing) if street.crossing else [])


def _fixtures(drive: Drive) -> list[Belt]:
    street = drive.street
    rows = []
    for curb, out, heading in ((street.right, 1.0, LEFTWARDS), (street.left, -1.0, RIGHTWARDS)):
        rows += [
            Belt(curb + 0.6 * out, AWAY, 0.0, 6.5, 0.5, kinds=CLUTTER, jitter=0.2),
            Belt(curb + (street.pavement - 0.7) * out, AWAY, 0.0, 8.0, 0.45, kinds=CLUTTER, jitter=0.2),
            Belt(curb + 0.8 * out, AWAY, 0.0, 9.0, 0.55, kinds={"tree": 1.0}, jitter=0.2),
            Belt(curb + 0.5 * out, heading, 0.0, 26.0, 1.0, kinds={"street lamp": 0.8, "signal": 0.2}),
        ]
    return rows


def _crossing_belts(start: float, stop: float) -> list[Belt]:
    """Return the belts that cross before us while we wait: on the zebra, in the near lanes, in the far lanes."""
    return [
        Belt(
            start - 2.6,
            RIGHTWARDS,
            1.1,
            3.6,
            0.5,
            kinds={"person": 1.0, "bicycle": 0.5, "tricycle": 0.15},
            jitter=0.4,
            crosses=True,
        ),
        Belt(
            start - 1.4,
            LEFTWARDS,
            -1.3,
            4.0,
            0.45,
            kinds={"person": 1.0, "motorbike": 0.2, "bicycle": 0.5},
            jitter=0.4,
            crosses=True,
        ),
        Belt(start + 2.8, RIGHTWARDS, 5.0, 13.0, 0.6, kinds=MOTOR, jitter=0.3, crosses=True),
        Belt(stop - 3.4, LEFTWARDS, -5.5, 13.0, 0.6, kinds=MOTOR, jitter=0.3, crosses=True),
        Belt(start + 0.6, RIGHTWARDS, 3.4, 7.0, 0.5, kinds=CYCLES, jitter=0.2, crosses=True),
    ]


def _on_belt(drive: Drive, camera: Camera, belt: Belt, number: int, time: float) -> Iterator[SceneObject]:
    """Yield the objects of a belt that are in view; those along the street leave a crossing free."""
    first, last = (-22.0, 22.0) if belt.crosses else (camera.ahead - 5.0, camera.ahead + VIEW_DISTANCE)
    moved, free = belt.speed * time, 4.5 if belt.speed == 0 else 6.0
    rng = drive.rng(16 + number)
    draws, start = rng.random((CYCLE, 4)), float(rng.random())
    for slot in range(math.floor((first - moved) / belt.spacing), math.ceil((last - moved) / belt.spacing)):
        full, along, aside, turn = draws[slot % CYCLE].tolist()
        which = (slot * GOLDEN + start) % 1.0
        if full >= belt.fill:
            continue
        position = (slot + 0.24 * (along - 0.5)) * belt.spacing + moved
        across = belt.offset + (2 * aside - 1) * belt.jitter
        right, ahead = (position, across) if belt.crosses else (across, position)
        if belt.crosses or not drive.street.crosses(ahead, free):
            pose = camera.pose_at(right, ahead, belt.heading + 0.1 * (turn - 0.5))
            yield SceneObject(KINDS[_choose(drive, belt.kinds, which)], pose, (16 + number, slot % CYCLE))


def _choose(drive: Drive, kinds: Mapping[str, float], quantile: float) -> str:
    """Return the kind at `quantile` (0-1) of the way through the kinds, weighted by their frequencies."""
    weights = [share * drive.frequencies.get(KINDS[kind].class_name, 1.0) for kind, share in kinds.items()]
    left = quantile * sum(weights)
    for kind, weight in zip(kinds, weights, strict=True):
        left -= weight
        if left < 0:
            return kind
    return next(iter(kinds))  # rounding left a crumb


def _lead(drive: Drive, camera: Camera, time: float) -> Iterator[SceneObject]:
    """Yield the vehicle that we follow: the gap swings, and after a while another vehicle takes its place."""
    rng = drive.rng(8)
    period, gap, swing = rng.uniform(12.0, 25.0), rng.uniform(3.5, 8.0), rng.uniform(4.0, 8.0)
    phase, stay = rng.uniform(0, 2 * math.pi), rng.uniform(6.0, 12.0)
    number = int(time / stay)
    rng = drive.rng(9, number)
    kind = KINDS[_choose(drive, MOTOR, float(rng.random()))]
    rear = gap + swing * (1.0 + math.sin(2 * math.pi * time / period + phase))
    aside, turn = float(rng.normal(0.0, 0.25)), float(rng.normal(0.0, 0.02))
    yield SceneObject(kind, camera.pose_at(aside, camera.ahead + rear + kind.length / 2, turn), (9, number, 1))
    yield SceneObject(KINDS["jam"], camera.pose_at(0.0, camera.ahead + rear + 55.0, 0.0), (9, number, 2))
