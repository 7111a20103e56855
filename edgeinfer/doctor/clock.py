"""The wall clock: results bear its time, and certificates are checked by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeinfer.board.roots import entries
from edgeinfer.clock import rfc3339
from edgeinfer.doctor.finding import Finding, Patient

_SET = "sudo timedatectl set-ntp true"
_DAY_NS = 86_400_000_000_000


def clock(patient: Patient) -> Iterator[Finding]:
    now_ns = patient.clock.unix_ns()
    # By then edgeinfer was installed.
    past_ns = Path(__file__).stat().st_mtime_ns
    if now_ns < past_ns - _DAY_NS:
        said = f"the clock says {rfc3339(now_ns)[:16]}, and edgeinfer was installed on {rfc3339(past_ns)[:10]}"
        yield Finding("error", said, _SET)
    elif patient.clock_state == "unsynced":
        yield Finding("warning", "nothing keeps the clock right: results say so, in clock: unsynced", _SET)
    if not entries(patient.roots.sys / "class/rtc", "rtc*"):
        said = "no clock runs on while the board is off: after a power cut without a network its time is wrong"
        yield Finding("note", said, "add a real-time clock with a battery, or a time server in the local network")
