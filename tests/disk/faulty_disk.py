"""The library of faulty_disk.c, compiled when it is first asked for, and what its trace says."""

from __future__ import annotations

import ctypes
import enum
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared")
_RECORD = struct.Struct("<IIQII")
_ROOT = Path(__file__).parents[2]


class NoCompiler(Exception):
    """The message says what is missing."""


class Change(enum.IntEnum):
    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    SYNC_FOLDER = 5
    RENAME = 6
    UNLINK = 7
    MARK = 8


class Fault(enum.IntEnum):
    """What fails: GROW as on a full disk, where what lies in the room that a file has can still be written."""

    WRITE = 0
    SYNC = 1
    READ = 2
    NAME = 3
    GROW = 4


@dataclass(frozen=True, slots=True)
class Record:
    """file: its number, 0 where a name is meant. offset: of a WRITE; the size, of a TRUNCATE; 1 in a CREATE of a file
    that was there before. data: what was written; a name, two of them with a / between, or a mark."""

    change: Change
    file: int
    offset: int
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode()


def library() -> Path:
    """Raises NoCompiler."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise NoCompiler("no C compiler (cc, gcc or clang) to build the faulty disk with")
    key = hashlib.sha256(_SOURCE.read_bytes() + compiler.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"edgeinfer-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"faulty_disk-{key}.so"
    if not built.exists():
        beside = built.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *_FLAGS, "-o", str(beside), str(_SOURCE), "-ldl"], check=True, timeout=60)
        beside.replace(built)
    return built


def run(program: Sequence[str], folder: Path, trace: Path | None = None) -> str:
    """What a Python program prints whose files in `folder` are on that disk. program: as after `python`."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library()),
        "FAULTY_DISK_FOLDER": str(folder),
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if trace is not None:
        environment["FAULTY_DISK_TRACE"] = str(trace)
    done = subprocess.run(
        [sys.executable, *program], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(program)[:200]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def records(trace: Path) -> Iterator[Record]:
    """In order."""
    data = trace.read_bytes()
    at = 0
    while at < len(data):
        change, file, offset, length, _ = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        yield Record(Change(change), file, offset, data[at : at + length])
        at += length


def mark(text: str) -> None:
    """Put a line into the trace of this process, which runs on that disk."""
    ctypes.CDLL(None).disk_mark(text.encode())


def fail(fault: Fault, error: int, *, after: int = 0, times: int = -1) -> None:
    """From now on, in this process: see faulty_disk.c. error: 0 for none."""
    ctypes.CDLL(None).disk_fault(int(fault), error, ctypes.c_long(after), ctypes.c_long(times))
