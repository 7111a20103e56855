"""A text file or stdout that takes whole lines: each is with the kernel when `write` returns."""

from __future__ import annotations

import os
import stat
import sys
from typing import BinaryIO

from edgeinfer.errors import OutputError


class LineFile:
    """Lines for `-` or a file; an existing file is begun anew."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._file: BinaryIO | None = None
        self._owns_file = uri != "-"
        try:
            # Unbuffered: a finished result survives the death of this process.
            self._file = open(uri, "wb", buffering=0) if self._owns_file else sys.stdout.buffer  # noqa: SIM115, PTH123
        except OSError as refused:
            raise OutputError(f"cannot write {uri}: {refused.strerror}") from refused

    def write(self, line: bytes) -> None:
        """One line, its line feed included. Raises OutputError."""
        if self._file is None:
            raise OutputError(f"{self.uri} is closed")
        try:
            remaining = memoryview(line)
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
            if not self._owns_file:
                self._file.flush()
        except BrokenPipeError as gone:
            raise OutputError(f"the reader of {self.uri} went away", reader_is_gone=True) from gone
        except OSError as failed:
            raise OutputError(f"cannot write {self.uri}: {failed.strerror}") from failed

    def close(self) -> None:
        """Make it durable; may be called twice."""
        file, self._file = self._file, None
        if file is None or not self._owns_file:
            return
        try:
            with file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    os.fsync(file.fileno())
        except OSError as failed:
            raise OutputError(f"cannot finish {self.uri}: {failed.strerror}") from failed
