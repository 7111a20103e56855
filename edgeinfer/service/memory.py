"""What the process keeps and has no use for goes back to the kernel: free pages of the heap, and code that ran once."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

_MAPPINGS_MAX_BYTES = 16 << 20
# Where it begins and ends, access, and the path of what has an inode; offset and device are passed over.
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (?:[1-9][0-9]* +(/.*))?")


def give_back() -> None:
    """Whole pages of the heap that hold nothing. Takes some milliseconds; without glibc nothing is done.

    Each burst, such as the backlog after an outage of the broker, leaves its highest mark behind otherwise, here and
    there between what is in use, and a service of months has had many bursts.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


def unmap_code() -> None:
    """Pages of the program's and of libraries' files. What is still in use is mapped again as it is used: out of the
    page cache, and out of the file where memory was so short that it is not in there any more.

    Takes some tens of milliseconds, and the next run of a model some more. To import and to open things goes through
    tens of megabytes of code that is never needed again, and a kernel that reads files in large pieces maps each piece
    whole (Linux from 6.18 on); mapped, they are the last that it gives up where memory is short. Without Linux, or
    where it does not say what is mapped, nothing is done.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError), ExitStack() as kept:
        # Nothing may take the place of what is unmapped: as long as we hold a library, nobody can close it.
        held = {path for path in _programs() if _is_held(path, kept)}
        for each in mappings_in(_lines("smaps")):
            # What was written to, by the linker say, would be lost: it is in no file.
            if each.path in held and "w" not in each.access and each.is_private and not each.anonymous_kib:
                _libc().madvise(ctypes.c_void_p(each.begin), ctypes.c_size_t(each.end - each.begin), mmap.MADV_DONTNEED)


class Mapping(NamedTuple):
    """A part of the process's memory, by /proc/self/smaps; see proc_pid_smaps(5)."""

    begin: int
    end: int
    access: str
    path: str
    anonymous_kib: int

    @property
    def is_private(self) -> bool:
        return self.access.endswith("p")


def mappings_in(lines: Iterable[str]) -> Iterator[Mapping]:
    """Those of files, by the lines of smaps."""
    begin, end, access, path = 0, 0, "", ""
    for line in lines:
        if line.startswith("Anonymous:"):
            if path:
                yield Mapping(begin, end, access, path, int(line.split()[1]))
        elif (found := _HEAD.match(line)) is not None:
            begin, end, access, path = int(found[1], 16), int(found[2], 16), found[3], found[4] or ""


def _programs() -> set[str]:
    """The files that code is mapped from."""
    heads = (_HEAD.match(line) for line in _lines("maps"))
    return {head[4] for head in heads if head is not None and head[4] and "x" in head[3]}


def _lines(name: str) -> list[str]:
    content = b""
    with Path(f"/proc/self/{name}").open("rb", buffering=0) as file:
        while (more := file.read(1 << 20)) and len(content) < _MAPPINGS_MAX_BYTES:
            content += more
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode("utf-8", "surrogateescape").splitlines()


def _is_held(path: str, kept: ExitStack) -> bool:
    """Whether the file stays as it is in memory until `kept` is closed."""
    with suppress(OSError):
        if Path("/proc/self/exe").samefile(path):
            return True
    handle = _libc().dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_NOLOAD)
    if handle:
        kept.callback(_libc().dlclose, ctypes.c_void_p(handle))
    return bool(handle)


@cache
def _libc() -> ctypes.CDLL:
    """Its calls let other threads run: one of them may hold the linker's lock, and wait for Python's."""
    libc = ctypes.CDLL(None)
    libc.dlopen.restype = ctypes.c_void_p
    return libc


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
