"""The cron fields against a brute force: each number of a field is tried against the text, read in another way."""

import itertools

import pytest

from pipelines.cron import FIELDS, CronError, check_cron, values


def stands_for(number, part, field):
    """Whether a part of a list, which is right, stands for the number."""
    for index, name in enumerate(field.names):
        part = part.lower().replace(name, str(index + field.first))
    span, *steps = part.split("/")
    ends = span.split("-") if span not in "*?" else [field.first, field.last]
    begin, end = int(ends[0]), int(ends[-1])
    if steps and len(ends) == 1:
        end = field.last
    step = int(steps[0]) if steps else 1
    return any(number == begin + step * count for count in range(100) if begin + step * count <= end)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_range_and_step_is_what_a_brute_force_says(field):
    numbers = sorted({field.first, field.first + 1, (field.first + field.last) // 2, field.last})
    spans = ["*", "?", *map(str, numbers), *(f"{a}-{b}" for a, b in itertools.product(numbers, numbers) if a <= b)]
    spans += [*field.names, *(f"{a}-{b.upper()}" for a, b in itertools.combinations(field.names, 2))]
    parts = [span + step for span in spans for step in ("", "/1", "/2", f"/{field.last - field.first + 1}")]
    for part, other in zip(parts, reversed(parts), strict=True):
        expected = {
            number for number in range(70) if stands_for(number, part, field) or stands_for(number, other, field)
        }
        assert values(field, f"{part},{other}", "") == expected


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
@pytest.mark.parametrize(
    "word",
    [
        "",
        ",",
        "1,",
        "5-",
        "-5",
        "5-4",
        "1-2-3",
        "*-5",
        "*/",
        "*/0",
        "*/61",
        "1/2/3",
        "99",
        "+1",
        "1.5",
        "٣",
        "L",
        "5W",
        "#",
    ],
)
def test_what_is_no_field_is_refused(field, word):
    with pytest.raises(CronError, match="expected"):
        values(field, word, "the text")


@pytest.mark.parametrize(
    ("days", "good"),
    [
        ("31 2 *", 0),
        ("30-31 feb ?", 0),
        ("31 4,6,9,11 *", 0),
        ("29 2 *", 1),
        ("31 2 mon", 1),
        ("31 2,3 *", 1),
        ("*/30 2 ?", 1),
    ],
)
def test_a_day_that_no_month_has_is_refused(days, good):
    if good:
        assert check_cron(f"0 0 3 {days}") == f"0 0 3 {days}"
    else:
        with pytest.raises(CronError, match="never begin"):
            check_cron(f"0 0 3 {days}")
