"""Damaged spools, kept beside the new one for whoever wants to look at them: the newest few."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgeinfer.durable import sync_folder
from edgeinfer.uplink.blank import wal_of

_KEPT_MAX = 2


def put(path: Path, why: str) -> str:
    """Rename the file and its log, durably; what to tell people. Raises OSError."""
    earlier = before(path)
    aside = path.with_name(f"{path.name}.corrupt-{1 + max(map(_number, earlier), default=0)}")
    path.rename(aside)
    sync_folder(path.parent)  # Before the log goes: without it the file would pass for an older, sound one.
    with contextlib.suppress(FileNotFoundError):
        wal_of(path).rename(wal_of(aside))
    for old in [*earlier, aside][:-_KEPT_MAX]:
        forget(old)
    sync_folder(path.parent)
    return f"the spool {path} {why}; it was set aside as {aside.name}"


def before(path: Path) -> list[Path]:
    """What was set aside of that file, the oldest first."""
    found = [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}.corrupt-")]
    return sorted((each for each in found if each.name.rpartition("-")[2].isdecimal()), key=_number)


def forget(aside: Path) -> None:
    wal_of(aside).unlink(missing_ok=True)
    aside.unlink(missing_ok=True)


def _number(aside: Path) -> int:
    return int(aside.name.rpartition("-")[2])
