"""The cron check against a brute force that counts the numbers of a range."""

import itertools

import pytest

from pipelines.cron import FIELDS, NAMES, CronError, check_cron


def text_with(field, word):
    """Return a cron text with the word as one field."""
    return " ".join(word if name == field else "*" for name in FIELDS)


def numbers(field):
    """Return the first and last numbers, one between, and those beyond."""
    first, last = FIELDS[field]
    return sorted({*range(first - 1, first + 2), (first + last) // 2, last, last + 1} - {-1})


@pytest.mark.parametrize("field", FIELDS)
def test_a_range_is_taken_if_each_of_its_numbers_is_one_of_the_field(field):
    first, last = FIELDS[field]
    for begin, end in itertools.product(numbers(field), numbers(field)):
        covered = set(range(begin, end + 1))
        good = bool(covered) and covered <= set(range(first, last + 1))
        for word in (f"{begin}-{end}", f"{begin:02}-{end:02}", f"{begin}-{end}/2", f"*,{begin}-{end}"):
            text = text_with(field, word)
            if good:
                assert check_cron(text) == text
            else:
                with pytest.raises(CronError, match=f"{field} .*expected {first}-{last}"):
                    check_cron(text)


@pytest.mark.parametrize("field", FIELDS)
def test_every_number_name_and_step_is_taken(field):
    first, last = FIELDS[field]
    words = ["*", "?", *map(str, range(first, last + 1)), *NAMES.get(field, ())]
    words += [f"{a}-{b.upper()}" for a, b in itertools.combinations(NAMES.get(field, ()), 2)]
    words += [word + step for word in ("*", "?", f"{last}") for step in ("/1", "/2", f"/{last - first + 1}")]
    for word in [*words, ",".join(words)]:
        assert check_cron(text_with(field, word)) == text_with(field, word)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "word",
    [
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
        check_cron(text_with(field, word))


@pytest.mark.parametrize("text", ["", "@every 1h", "0 3 * * *", "0 0 3 * * * *"])
def test_another_number_of_fields_is_refused(text):
    with pytest.raises(CronError, match=f"got {len(text.split())} fields, expected 6: second, minute"):
        check_cron(text)


def test_the_field_that_most_forget_is_told():
    with pytest.raises(CronError, match=r"put 0 before it: '0 0 3 \* \* 1'$"):
        check_cron("0 3 * *  1")


def test_blanks_become_single_ones():
    assert check_cron(" 0  0 3 * *\t1 ") == "0 0 3 * * 1"


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
        with pytest.raises(CronError, match="never start"):
            check_cron(f"0 0 3 {days}")
