"""What the process keeps and has no use for goes back to the kernel: free pages of the heap, and code that ran once."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from functools import cache

# Of ELF: elf.h of any C library.
_PT_LOAD, _PT_DYNAMIC, _PF_W = 1, 2, 2
_DT_NULL, _DT_TEXTREL, _DT_FLAGS, _DF_TEXTREL = 0, 22, 30, 4


def give_back() -> None:
    """Whole pages of the heap that hold nothing. Takes some milliseconds; without glibc nothing is done.

    Each burst, such as the backlog after an outage of the broker, leaves its highest mark behind otherwise, here and
    there between what is in use, and a service of months has had many bursts.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


def unmap_code() -> None:
    """Pages of the program's and of libraries' files; what is still in use comes back from the page cache.

    Takes some milliseconds, and as many again until all is back. To import and to open things goes through tens of
    megabytes of code that is never needed again, and a kernel that reads files in large pieces maps each piece whole
    (Linux from 6.18 on); mapped, they are the last that it gives up where memory is short.
    """
    if (iterate := _dl_iterate_phdr()) is not None:
        iterate(_UNMAP, None)


class _Segment(ctypes.Structure):
    """Elf64_Phdr."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("vaddr", ctypes.c_uint64),
        ("paddr", ctypes.c_uint64),
        ("file_size", ctypes.c_uint64),
        ("memory_size", ctypes.c_uint64),
        ("align", ctypes.c_uint64),
    )


class _Object(ctypes.Structure):
    """What dl_phdr_info begins with: a program or a library, as it is loaded."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("segments", ctypes.c_void_p),
        ("segment_count", ctypes.c_uint16),
    )


class _Dynamic(ctypes.Structure):
    """Elf64_Dyn."""

    _fields_ = (("tag", ctypes.c_int64), ("value", ctypes.c_uint64))


# Calls that keep Python's lock: the linker's own is held meanwhile, and whoever imports waits for it with Python's.
_Visit = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Object), ctypes.c_size_t, ctypes.c_void_p)


def _unmap(loaded: ctypes._Pointer[_Object], _size: int, _more: int | None) -> int:
    each = loaded.contents
    segments = list((_Segment * each.segment_count).from_address(each.segments))
    if not _is_changed_in_memory(each.base, segments):
        for begin, end in _read_only(each.base, segments):
            # Refused for what is no file, such as the kernel's own object; there is nothing to gain there.
            _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
    return 0


_UNMAP = _Visit(_unmap)


def _read_only(base: int, segments: list[_Segment]) -> Iterator[tuple[int, int]]:
    """Where whole pages of a file are that nobody writes to: for them memory holds nothing that the file does not."""
    for segment in segments:
        if segment.type == _PT_LOAD and not segment.flags & _PF_W:
            begin = base + segment.vaddr
            first, last = -(-begin // mmap.PAGESIZE), (begin + segment.file_size) // mmap.PAGESIZE
            if first < last:
                yield first * mmap.PAGESIZE, last * mmap.PAGESIZE


def _is_changed_in_memory(base: int, segments: list[_Segment]) -> bool:
    """Whether the linker has written addresses into the code, as it does where that was not built to lie anywhere."""
    for segment in segments:
        if segment.type == _PT_DYNAMIC:
            count = segment.memory_size // ctypes.sizeof(_Dynamic)
            for entry in (_Dynamic * count).from_address(base + segment.vaddr):
                if entry.tag == _DT_NULL:
                    break
                if entry.tag == _DT_TEXTREL or (entry.tag == _DT_FLAGS and entry.value & _DF_TEXTREL):
                    return True
    return False


@cache
def _libc() -> ctypes.PyDLL:
    return ctypes.PyDLL(None)


@cache
def _dl_iterate_phdr() -> Callable[..., int] | None:
    """None where there is none, or where objects are laid out in another way."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return None
    iterate: Callable[..., int] | None = getattr(_libc(), "dl_iterate_phdr", None)
    return iterate


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
