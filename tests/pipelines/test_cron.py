"""The six fields that Kubeflow takes, and what it would not."""

import pytest

from pipelines.cron import FIELDS, CronError, check_cron


@pytest.mark.parametrize(
    "text",
    [
        "0 0 3 * * 1",
        "0 0 3 * * mon",
        "*/15 * * * * ?",
        "0 0,30 9-17 * JAN-mar Mon-Fri",
        "0 0 9 ? * 2-6",
        "0 5/10 * 1-7/2 * *",
        "59 59 23 31 12 6",
    ],
)
def test_what_kubeflow_takes_is_taken(text):
    assert check_cron(f"  {text.replace(' ', '  ')} ") == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 3 * * 1", "say '0 0 3 * * 1'"),
        ("@weekly", "has 1 fields, expected 6"),
        ("0 0 0 3 * * 1", "has 7 fields"),
        ("60 0 3 * * *", "'60' is no second, expected 0 to 59"),
        ("0 0 24 * * *", "'24' is no hour"),
        ("0 0 3 0 * *", "'0' is no day of the month, expected 1 to 31"),
        ("0 0 3 * 13 *", "'13' is no month"),
        ("0 0 3 * * 7", "'7' is no day of the week, expected 0 to 6 or sun"),
        ("0 0 3 * * moon", "'moon' is no day of the week"),
        ("0 0 5-3 * * *", "'5-3' of the hour ends before it begins"),
        ("0 */0 3 * * *", "step '0' of the minute"),
        ("0 0 3 * * 1,", "'' is no day of the week"),
        ("0 0 -1 * * *", "'' is no hour"),
        ("0 0 mon * * *", "'mon' is no hour"),
    ],
)
def test_what_it_would_not_take_is_named(text, said):
    with pytest.raises(CronError) as caught:
        check_cron(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(("place", "field"), list(enumerate(FIELDS)))
def test_a_number_is_taken_exactly_where_it_is_in_range(place, field):
    _, low, high = field
    for number in range(70):
        fields = ["*"] * 6
        fields[place] = str(number)
        if low <= number <= high:
            check_cron(" ".join(fields))
        else:
            with pytest.raises(CronError):
                check_cron(" ".join(fields))
