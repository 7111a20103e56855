"""Spools in a folder of the test's own, on a clock that the test owns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeinfer.clock import Clock
from edgeinfer.uplink.message import Message, Spooled
from edgeinfer.uplink.spool import Spool

SMALL = 4_000_000


@dataclass
class Now:
    """A monotonic and a wall clock; `pass_` moves both, `jump` only the wall."""

    monotonic_s: float = 100.0
    unix_s: float = 1_795_000_000.0

    def pass_(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.unix_s += seconds

    def jump(self, seconds: float) -> None:
        self.unix_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: round(self.monotonic_s * 1e9), lambda: round(self.unix_s * 1e9))


@dataclass
class Shelf:
    """One spool file, opened and closed; alarms are what it called out."""

    path: Path
    now: Now = field(default_factory=Now)
    alarms: list[str] = field(default_factory=list)
    opened: list[Spool] = field(default_factory=list)

    def open(self, *, max_bytes: int = SMALL, max_age_s: float | None = None) -> Spool:
        spool = Spool.open(
            self.path, max_bytes=max_bytes, max_age_s=max_age_s, clock=self.now.clock, on_alarm=self.alarms.append
        )
        self.opened.append(spool)
        return spool

    def message(self, number: int, *, size: int = 60, clock: str = "synced", channel: str = "result") -> Message:
        data = f'{{"number":{number},"pad":"{"x" * size}"}}'.encode()
        return Message(channel, f"door-{number % 2}", round(self.now.unix_s * 1e9), clock, data)

    def messages(self, *numbers: int, **options: object) -> list[Message]:
        return [self.message(number, **options) for number in numbers]


@pytest.fixture
def shelf(tmp_path):
    shelf = Shelf(tmp_path / "state" / "spool.db")
    yield shelf
    for spool in shelf.opened:
        spool.close()


def everything(spool: Spool) -> list[Spooled]:
    """All that is not done."""
    found: list[Spooled] = []
    while batch := spool.read(found[-1].seq if found else 0, 100, 1 << 20):
        found += batch
    return found
