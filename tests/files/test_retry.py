"""Attempts and the pauses between them, by a clock of the test's own."""

import pytest

from segline.files import retry
from segline.files.retry import ATTEMPTS, LONGEST_PAUSE_S, attempts, backoff


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 1.0)
    return clock


def test_the_pauses_grow_and_differ(clock):
    sequences = []
    for _ in range(100):
        clock.slept = []
        assert list(attempts()) == list(range(1, ATTEMPTS + 1))
        assert all(2**number / 2 <= pause <= 2**number for number, pause in enumerate(clock.slept))
        assert len(clock.slept) == ATTEMPTS - 1
        sequences.append(tuple(clock.slept))
    assert len(set(sequences)) == 100


def test_a_pause_has_a_limit(clock):
    assert all(LONGEST_PAUSE_S / 2 <= backoff(failures) <= LONGEST_PAUSE_S for failures in (6, 60, 6000))
    assert 1 <= backoff(5, longest_s=2) <= 2


def test_there_is_no_pause_before_the_first_attempt_or_after_the_last_one_used(clock):
    for number in attempts():
        if number == 2:
            break
    assert len(clock.slept) == 1


@pytest.mark.parametrize("limit", [0.1, 10, 900])
def test_attempts_go_on_for_as_long_as_is_allowed(clock, limit):
    numbers = list(attempts(within_s=limit))
    assert numbers == list(range(1, len(numbers) + 1))
    assert limit <= clock.now < limit + LONGEST_PAUSE_S
    assert sum(clock.slept[:-1]) < limit
