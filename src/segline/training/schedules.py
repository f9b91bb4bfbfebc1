"""The learning rate over a training: a linear rise, then a fall."""

import math

from segline.config.sections import Train

POLY_POWER = 0.9
"""Of DeepLab (Chen et al. 2018, section 4.1)."""


def learning_rate(settings: Train, step: int, steps: int, *, spent: float = 0.0) -> float:
    """The rate of a step.

    Args:
        settings: peak, ``warmup`` and ``schedule``.
        step: counted from 0.
        steps: of the whole training.
        spent: share of the allowed time that is over; rise and fall follow it where it is ahead of the steps.
    """
    rising = max(1, round(settings.warmup_fraction * steps))
    if step < rising and spent < settings.warmup_fraction:
        return settings.learning_rate * max((step + 1) / rising, spent / settings.warmup_fraction)
    by_steps = (step - rising) / max(1, steps - rising)
    by_time = (spent - settings.warmup_fraction) / max(1e-9, 1 - settings.warmup_fraction)
    return settings.learning_rate * _left(settings.schedule, min(1.0, max(0.0, by_steps, by_time)))


def _left(schedule: str, fallen: float) -> float:
    """The share of the peak that is left at a share of the fall."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * fallen))
    return (1 - fallen) ** POLY_POWER if schedule == "poly" else 1.0
