"""Trucks, buses and the three-wheeled carriers of Beijing. A closed cab hides its driver."""

import numpy as np

from streets.body import (
    GLASS,
    Loft,
    box,
    draw_flank,
    draw_hubs,
    draw_loft,
    draw_pair,
    draw_pane,
    draw_panel,
    draw_tire,
    visible_side,
)
from streets.camera import Pose
from streets.canvas import Canvas
from streets.classes import BUS, TRICYCLE, TRUCK
from streets.light import Color
from streets.paint import HEADLAMP, LIVERIES, REAR_LAMP, TRIM, darker, draw_end_lamps, pick


def draw_bus(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a city bus of 9 to 12 m, with a row of large windows, a stripe and a line number."""
    canvas.begin(BUS)
    end, paint, stripe = float(rng.uniform(4.6, 5.9)), pick(rng, LIVERIES), pick(rng, LIVERIES)
    profile = [
        (-end, 0.35),
        (-end, 2.9),
        (-end + 0.25, 3.15),
        (end - 0.3, 3.15),
        (end - 0.05, 2.8),
        (end, 0.35),
    ]
    body = Loft(profile, 1.25, 2.6, 0.93)
    side, axles = visible_side(canvas, pose), (-end * 0.55, end * 0.55)
    for axle in axles:
        draw_tire(canvas, pose, axle, -side * 1.25, 0.48, 0.4)
        draw_tire(canvas, pose, axle, side * 1.25, 0.48, 0.4)
    draw_loft(canvas, pose, body, paint)
    if abs(canvas.viewpoint(pose)[1]) > body.half:
        _draw_bus_flank(canvas, pose, body, side, stripe)
        draw_hubs(canvas, pose, axles, side * 1.25, 0.48, (128, 130, 132))
    _draw_bus_ends(canvas, pose, body, stripe)


def _draw_bus_flank(canvas: Canvas, pose: Pose, body: Loft, side: int, stripe: Color) -> None:
    end, inside = body.front, 0.55 if canvas.weather.lamps else 0.0
    band = [(-end, 0.8), (-end, 1.1), (end, 1.1), (end, 0.8)]
    draw_flank(canvas, pose, body, side, band, stripe)
    glass: Color = (226, 206, 160) if canvas.weather.lamps else GLASS
    count = int(end * 1.3)
    step = (2 * end - 0.6) / count
    for index in range(count):
        start = -end + 0.3 + index * step
        low = 0.5 if index in (1, count - 2) and side > 0 else 1.3  # doors are on the curb side
        window = [(start, low), (start, 2.4), (start + step * 0.88, 2.4), (start + step * 0.88, low)]
        draw_flank(canvas, pose, body, side, window, glass, glow=inside)


def _draw_bus_ends(canvas: Canvas, pose: Pose, body: Loft, stripe: Color) -> None:
    rear, front = body.rear, body.front
    glow = 0.8 if canvas.weather.lamps else 0.1
    draw_panel(canvas, pose, rear, (-1.0, 1.0), (1.7, 2.55), GLASS)
    draw_panel(canvas, pose, rear, (-0.8, 0.8), (0.65, 1.35), darker(stripe, 0.6))
    draw_panel(canvas, pose, rear, (-1.2, 1.2), (0.36, 0.58), TRIM)
    draw_pair(canvas, pose, rear, (0.98, 1.18), (0.75, 1.35), REAR_LAMP, glow=glow)
    draw_panel(canvas, pose, rear, (-0.4, 0.4), (2.62, 2.85), (220, 150, 40), glow=0.3)
    draw_panel(canvas, pose, front, (-1.12, 1.12), (1.1, 2.45), GLASS)
    draw_panel(canvas, pose, front, (-0.03, 0.03), (1.1, 2.45), TRIM)
    draw_panel(canvas, pose, front, (-0.8, 0.8), (2.52, 2.76), (224, 160, 40), glow=0.4)
    draw_panel(canvas, pose, front, (-1.2, 1.2), (0.36, 0.56), TRIM)
    draw_pair(canvas, pose, front, (0.75, 1.12), (0.62, 0.86), HEADLAMP, glow=0.2)
    draw_end_lamps(canvas, pose, rear, front, 1.05, (1.0, 0.74))


def draw_truck(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a cab in front of a load: a closed box, a tarpaulin over hoops, or an open tipper."""
    canvas.begin(TRUCK)
    paint, long = pick(rng, LIVERIES), float(rng.uniform(2.2, 3.6))
    cab_front, side = long + 0.2, visible_side(canvas, pose)
    axles = (-long * 0.75, -long * 0.4, long - 0.75)
    for axle in axles:
        draw_tire(canvas, pose, axle, -side * 1.12, 0.46, 0.4)
        draw_tire(canvas, pose, axle, side * 1.12, 0.46, 0.4)
    cab = Loft(
        [(long - 1.6, 0.5), (long - 1.6, 2.4), (cab_front - 0.45, 2.5), (cab_front, 1.5), (cab_front, 0.5)],
        1.1,
    )
    load = _truck_load(-long, long - 1.75, rng)
    chassis = box(-long, cab_front - 0.3, 0.5, 0.55, 0.95)
    seen_from_ahead = canvas.viewpoint(pose)[0] > long
    draw_loft(canvas, pose, chassis, TRIM)
    if seen_from_ahead:
        _draw_load(canvas, pose, load, rng)
    _draw_cab(canvas, pose, cab, paint)
    if not seen_from_ahead:
        _draw_load(canvas, pose, load, rng)
    if abs(canvas.viewpoint(pose)[1]) > 1.15:
        draw_hubs(canvas, pose, axles, side * 1.14, 0.46, (120, 120, 122))
    draw_end_lamps(canvas, pose, -long, cab_front, 0.95, (0.8, 0.8))


def _truck_load(rear: float, front: float, rng: np.random.Generator) -> Loft:
    high = float(rng.uniform(2.6, 3.4))
    shape = int(rng.integers(3))
    if shape == 0:
        return box(rear, front, 1.2, 0.95, high)
    if shape == 1:
        return Loft(
            [
                (rear, 0.95),
                (rear, high - 0.5),
                (rear + 0.1, high - 0.2),
                (front - 0.1, high - 0.2),
                (front, high - 0.5),
                (front, 0.95),
            ],
            1.2,
            2.2,
            0.6,
        )
    return Loft([(rear + 0.4, 0.95), (rear, 2.0), (front + 0.2, 2.2), (front, 0.95)], 1.2)


def _draw_load(canvas: Canvas, pose: Pose, load: Loft, rng: np.random.Generator) -> None:
    paint, side = pick(rng, LIVERIES), visible_side(canvas, pose)
    draw_loft(canvas, pose, load, paint)
    ribs = np.linspace(load.rear + 0.15, load.front - 0.25, int(rng.integers(4, 8)))
    if abs(canvas.viewpoint(pose)[1]) > load.half:
        for rib in ribs:
            line = [(rib, 1.0), (rib, load.top - 0.3), (rib + 0.07, load.top - 0.3), (rib + 0.07, 1.0)]
            draw_flank(canvas, pose, load, side, line, darker(paint, 0.72))
    rear = load.rear
    for lateral in (-1.08, -0.02, 1.03):
        draw_panel(canvas, pose, rear, (lateral, lateral + 0.05), (1.0, min(load.top, 3.2) - 0.3), darker(paint, 0.6))
    draw_panel(canvas, pose, rear, (-1.15, 1.15), (0.62, 0.92), TRIM)
    draw_pair(canvas, pose, rear, (0.8, 1.1), (0.7, 0.88), REAR_LAMP, glow=0.3)
    draw_panel(canvas, pose, rear, (-0.25, 0.25), (0.68, 0.84), (200, 180, 60))


def _draw_cab(canvas: Canvas, pose: Pose, cab: Loft, paint: Color) -> None:
    draw_loft(canvas, pose, cab, paint)
    draw_pane(canvas, pose, cab, 2, GLASS, begin=0.12, stop=0.94)
    front = cab.front
    if abs(canvas.viewpoint(pose)[1]) > cab.half:
        window = [(front - 1.35, 1.5), (front - 1.35, 2.2), (front - 0.6, 2.2), (front - 0.28, 1.5)]
        draw_flank(canvas, pose, cab, visible_side(canvas, pose), window, GLASS)
    draw_panel(canvas, pose, front, (-0.9, 0.9), (0.95, 1.35), darker(paint, 0.55))
    draw_panel(canvas, pose, front, (-1.1, 1.1), (0.5, 0.72), TRIM)
    draw_pair(canvas, pose, front, (0.72, 1.02), (0.74, 0.92), HEADLAMP, glow=0.2)


def draw_tricycle(canvas: Canvas, pose: Pose, rng: np.random.Generator, time: float) -> None:
    """Draw a three-wheeled carrier: one wheel in front, a roofed seat, behind it a parcel box or an open bed."""
    canvas.begin(TRICYCLE)
    paint, coat, closed = pick(rng, LIVERIES), pick(rng, LIVERIES), bool(rng.random() < 0.6)
    side = visible_side(canvas, pose)
    for lateral in (-side, side):
        draw_tire(canvas, pose, -0.85, lateral * 0.56, 0.27, 0.13)
    draw_tire(canvas, pose, 1.25, 0.06, 0.25, 0.12)
    bed = box(-1.5, 0.1, 0.55, 0.42, float(rng.uniform(1.35, 1.6)) if closed else 0.8)
    seen_from_ahead = canvas.viewpoint(pose)[0] > 0.4
    if seen_from_ahead:
        _draw_bed(canvas, pose, bed, paint, rng)
    _draw_tricycle_cab(canvas, pose, paint, coat)
    if not seen_from_ahead:
        _draw_bed(canvas, pose, bed, paint, rng)
    if abs(canvas.viewpoint(pose)[1]) > 0.56:
        draw_hubs(canvas, pose, (-0.85,), side * 0.57, 0.27, (140, 140, 142))


def _draw_bed(canvas: Canvas, pose: Pose, bed: Loft, paint: Color, rng: np.random.Generator) -> None:
    if bed.top < 1.0:
        for start in (-1.3, -0.8, -0.35):
            top = float(rng.uniform(0.9, 1.35))
            draw_loft(canvas, pose, box(start, start + 0.42, 0.45, 0.6, top), pick(rng, LIVERIES))
    draw_loft(canvas, pose, bed, paint)
    trim = darker(paint, 0.6)
    draw_panel(canvas, pose, bed.rear, (-0.03, 0.03), (0.5, bed.top - 0.06), trim)
    draw_panel(canvas, pose, bed.rear, (-0.5, 0.5), (0.42, 0.5), TRIM)
    draw_pair(canvas, pose, bed.rear, (0.38, 0.52), (0.52, 0.64), REAR_LAMP, glow=0.3)
    if abs(canvas.viewpoint(pose)[1]) > bed.half:
        band = [(-1.4, 0.55), (-1.4, bed.top - 0.35), (0.0, bed.top - 0.35), (0.0, 0.55)]
        draw_flank(canvas, pose, bed, visible_side(canvas, pose), band, darker(paint, 0.82))


def _draw_tricycle_cab(canvas: Canvas, pose: Pose, paint: Color, coat: Color) -> None:
    """Draw posts, a roof and a windshield around the driver, who belongs to the vehicle."""
    draw_loft(canvas, pose, box(0.1, 0.55, 0.48, 0.38, 0.72), darker(paint, 0.7))
    canvas.limb(pose.point(0.3, 0, 0.8), pose.point(0.32, 0, 1.2), 0.2, 0.2, coat, 0.8)
    canvas.ball(pose.point(0.34, 0, 1.5), 0.12, (120, 84, 66), 0.8)
    apron = Loft([(1.0, 0.3), (0.95, 1.0), (1.22, 0.95), (1.32, 0.3)], 0.42)
    draw_loft(canvas, pose, apron, paint)
    for lateral in (-0.45, 0.45):
        canvas.limb(pose.point(0.95, lateral * 0.9, 0.95), pose.point(0.72, lateral, 1.74), 0.03, 0.03, TRIM)
        canvas.limb(pose.point(0.1, lateral, 0.7), pose.point(0.1, lateral, 1.74), 0.03, 0.03, TRIM)
    canvas.face(
        [
            pose.point(x, y, z)
            for x, y, z in ((0.96, -0.42, 1.0), (0.74, -0.42, 1.7), (0.74, 0.42, 1.7), (0.96, 0.42, 1.0))
        ],
        (150, 168, 178),
        0.9,
        alpha=110,
    )
    draw_loft(canvas, pose, box(-0.05, 0.85, 0.52, 1.72, 1.8), darker(paint, 0.85))
    draw_panel(canvas, pose, 1.32, (-0.1, 0.1), (0.62, 0.8), HEADLAMP, glow=0.3)
    if canvas.weather.lamps and canvas.viewpoint(pose)[0] > 1.3:
        canvas.lamp(pose.point(1.33, 0.0, 0.72), 0.08, (255, 250, 226))
