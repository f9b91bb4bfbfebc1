"""Kubeflow's cron: six fields, the first of them seconds. What it would refuse later is refused here, in one line."""

from segline.errors import SeglineError

FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 6),
)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMES = {
    "month": {name: number for number, name in enumerate(MONTHS, 1)},
    "day of the week": {name: number for number, name in enumerate(DAYS)},
}
ANY = ("*", "?")


class CronError(SeglineError):
    """A text that is no schedule."""

    exit_code = 2


def check_cron(text: str) -> str:
    """The text with single blanks between its fields.

    Raises:
        CronError: it has not six fields, or a field cannot be read, with what is wrong.
    """
    fields = text.split()
    if len(fields) == 5:
        raise CronError(f"--cron {text!r} has 5 fields, expected 6, the first of them seconds; say '0 {text}'")
    if len(fields) != len(FIELDS):
        raise CronError(f"--cron {text!r} has {len(fields)} fields, expected 6: second minute hour day month weekday")
    for field, (name, low, high) in zip(fields, FIELDS, strict=True):
        for part in field.split(","):
            _check_part(part, name, low, high)
    return " ".join(fields)


def _check_part(part: str, name: str, low: int, high: int) -> None:
    """``*``, ``3``, ``mon``, ``1-5``, and each with a step behind a slash."""
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step)):
        raise CronError(f"--cron: step {step!r} of the {name}, expected a whole number from 1 on")
    if span in ANY:
        return
    ends = [_number(end, name, low, high) for end in span.split("-", 1)]
    if ends != sorted(ends):
        raise CronError(f"--cron: {span!r} of the {name} ends before it begins; expected such as {low}-{high}")


def _number(text: str, name: str, low: int, high: int) -> int:
    known = NAMES.get(name, {})
    if text.lower() in known:
        return known[text.lower()]
    if text.isdecimal() and low <= int(text) <= high:
        return int(text)
    named = f" or {', '.join(known)}" if known else ""
    raise CronError(f"--cron: {text!r} is no {name}, expected {low} to {high}{named}")
