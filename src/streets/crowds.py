"""Groups too dense to take apart: all members have one label value, that of the group."""

import numpy as np

from streets.camera import Pose
from streets.canvas import Canvas, Painter
from streets.cars import draw_car
from streets.classes import BICYCLE, CAR, GROUP_OFFSET, MOTORBICYCLE, PERSON
from streets.cycles import draw_parked_bicycle, draw_parked_motorbike
from streets.people import draw_person


def _draw_members(canvas: Canvas, paint: Painter, poses: list[Pose], group_of: int, rng: np.random.Generator) -> None:
    """Draw the members far to near; each has random numbers of its own, so that it looks the same from all sides."""
    members = sorted(zip(poses, rng.spawn(len(poses)), strict=True), key=lambda member: -member[0].ahead)
    with canvas.group(group_of + GROUP_OFFSET):
        for pose, member_rng in members:
            paint(canvas, pose, member_rng, 0.0)


def draw_crowd(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw nine people close together, waiting."""
    turns = rng.uniform(-0.8, 0.8, 9).tolist()
    poses = [pose.moved(0.6 * (n // 3) - 0.6, 0.5 * (n % 3) - 0.5 + 0.1 * turn, turn) for n, turn in enumerate(turns)]
    _draw_members(canvas, draw_person, poses, PERSON, rng)


def draw_bicycle_rack(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw shared bicycles side by side, handlebars entangled."""
    poses = [pose.moved(0.0, 1.0 - 0.5 * n, 0.06 * n) for n in range(5)]
    _draw_members(canvas, draw_parked_bicycle, poses, BICYCLE, rng)


def draw_motorbike_rack(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw scooters in a row."""
    poses = [pose.moved(0.0, 1.0 - 0.65 * n, 0.05 * n) for n in range(4)]
    _draw_members(canvas, draw_parked_motorbike, poses, MOTORBICYCLE, rng)


def draw_jam(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw distant cars, one behind another."""
    poses = [pose.moved(back, side) for back in (6.0, 0.0, -6.0) for side in (-1.7, 1.6)]
    _draw_members(canvas, draw_car, poses, CAR, rng)
