"""A text file or stdout that takes whole lines: each is with the kernel when `write` returns."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import threading
from pathlib import Path

from edgeinfer.errors import OutputError

# Several pipelines may share stdout: their lines take turns.
_STDOUT = threading.Lock()


class LineFile:
    """Lines for `-` or a file; an existing file is begun anew, or gone on with by `append`.

    is_empty: whether there is nothing in it yet.
    """

    def __init__(self, uri: str, *, append: bool = False) -> None:
        self.uri = uri
        self.is_empty = True
        self._turn = _STDOUT if uri == "-" else threading.Lock()
        self._file: io.FileIO | None = None
        try:
            # Unbuffered: a finished result survives the death of this process.
            self._file = io.FileIO(_stdout() if uri == "-" else _open(uri, append=append), "wb")
            if append and uri != "-":
                self._go_on(self._file)
        except OSError as refused:
            raise OutputError(f"cannot write {uri}: {refused.strerror or refused}") from refused
        except ValueError as impossible:  # A NUL in the name.
            raise OutputError(f"cannot write {uri!r}: {impossible}") from impossible

    def _go_on(self, file: io.FileIO) -> None:
        there = os.fstat(file.fileno())
        if not (stat.S_ISREG(there.st_mode) and there.st_size):
            return
        self.is_empty = False
        with Path(self.uri).open("rb") as written:
            written.seek(-1, os.SEEK_END)
            if written.read(1) != b"\n":  # The power went in the middle of a line.
                _write_all(file, b"\n")

    def write(self, line: bytes) -> None:
        """One line, its line feed included. Raises OutputError."""
        if self._file is None:
            raise OutputError(f"{self.uri} is closed")
        try:
            with self._turn:
                _write_all(self._file, line)
        except BrokenPipeError as gone:
            raise OutputError(f"the reader of {self.uri} went away", reader_is_gone=True) from gone
        except OSError as failed:
            raise OutputError(f"cannot write {self.uri}: {failed.strerror}") from failed

    def close(self) -> None:
        """Make it durable; may be called twice."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            with file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    os.fsync(file.fileno())
        except OSError as failed:
            raise OutputError(f"cannot finish {self.uri}: {failed.strerror}") from failed


def _open(path: str, *, append: bool) -> int:
    begin = os.O_APPEND if append else os.O_TRUNC
    # A pipe that nobody reads is an error now, and not a wait for ever.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | begin | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    os.set_blocking(handle, True)
    return handle


def _stdout() -> int:
    """stdout for us alone, after what was printed so far."""
    if sys.stdout is None:
        raise OSError("stdout is closed")
    sys.stdout.flush()
    # Past Python's buffer: whoever flushes that would wait for a reader that does not read.
    return os.dup(sys.stdout.fileno())


def _write_all(file: io.FileIO, line: bytes) -> None:
    remaining = memoryview(line)
    while remaining:
        written = file.write(remaining)
        if written is None:  # Somebody made it non-blocking, and it is full.
            select.select([], [file], [])
            continue
        remaining = remaining[written:]
