"""Kubeflow's cron: six fields, the first of them seconds."""

import re

from segline.errors import SeglineError

FIELDS = {"second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}
"""The fields with their least and greatest numbers; the weekday 0 is Sunday."""
DAYS_OF_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "weekday": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


class CronError(SeglineError):
    """A text that is no schedule."""

    exit_code = 2


def check_cron(text: str) -> str:
    """Return the cron text with single blanks, if Kubeflow's scheduler (robfig/cron 1.2) takes it.

    Each field is a list, with commas, of ``*`` or ``?``, a number or a name, or a range ``a-b``, with or without
    ``/step``. The scheduler also takes five fields, but for the first five of these, which nobody means.

    Raises:
        CronError: The text has another number of fields, a field is wrong, or no month has the day, which the scheduler
            would take for "at once".
    """
    words = text.split()
    if len(words) != len(FIELDS):
        hint = "such as '0 0 3 * * 1', Mondays at three"
        if len(words) == len(FIELDS) - 1:
            hint = f"put 0 before it: '0 {' '.join(words)}'"
        raise CronError(f"cron {text!r}: got {len(words)} fields, expected 6: {', '.join(FIELDS)}; {hint}")
    numbers = {field: _numbers(field, word, text) for field, word in zip(FIELDS, words, strict=True)}
    any_weekday = any(entry[0] in "*?" for entry in words[-1].split(","))
    if any_weekday and min(numbers["day"]) > max(DAYS_OF_MONTHS[month - 1] for month in numbers["month"]):
        day = min(numbers["day"])
        raise CronError(f"cron {text!r}: no such month has a day {day}, so that it would never start a run")
    return " ".join(words)


def _numbers(field: str, word: str, text: str) -> list[int]:
    """Return the numbers that a field stands for."""
    entries = [_numbers_of_entry(field, entry) for entry in word.lower().split(",")]
    if not all(entries):
        first, last = FIELDS[field]
        names = f" or {NAMES[field][0]}-{NAMES[field][-1]}" if field in NAMES else ""
        raise CronError(f"cron {text!r}: {field} {word!r}, expected {first}-{last}{names}, *, a-b or a/step")
    return [number for entry in entries for number in entry]


def _numbers_of_entry(field: str, entry: str) -> list[int]:
    """Return the numbers that an entry of a list stands for; none if it is wrong."""
    first, last = FIELDS[field]
    numbers = {text: number for number in range(first, last + 1) for text in (f"{number}", f"{number:02}")}
    numbers |= {name: first + index for index, name in enumerate(NAMES.get(field, ()))}
    span, slash, step = entry.partition("/")
    ends = [first, last] if span in ("*", "?") else [numbers.get(end, -1) for end in span.split("-")]
    if slash and not (re.fullmatch("[0-9]{1,2}", step) and 1 <= int(step) <= last - first + 1):
        return []
    if min(ends) < first or len(ends) > 2 or ends != sorted(ends):
        return []
    end = ends[1] if len(ends) == 2 else last if slash else ends[0]
    return list(range(ends[0], end + 1, int(step) if slash else 1))
