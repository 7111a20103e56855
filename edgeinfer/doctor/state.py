"""The state folder, the disk below it, and the spool in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from edgeinfer.board.roots import ENTRIES_MAX
from edgeinfer.doctor.finding import Finding, Patient
from edgeinfer.quantity import parse_bytes

_FULL_BYTES = 50_000_000
_NEARLY_FULL_BYTES = 1_000_000_000
_NEARLY_FULL_SHARE = 0.05
_ROOM = "sudo apt clean && sudo journalctl --vacuum-size=50M"


def folder(patient: Patient) -> Iterator[Finding]:
    """Whether something can be written there."""
    state = patient.state
    if state is None:
        return
    there = _lowest(state)
    try:
        if there == state:
            with tempfile.TemporaryFile(dir=state) as file:
                file.write(b"edgeinfer")
                file.flush()
                os.fsync(file.fileno())
        elif not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13))
    except PermissionError as closed:
        yield Finding(
            "error",
            f"nothing can be kept in {state}: {closed.strerror}",
            f'sudo install -d -o "$(id -un)" -g "$(id -gn)" {state}',
        )
    except OSError as failed:
        yield Finding("error", f"nothing can be kept in {state}: {failed.strerror}", "sudo dmesg --level err,warn")


def disk(patient: Patient) -> Iterator[Finding]:
    if patient.state is None:
        return
    there = _lowest(patient.state)
    facts = os.statvfs(there)
    free, whole = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    if facts.f_flag & os.ST_RDONLY:
        said = f"the disk with {there} is read-only: the kernel does that to one that fails"
        yield Finding("error", said, "sudo dmesg --level err,warn; if it is sound: sudo mount -o remount,rw /")
    elif free < _FULL_BYTES:
        yield Finding("error", f"the disk with {there} is full: {_mb(free)} of {_mb(whole)} are free", _ROOM)
    elif free < min(_NEARLY_FULL_BYTES, whole * _NEARLY_FULL_SHARE):
        yield Finding("warning", f"the disk with {there} is nearly full: {_mb(free)} of {_mb(whole)} are free", _ROOM)
    if facts.f_files and not facts.f_favail:
        yield Finding("error", f"the disk with {there} can hold no more files", "df -i; find / -xdev -type d -size +1M")


def spool(patient: Patient) -> Iterator[Finding]:
    """Whether what is configured fits on the disk, and whether something was lost. Not opened: it may be in use."""
    config, state = patient.config, patient.state
    if state is None or config is None or config.uplink is None:
        return
    files = [path for path in islice((state / "uplink").glob("*/spool*"), ENTRIES_MAX) if path.is_file()]
    aside = [path for path in files if ".corrupt-" in path.name]
    if aside:
        yield Finding(
            "warning",
            f"a damaged spool was set aside, and what it held was not sent: {aside[0]}",
            f"rm {state}/uplink/*/spool.corrupt-*",
        )
    with suppress(ValueError):  # The configuration's own check says it.
        most = parse_bytes(config.uplink.spool_bytes)
        held = sum(path.stat().st_size for path in files if path not in aside)
        facts = os.statvfs(_lowest(state))
        free = facts.f_bavail * facts.f_frsize
        if most - held > free:
            yield Finding(
                "warning",
                f"the spool may grow to {_mb(most)}, and there is room for {_mb(held + free)}",
                f'[uplink] spool_bytes = "{(held + free) // 2_000_000}MB"',
            )


def _lowest(path: Path) -> Path:
    """The folder itself, or of those above it the lowest that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir())


def _mb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
