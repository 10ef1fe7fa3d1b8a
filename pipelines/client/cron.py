"""Validate six-field cron as Kubeflow reads it (robfig/cron v1.2.0: seconds first) before submission."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, product

from core.errors import UserError

FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 6),
)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
NAMES = {
    "month": {name: number for number, name in enumerate(MONTHS, 1)},
    "day of the week": {name: number for number, name in enumerate(DAYS)},
}
HORIZON = 8 * 366  # days; the next 29 February may be eight years away


class Cron:
    """A schedule of six fields: second, minute, hour, day of the month, month, day of the week.

    Args:
        text: the fields, separated by spaces.

    Raises:
        UserError: the text is not such a schedule, or its time never comes.
    """

    def __init__(self, text: str) -> None:
        words = text.split()
        if len(words) == 5:
            raise UserError(f"--cron '{text}': five fields; Kubeflow's first one is the second: '0 {' '.join(words)}'?")
        if len(words) != len(FIELDS):
            raise UserError(f"--cron '{text}': {len(words)} fields, not six: {', '.join(name for name, *_ in FIELDS)}")
        self.text = " ".join(words)
        self._values = [_field(word, *field) for word, field in zip(words, FIELDS, strict=True)]
        # A star in a list makes the whole field a star, as in robfig/cron v1.2.0.
        self._any_day, self._any_weekday = (any(part[:1] in "*?" for part in words[n].split(",")) for n in (3, 5))
        if not self.next(1):
            raise UserError(f"--cron '{self.text}': no such day ever comes")

    def next(self, count: int, after: datetime | None = None) -> list[datetime]:
        """Return the next ``count`` times after ``after`` (default: now) in UTC, Kubeflow's default time zone."""
        after = after or datetime.now(UTC)
        times = (
            moment
            for days in range(HORIZON)
            if self._falls_on(day := (after + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0))
            for hour, minute, second in product(*(sorted(self._values[field]) for field in (2, 1, 0)))
            if (moment := day.replace(hour=hour, minute=minute, second=second)) > after
        )
        return list(islice(times, count))

    def _falls_on(self, day: datetime) -> bool:
        in_month, on_weekday = day.day in self._values[3], day.isoweekday() % 7 in self._values[5]
        # As in any cron, a day of the month and a day of the week are alternatives.
        alternatives = not (self._any_day or self._any_weekday)
        return day.month in self._values[4] and (in_month or on_weekday if alternatives else in_month and on_weekday)


def _field(text: str, name: str, low: int, high: int) -> set[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if first in ("*", "?") and not dash:
            start, end = low, high
        else:
            start = _number(first, name, text)
            # A single number with a step extends to the field's end.
            end = _number(last, name, text) if dash else high if slash else start
        width = _number(step, name, text) if slash else 1
        if not low <= start <= end <= high or width < 1:
            raise UserError(f"--cron: {name} '{text}': takes {low} to {high}, ranges that ascend and steps from 1")
        values.update(range(start, end + 1, width))
    return values


def _number(text: str, name: str, field: str) -> int:
    known = NAMES.get(name, {})
    if text.lower() in known:
        return known[text.lower()]
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"--cron: {name} '{field}': '{text}' is no number")
    return int(text)
