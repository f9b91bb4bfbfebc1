"""Pedestrians and riders, built of limbs."""

import math
from dataclasses import dataclass, replace

import numpy as np

from streets.camera import Pose
from streets.canvas import Canvas
from streets.classes import PERSON
from streets.light import Color

SKINS: tuple[Color, ...] = ((224, 178, 148), (205, 156, 122), (170, 122, 92), (122, 84, 62))
CLOTHES: tuple[Color, ...] = (
    (36, 38, 46), (28, 30, 34), (70, 74, 84), (52, 66, 98), (128, 132, 136), (212, 210, 204),
    (150, 44, 48), (92, 58, 46), (62, 84, 66), (178, 150, 112), (204, 168, 62), (120, 84, 120),
)  # fmt: skip
HAIRS: tuple[Color, ...] = ((24, 20, 20), (44, 34, 28), (96, 92, 90), (82, 56, 36))
SHOES: Color = (34, 32, 34)
Joint = tuple[float, float, float]  # (forward, side, up) of the body


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """The body and the clothes of a person; `stature` scales the whole figure (1 is 1.72 m)."""

    skin: Color
    hair: Color
    top: Color
    legs: Color
    stature: float
    skirt: bool
    bag: int  # 0 none, 1 rucksack, 2 in the hand


def sample_appearance(rng: np.random.Generator) -> Appearance:
    """Return a random person."""
    return Appearance(
        skin=SKINS[int(rng.integers(len(SKINS)))],
        hair=HAIRS[int(rng.integers(len(HAIRS)))],
        top=CLOTHES[int(rng.integers(len(CLOTHES)))],
        legs=CLOTHES[int(rng.integers(6))],
        stature=float(rng.uniform(0.9, 1.08)) if rng.random() < 0.9 else 0.68,
        skirt=bool(rng.random() < 0.25),
        bag=int(rng.integers(3)),
    )


class Figure:
    """A person at a pose, drawn limb by limb."""

    def __init__(self, canvas: Canvas, pose: Pose, appearance: Appearance) -> None:
        """Start with nothing drawn."""
        self.canvas = canvas
        self.pose = pose
        self.appearance = appearance
        self.light = canvas.weather.brightness((0.0, -0.8, 0.3))
        self.near = 1 if canvas.viewpoint(pose)[1] > 0 else -1

    def limb(self, start: Joint, end: Joint, thick: float, thin: float, color: Color, dim: float = 1.0) -> None:
        """Draw a rod between two joints, in meters of a figure of full stature."""
        size = self.appearance.stature
        ends = [self.pose.point(*(value * size for value in joint)) for joint in (start, end)]
        self.canvas.limb(ends[0], ends[1], thick * size, thin * size, color, self.light * dim)

    def trunk(self, hip: Joint, neck: Joint) -> None:
        """Draw the upper body: broad from the front, narrow from the side."""
        for side in (-self.near, self.near):
            (x, y, z), (u, v, w) = hip, neck
            dim = 1.0 if side == self.near else 0.9
            self.limb((u, v + side * 0.09, w - 0.1), (x, y + side * 0.05, z), 0.125, 0.11, self.appearance.top, dim)

    def head(self, center: Joint, helmet: Color | None = None) -> None:
        """Draw neck, face and hair, or a helmet."""
        x, y, z = center
        self.limb((x - 0.03, y, z - 0.2), center, 0.06, 0.06, self.appearance.skin, 0.85)
        self.limb((x + 0.01, y, z - 0.03), (x, y, z + 0.03), 0.085, 0.09, self.appearance.skin)
        cover = helmet or self.appearance.hair
        viewpoint = self.canvas.viewpoint(self.pose)
        behind = viewpoint[0] < 0 and abs(viewpoint[0]) > 0.7 * abs(viewpoint[1])
        self.limb((x - 0.045, y, z + (0.0 if behind else 0.03)), (x - 0.01, y, z + 0.075),
                  0.1 if behind else 0.085, 0.095, cover)  # fmt: skip

    def leg(self, hip: Joint, knee: Joint, foot: Joint, dim: float = 1.0) -> None:
        """Draw thigh, shin and shoe."""
        self.limb(hip, knee, 0.1, 0.075, self.appearance.legs, dim)
        self.limb(knee, foot, 0.07, 0.05, self.appearance.legs, dim * 0.95)
        self.limb(foot, (foot[0] + 0.13, foot[1], foot[2] - 0.02), 0.05, 0.04, SHOES, dim)

    def arm(self, shoulder: Joint, elbow: Joint, hand: Joint, dim: float = 1.0) -> None:
        """Draw sleeve and hand."""
        self.limb(shoulder, elbow, 0.065, 0.052, self.appearance.top, dim)
        self.limb(elbow, hand, 0.05, 0.04, self.appearance.top, dim)
        self.limb(hand, hand, 0.045, 0.045, self.appearance.skin, dim)


