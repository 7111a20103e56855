"""The files of a repository as they are given out: by checked paths, in bounded pieces."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_PATH = re.compile(r"(metadata|targets)(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){1,3}")


class Piece(NamedTuple):
    """A part of a file. size: of all of it, in bytes."""

    content: bytes
    size: int


class ServedFiles:
    """Reads below the folder `repository/`, and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, path: str) -> int | None:
        """None where there is no such file, or it is none to be given out."""
        place = self._place(path)
        try:
            return None if place is None else place.stat().st_size
        except OSError:
            return None

    def read(self, path: str, offset: int, length: int) -> Piece | None:
        """None as for `size`. Raises OSError where the disk fails."""
        place = self._place(path)
        if place is None:
            return None
        try:
            handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            return Piece(os.pread(handle, length, offset), os.fstat(handle).st_size)
        finally:
            os.close(handle)

    def _place(self, path: str) -> Path | None:
        # `new` files are being written. Nothing that a name may begin with leads out of the folder.
        if _PATH.fullmatch(path) is None or path.endswith(".new"):
            return None
        place = self._folder / path
        return place if place.is_file() and not place.is_symlink() else None
