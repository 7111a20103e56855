"""The metadata that a node trusts: a folder that is exchanged as a whole, and is on the disk before it counts.

The client of The Update Framework writes into it file by file and syncs none of them. After a power cut some would be
empty, and then it would take a rollback for news. So it is given a copy, which takes the place of the other one by the
renaming of a link once all of it is on the disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeinfer.durable import replace_file, sync_folder
from edgeinfer.errors import UpdateError, UsageError

_ROOT_BYTES_MAX = 512_000
_CURRENT, _ROOT = "current", "first.root.json"
_TURNS = ("a", "b")


class TrustFolder:
    """A folder for the metadata of one repository. One process at a time may change it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def first_root(self, given: Path | None) -> bytes:
        """The root metadata that trust begins with: what is given, and from then on what was given last.

        Raises UsageError where none ever was, UpdateError.
        """
        kept = self._folder / _ROOT
        try:
            if given is None:
                return _read(kept)
            content = _read(given)
            if not kept.exists() or _read(kept) != content:
                replace_file(kept, content)
        except FileNotFoundError as missing:
            if given is not None:
                raise UsageError(f"there is no {given}", hint="it is the file root.json of the publisher") from missing
            raise UsageError(
                "nobody has said whose signatures count", hint="give --root FILE, the root.json of the publisher"
            ) from missing
        except OSError as failed:
            raise UpdateError(f"cannot read or keep the root metadata: {failed}") from failed
        return content

    @contextmanager
    def change(self) -> Iterator[Path]:
        """A copy to be changed, which counts from the end of the block on, also of one that raises: nothing that was
        not verified is written into it, and a new root holds whatever came after it."""
        current = self._folder / _CURRENT
        now = current.readlink().name if current.is_symlink() else None
        next_one = _TURNS[1] if now == _TURNS[0] else _TURNS[0]
        copy = self._folder / next_one
        if copy.is_dir():
            shutil.rmtree(copy)
        if now is not None and (self._folder / now).is_dir():
            shutil.copytree(self._folder / now, copy, symlinks=True)
        else:
            copy.mkdir()
        try:
            yield copy
        finally:
            self._settle(copy)

    def _settle(self, copy: Path) -> None:
        _sync_tree(copy)
        sync_folder(self._folder)
        link = self._folder / f"{_CURRENT}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(copy.name)
        link.replace(self._folder / _CURRENT)
        sync_folder(self._folder)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_ROOT_BYTES_MAX + 1)
    if len(content) > _ROOT_BYTES_MAX:
        raise UpdateError(f"{path} is longer than root metadata may be")
    return content


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _sync_tree(path)
        elif path.name.startswith("tmp"):
            path.unlink()  # What the client was about to write.
        elif not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
