"""How much of the cores' time other programs take, and how much nobody."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgeinfer.board.roots import Roots, entries, read_bytes

_IDLE = frozenset({3, 4})  # Of the columns of /proc/stat: idle, and idle while a disk is waited for.
_COLUMNS = 8  # The rest, of guests, is counted in the first two already.
# pid (name) state ppid … utime stime cutime cstime: a name may hold anything, even a bracket.
_PROCESS = re.compile(
    rb"\d+ \(.*\) \S (\d{1,10})(?: -?\d+){9} (\d{1,18}) (\d{1,18}) (-?\d{1,18}) (-?\d{1,18}) ", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class CoreTime:
    """What all cores together have had to give since the start, and what others than we took of it, in ticks."""

    total: int
    others: int

    def others_since(self, before: CoreTime) -> float:
        """Their share of the time since then, 0..1."""
        total = self.total - before.total
        return min(max((self.others - before.others) / total, 0.0), 1.0) if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class IdleTime:
    """What all `cores` of the machine together have had to give since the start, and what nobody took, in ticks."""

    cores: int
    total: int
    idle: int

    def cores_since(self, before: IdleTime) -> float:
        """How many cores nobody took since then, 0..cores."""
        total = self.total - before.total
        return self.cores * min(max((self.idle - before.idle) / total, 0.0), 1.0) if total > 0 else 0.0


def idle_time(roots: Roots | None = None) -> IdleTime | None:
    """Until now; None where the kernel does not say."""
    lines = read_bytes((roots or Roots()).proc / "stat").split(b"\n")
    columns = _columns(lines[0])
    if len(columns) < _COLUMNS:
        return None
    cores = sum(line.startswith(b"cpu") for line in lines[1:])
    return IdleTime(cores, sum(columns), sum(columns[column] for column in _IDLE))


def core_time(roots: Roots | None = None, pid: int | None = None) -> CoreTime | None:
    """Until now. We are that process, else this one, with all that it began; None where the kernel does not say."""
    roots = roots or Roots()
    columns = _columns(read_bytes(roots.proc / "stat").split(b"\n")[0])
    ours = _ticks_of(roots, os.getpid() if pid is None else pid)
    if len(columns) < _COLUMNS or ours is None:
        return None
    busy = sum(ticks for column, ticks in enumerate(columns) if column not in _IDLE)
    return CoreTime(sum(columns), busy - ours)


def _columns(line: bytes) -> list[int]:
    return [int(each) for each in line.split()[1 : _COLUMNS + 1] if each.isdigit()]


def _ticks_of(roots: Roots, pid: int) -> int | None:
    """Of a process and those that it began, which may be workers that compute; None where it is not to be seen."""
    parents, ticks = {}, {}
    for number, parent, taken in _processes(roots):
        parents[number], ticks[number] = parent, taken
    if pid not in ticks:
        return None
    children: dict[int, list[int]] = {}
    for number, parent in parents.items():
        children.setdefault(parent, []).append(number)
    total, left = 0, [pid]
    while left:
        number = left.pop()
        total += ticks.pop(number, 0)
        left += children.pop(number, [])
    return total


def _processes(roots: Roots) -> Iterator[tuple[int, int, int]]:
    """Number, parent, and ticks with those of children that have ended."""
    for folder in entries(roots.proc, "[0-9]*"):
        found = _PROCESS.match(read_bytes(folder / "stat", 1024))
        if found is not None and folder.name.isdecimal():
            parent, *taken = map(int, found.groups())
            yield int(folder.name), parent, sum(taken)
