"""The board itself: its supply, its heat, its memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeinfer.access import how_to_join
from edgeinfer.board import Watch, firmware
from edgeinfer.board.roots import read_bytes
from edgeinfer.doctor.finding import Finding, Patient

_NEAR_C = 5.0
_LITTLE_MEMORY_SHARE = 0.08
_LITTLE_MEMORY_BYTES = 100 << 20
_SUPPLY = "use the supply that the board's maker sells for it, a short cable, and a powered hub for what is on USB"
_COOLER = "give it a heat sink, a fan or air; until then [governor] in the configuration slows it down in time"


def power(patient: Patient) -> Iterator[Finding]:
    flags = firmware.throttled_flags(patient.roots)
    if flags is None:
        if any(name.startswith("raspberrypi,") for name in patient.board.compatible) and patient.roots.is_here:
            said = "the firmware does not tell this user whether the supply is good enough"
            yield Finding("note", said, how_to_join("video"))
    elif flags & firmware.UNDER_VOLTAGE:
        yield Finding("error", "the supply's voltage is too low now: the board is slow, and may lose data", _SUPPLY)
    elif flags & firmware.UNDER_VOLTAGE_WAS:
        yield Finding("warning", "the supply's voltage was too low since the board was switched on", _SUPPLY)


def heat(patient: Patient) -> Iterator[Finding]:
    vitals = Watch(patient.board, patient.roots).look()
    for each in vitals.heats:
        if each.now_c >= each.limit_c - _NEAR_C:
            said = f"{each.type} is at {each.now_c:.0f} °C, and clocks go down at {each.limit_c:g} °C"
            yield Finding("warning", said, _COOLER)
    for words in vitals.throttled:
        yield Finding("warning", f"{words} now", _COOLER)
    if not vitals.throttled and (firmware.throttled_flags(patient.roots) or 0) & firmware.THROTTLED_WAS:
        yield Finding("note", "the firmware has throttled since the board was switched on", _COOLER)


def memory(patient: Patient) -> Iterator[Finding]:
    proc = patient.roots.proc
    available = re.search(rb"^MemAvailable:\s*(\d{1,15}) kB", read_bytes(proc / "meminfo"), re.MULTILINE)
    total = patient.board.memory_bytes
    if available is not None and total:
        left = int(available[1]) * 1024
        if left < min(_LITTLE_MEMORY_BYTES, total * _LITTLE_MEMORY_SHARE):
            said = f"only {left >> 20} MiB of memory are left"
            yield Finding("warning", said, "ps -e -o rss,comm --sort -rss | head")
    killed = re.search(rb"^oom_kill (\d{1,15})$", read_bytes(proc / "vmstat"), re.MULTILINE)
    if killed is not None and int(killed[1]):
        said = f"programs were killed for want of memory since the board was switched on: {int(killed[1])}"
        yield Finding("warning", said, "sudo journalctl -k --grep 'Out of memory'")
