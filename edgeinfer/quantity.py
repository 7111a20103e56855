"""Amounts as a person writes them: "64MB", "7d", "50MB/day", "5%"."""

from __future__ import annotations

import re

_BYTES = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMG", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMG", 1)},
}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PERIODS = {"hour": 3600, "day": 86_400}

_AMOUNT = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]+)\s*\Z")


def parse_bytes(text: str) -> int:
    """Bytes: "64MB" is 64 000 000, "64MiB" 67 108 864. Raises ValueError: one line that says what is understood."""
    return round(_amount(text, _BYTES, "64MB"))


def parse_seconds(text: str) -> float:
    """Seconds: "7d", "12h", "90min". Raises ValueError."""
    return _amount(text, _SECONDS, "7d")


def parse_bytes_per_day(text: str) -> int:
    """Bytes a day: "50MB/day", "2MB/hour". Raises ValueError."""
    amount, slash, period = text.partition("/")
    seconds = _PERIODS.get(period.strip())
    if not slash or seconds is None:
        raise ValueError(f'{text!r} is no amount a day; write it like "50MB/day"')
    return round(parse_bytes(amount) * 86_400 / seconds)


def parse_share(text: str) -> float:
    """0..1: "5%" is 0.05, above 0 and at most "100%". Raises ValueError."""
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / 100 if percent and not rest else None
    except ValueError:
        share = None
    if share is None or not 0 < share <= 1:
        raise ValueError(f'{text!r} is no share; write it like "5%"')
    return share


def _amount(text: str, units: dict[str, int], example: str) -> float:
    parts = _AMOUNT.match(text)
    scale = next((value for unit, value in units.items() if parts and unit.lower() == parts[2].lower()), None)
    if parts is None or scale is None:
        raise ValueError(f'{text!r} is not understood; write it like "{example}" (units: {", ".join(units)})')
    amount = float(parts[1]) * scale
    if amount <= 0:
        raise ValueError(f"{text!r} must be above 0")
    return amount
