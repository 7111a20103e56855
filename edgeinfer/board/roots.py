"""Where a kernel shows its hardware, and how to read that without trusting it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

# Nothing that a kernel writes is long; a tree that somebody hands in may hold anything.
WORD_MAX = 200
ENTRIES_MAX = 4096
_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class Roots:
    """Where to look: this machine, or a recorded tree of another board."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")
    etc: Path = Path("/etc")
    usr: Path = Path("/usr")
    var: Path = Path("/var")

    @property
    def is_here(self) -> bool:
        """Whether it is this machine's own kernel that answers."""
        return (self.sys, self.proc, self.dev) == (Path("/sys"), Path("/proc"), Path("/dev"))


def read_bytes(path: Path, limit: int = _BYTES_MAX) -> bytes:
    """At most `limit` bytes of a file; nothing where it cannot be read."""
    try:
        # Non-blocking: a pipe in a tree that was handed in must not stop us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return b""
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(limit) or b""
    except OSError:
        return b""


def read_line(path: Path) -> str:
    """The first line of a file, printable; "" where there is none."""
    return printable(read_bytes(path, WORD_MAX).split(b"\n")[0])


def printable(raw: bytes) -> str:
    text = raw.strip(b"\0 \t\r\n").decode(errors="replace")
    return "".join(letter for letter in text if letter.isprintable())


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder, sorted so that 10 follows 9; nothing where it cannot be listed."""
    try:
        with os.scandir(folder) as listing:
            names = [entry.name for entry in islice(listing, ENTRIES_MAX) if fnmatchcase(entry.name, pattern)]
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def read_int(path: Path) -> int | None:
    text = read_line(path)
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None
