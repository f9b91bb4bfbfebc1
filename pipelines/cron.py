"""Kubeflow's cron: six fields, the first of them seconds. Refused is what it would refuse or misread."""

import re
from dataclasses import dataclass

from segline.errors import SeglineError


class CronError(SeglineError):
    """A text that is no schedule."""

    exit_code = 2


@dataclass(frozen=True)
class Field:
    """One of the six fields: its smallest and largest number, and the names of the numbers."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int | None:
        """What a number or a name stands for; None for anything else."""
        if text.lower() in self.names:
            return self.first + self.names.index(text.lower())
        return int(text) if re.fullmatch(r"[0-9]{1,2}", text) else None


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
LENGTHS = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS = (
    Field("second", 0, 59),
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("weekday", 0, 6, WEEKDAYS),
)
ANY = ("*", "?")


def check_cron(text: str) -> str:
    """The cron text with single blanks, if Kubeflow's scheduler (robfig/cron 1.2) takes it for what it says.

    Six fields: second, minute, hour, day, month, weekday (0 is Sunday; 7 is unknown). Each is a list, with commas, of
    ``*`` or ``?``, a number or a name, or a range ``a-b``, with or without ``/step``; ``a/step`` goes up to the last.
    With both day and weekday given, either of them is enough, as in any cron.

    The scheduler itself would also take five fields, for the first five of these, and a day that no month has, for
    now at once; neither can be meant.

    Raises:
        CronError: with what is wrong and what was expected.
    """
    words = text.split()
    if len(words) == 5:
        raise CronError(
            f"cron {text!r}: 5 fields, expected 6, the first of them seconds; put 0 before it: '0 {' '.join(words)}'"
        )
    if len(words) != 6:
        expected = " ".join(field.name for field in FIELDS)
        raise CronError(
            f"cron {text!r}: {len(words)} {'field' if len(words) == 1 else 'fields'}, expected 6: {expected}, "
            "such as '0 0 3 * * 1', Mondays at three"
        )
    *_, days, months, _ = (values(field, word, text) for field, word in zip(FIELDS, words, strict=True))
    any_weekday = any(part[0] in ANY for part in words[-1].split(","))
    if any_weekday and min(days) > max(LENGTHS[month] for month in months):
        raise CronError(f"cron {text!r}: no such month has a day {min(days)}, so that it would never begin a run")
    return " ".join(words)


def values(field: Field, word: str, text: str) -> frozenset[int]:
    """The numbers that a field stands for; ``text`` is the whole, for the error."""
    return frozenset(number for part in word.split(",") for number in _part(field, part, text))


def _part(field: Field, part: str, text: str) -> range:
    """One entry of a list."""

    def wrong(why: str) -> CronError:
        names = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
        return CronError(
            f"cron {text!r}: {field.name} {part!r} {why}; expected {field.first}-{field.last}{names}, *, a-b or a/step"
        )

    span, slash, step_text = part.partition("/")
    begin: int | None = field.first
    end: int | None = field.last
    if span not in ANY:
        begin_text, hyphen, end_text = span.partition("-")
        begin = field.number(begin_text)
        end = field.number(end_text) if hyphen else field.last if slash else begin
    if begin is None or end is None:
        raise wrong("is neither a number nor a range")
    if begin < field.first or end > field.last:
        raise wrong("is outside")
    if begin > end:
        raise wrong("ends before it begins")
    step = int(step_text) if re.fullmatch(r"[0-9]{1,2}", step_text) else 0
    if slash and not 1 <= step <= field.last - field.first + 1:
        raise wrong("has no step that fits")
    return range(begin, end + 1, step or 1)
