"""HTTP dates (RFC 9110 §5.6.7): the preferred form and the two obsolete ones, strictly."""

from __future__ import annotations

import calendar
import re
from email.utils import formatdate

_MONTHS = {name: number for number, name in enumerate(calendar.month_abbr) if name}
_IMF = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT")
_RFC850 = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (\d\d)-([A-Z][a-z]{2})-(\d\d) (\d\d):(\d\d):(\d\d) GMT"
)
_ASCTIME = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d) (\d{4})"
)


def parse_date(value: bytes | None) -> float | None:
    """Epoch seconds of a date in any of the three forms; None when absent or malformed."""
    if value is None:
        return None
    text = value.decode("latin-1")
    if match := _IMF.fullmatch(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.fullmatch(text):
        day, month, year, *clock = match.groups()
        year = str(int(year) + (2000 if int(year) < 70 else 1900))
    elif match := _ASCTIME.fullmatch(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    hour, minute, second = (int(part) for part in clock)
    if (
        int(year) == 0
        or month not in _MONTHS
        or not 1 <= int(day) <= 31
        or hour > 23
        or minute > 59
        or second > 60
    ):
        return None
    return float(calendar.timegm((int(year), _MONTHS[month], int(day), hour, minute, second)))


def format_date(seconds: float) -> bytes:
    """The preferred form of an instant."""
    return formatdate(seconds, usegmt=True).encode()
