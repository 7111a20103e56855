"""Amounts in a configuration: what is understood, and what is said about the rest."""

from __future__ import annotations

import pytest

from edgeinfer.quantity import parse_bytes, parse_bytes_per_day, parse_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64_000_000), ("64 mb", 64_000_000), ("64MiB", 1 << 26), ("1.5kB", 1500), ("2GB", 2 * 10**9), ("9B", 9)],
)
def test_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("90min", 5400), ("1.5w", 907_200)])
def test_seconds(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("50MB/day", 50_000_000), ("2MB/hour", 48_000_000), ("1GB / day", 10**9)])
def test_bytes_per_day(text, size):
    assert parse_bytes_per_day(text) == size


@pytest.mark.parametrize(
    "text", ["", "64", "MB", "64XB", "-1MB", "0MB", "1e9MB", "64MB/day", "nan MB", "6 4MB", "9" * 99]
)
def test_no_amount_of_bytes(text):
    with pytest.raises(ValueError, match=r"64MB|above 0"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["7", "7 years", "d", "0s"])
def test_no_time(text):
    with pytest.raises(ValueError, match=r"7d|above 0"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["50MB", "50MB/year", "/day", "x/day"])
def test_no_amount_a_day(text):
    with pytest.raises(ValueError, match=r'write it like "'):
        parse_bytes_per_day(text)
