"""The learning rate over a training: a linear rise, then a fall."""

import math

from segline.config.sections import Train

POLY_POWER = 0.9
"""The exponent of DeepLab (Chen et al. 2018, section 4.1)."""


def learning_rate(settings: Train, step: int, steps: int, *, time_fraction: float = 0.0) -> float:
    """Return the learning rate of a step.

    Args:
        settings: The peak, ``warmup_fraction`` and ``schedule``.
        step: The number of the step, from 0.
        steps: The number of steps of the whole training.
        time_fraction: The fraction of the allowed time that has passed; rise and fall follow it where it is ahead of
            the steps.
    """
    rising = max(1, round(settings.warmup_fraction * steps))
    if step < rising and time_fraction < settings.warmup_fraction:
        return settings.learning_rate * max((step + 1) / rising, time_fraction / settings.warmup_fraction)
    by_steps = (step - rising) / max(1, steps - rising)
    by_time = (time_fraction - settings.warmup_fraction) / max(1e-9, 1 - settings.warmup_fraction)
    return settings.learning_rate * _remaining(settings.schedule, min(1.0, max(0.0, by_steps, by_time)))


def _remaining(schedule: str, fallen: float) -> float:
    """Return the fraction of the peak that is left at a fraction of the fall."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * fallen))
    return (1 - fallen) ** POLY_POWER if schedule == "poly" else 1.0
