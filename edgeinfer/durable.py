"""Files that survive a power cut: the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import re
from itertools import islice
from pathlib import Path

_LEFTOVER = re.compile(r"(?P<stem>.+)\.(?P<pid>[0-9]{1,10})\.new")
_SWEPT_MAX = 4096


def replace_file(path: Path, content: bytes) -> None:
    """Write beside, fsync, rename over `path`, fsync the folder. Raises OSError, and leaves nothing beside it then."""
    beside = path.with_suffix(f".{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def sweep(folder: Path, stem: str | None = None) -> None:
    """Take away what `replace_file` left in a folder when the power went: of processes that are no more.

    For whoever owns the folder, at the start; with a stem only what was to become a file of that name without suffix.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, _SWEPT_MAX):
            left = _LEFTOVER.fullmatch(entry.name)
            if left is None or stem not in (None, left["stem"]) or not entry.is_file(follow_symlinks=False):
                continue
            if not _lives(int(left["pid"])):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # Somebody else's, or no number of a process: not ours to judge.
    return True


def sync_folder(folder: Path) -> None:
    """Make durable which files it holds: what was created, renamed and deleted in it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