def draw_person(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a pedestrian; in the rain perhaps with an umbrella, which belongs to the person."""
    canvas.begin(PERSON)
    figure = Figure(canvas, pose, sample_appearance(rng))
    stride = float(rng.uniform(0.0, 0.5)) if rng.random() < 0.25 else 0.5
    phase = float(rng.uniform(0, 2 * math.pi)) + time * 5.5 * (stride > 0.1)
    sheltered = canvas.weather.wet > 0.5 and rng.random() < 0.6
    swing = stride * math.sin(phase)
    _step(figure, -figure.near, -swing * figure.near)
    if figure.appearance.bag == 1:
        figure.limb((-0.18, 0, 1.3), (-0.19, 0, 1.05), 0.13, 0.14, (62, 58, 70), 0.9)
    _step(figure, figure.near, swing * figure.near)
    figure.trunk((0, 0, 0.95), (0.02, 0, 1.46))
    if figure.appearance.skirt:
        figure.limb((0, 0, 0.95), (0, 0, 0.55), 0.15, 0.21, figure.appearance.top, 0.9)
    figure.head((0.03, 0, 1.62))
    _swing_arm(figure, figure.near, swing * figure.near)
    if sheltered:
        _umbrella(figure, CLOTHES[int(rng.integers(len(CLOTHES)))])


def _step(figure: Figure, side: int, swing: float) -> None:
    bend = 0.14 * max(math.cos(swing * 3.0), 0.0) + 0.1
    knee = (0.44 * math.sin(swing + bend), side * 0.1, 0.92 - 0.43 * math.cos(swing + bend))
    foot = (0.84 * math.sin(swing), side * 0.1, max(0.92 - 0.86 * math.cos(swing), 0.06))
    dim = 1.0 if side == figure.near else 0.8
    if side != figure.near:
        _swing_arm(figure, side, swing, dim)
    figure.leg((0, side * 0.08, 0.92), knee, foot, dim)


def _swing_arm(figure: Figure, side: int, swing: float, dim: float = 1.0) -> None:
    back = -swing * 0.9
    elbow = (0.28 * math.sin(back), side * 0.25, 1.4 - 0.28 * math.cos(back))
    hand = (elbow[0] + 0.24 * math.sin(back + 0.4), side * 0.27, elbow[2] - 0.24 * math.cos(back + 0.4))
    figure.arm((0.0, side * 0.2, 1.4), elbow, hand, dim)
    if figure.appearance.bag == 2 and side > 0:
        low = (hand[0], hand[1], hand[2] - 0.22)
        figure.limb((hand[0], hand[1], hand[2] - 0.08), low, 0.07, 0.11, (150, 104, 66), dim)


def _umbrella(figure: Figure, color: Color) -> None:
    figure.limb((0.2, 0, 1.15), (0.16, 0, 2.0), 0.015, 0.015, (60, 60, 62))
    rim = [(0.1 + 0.55 * math.cos(t), 0.55 * math.sin(t), 1.82) for t in (math.pi * k / 5 for k in range(10))]
    crown = [(0.1 + 0.3 * math.cos(t), 0.3 * math.sin(t), 2.02) for t in (math.pi * k / 3 for k in range(6))]
    points = [figure.pose.point(*joint) for joint in [*rim, *crown, (0.1, 0.0, 2.08)]]
    figure.canvas.shell(points, color, figure.light)


def draw_rider(
    canvas: Canvas,
    pose: Pose,
    rng: np.random.Generator,
    *,
    hip: Joint,
    hands: Joint,
    feet: tuple[Joint, Joint],
    helmet: Color | None,
) -> None:
    """Draw a person on a two-wheeler; `hands` is the right grip, `feet` left and right."""
    canvas.begin(PERSON)
    figure = Figure(canvas, pose, replace(sample_appearance(rng), stature=1.0, skirt=False, bag=0))
    neck = (hip[0] + 0.22, 0.0, hip[2] + 0.5)
    for side in (-figure.near, figure.near):
        dim = 1.0 if side == figure.near else 0.8
        foot = feet[0] if side < 0 else feet[1]
        knee = ((hip[0] + foot[0]) / 2 + 0.24, side * 0.13, (hip[2] + foot[2]) / 2 + 0.16)
        grip = (hands[0], side * hands[1], hands[2])
        elbow = ((neck[0] + grip[0]) / 2 - 0.05, side * 0.29, (neck[2] + grip[2]) / 2 - 0.1)
        figure.leg((hip[0], side * 0.09, hip[2]), knee, foot, dim)
        if side != figure.near:
            figure.arm((neck[0], side * 0.2, neck[2] - 0.07), elbow, grip, dim)
            figure.trunk(hip, neck)
        else:
            figure.arm((neck[0], side * 0.2, neck[2] - 0.07), elbow, grip, dim)
    figure.head((neck[0] + 0.06, 0.0, neck[2] + 0.17), helmet)
