"""Retries with exponential back-off: how often a request is repeated, and the pauses in between.

The pauses double and have jitter, so that clients that failed together do not come back together.
"""

import random
import time
from collections.abc import Iterator

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0


def attempts(*, within_s: float | None = None) -> Iterator[int]:
    """Yield the number of each attempt, from 1, and sleep before every one but the first.

    Args:
        within_s: keep trying until so many seconds have passed; without it there are ``ATTEMPTS`` attempts.
    """
    deadline = time.monotonic() + (within_s or 0.0)
    number = 1
    yield number
    while number < ATTEMPTS if within_s is None else time.monotonic() < deadline:
        time.sleep(backoff(number))
        number += 1
        yield number


def backoff(failures: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Return the seconds to wait after so many failures in a row, 50 to 100 % of a pause that doubles each time."""
    doublings = min(failures - 1, 30)
    return min(FIRST_PAUSE_S * 2.0**doublings, longest_s) * random.uniform(0.5, 1)
