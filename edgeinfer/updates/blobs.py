"""Files by content: `blobs/<sha256>`, whole or not there, and the bundle folders that are linked from them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from edgeinfer.durable import sync_folder
from edgeinfer.errors import ModelError, UpdateError, UpdateRefused

_CHUNK = 1 << 20
_ROOM_LEFT_BYTES = 16 << 20
# A file cannot be read or made for these, and is none the worse for it.
_NO_DAMAGE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}
)
_NO_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EACCES})


class Blobs:
    """The files of a store, read-only once they are there. One process at a time may take in and collect."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._bundles = folder / "bundles"
        for each in (self._blobs, self._bundles):
            if not each.is_dir():
                each.mkdir(parents=True, exist_ok=True)
                sync_folder(each.parent)

    def take_file(self, path: Path, length_max: int) -> tuple[str, int]:
        """Copy a file in; its sha256 and length. Raises ModelError where it is too long, OSError."""
        beside = self._blobs / f"{os.getpid()}.new"
        digest, length = hashlib.sha256(), 0
        try:
            with path.open("rb") as source, beside.open("wb") as file:
                while chunk := source.read(_CHUNK):
                    length += len(chunk)
                    if length > length_max:
                        raise ModelError(f"{path} is longer than {length_max} bytes")
                    digest.update(chunk)
                    file.write(chunk)
            self._settle(beside, digest.hexdigest())
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        return digest.hexdigest(), length

    def fetch(self, sha256: str, length: int, fetch: Callable[[str, int, Path], None]) -> None:
        """Have it brought, unless it is here and whole; what came of it before is gone on with.

        Raises UpdateRefused where something else was brought, UpdateError, OSError.
        """
        if self.is_whole(sha256):
            return
        beside = self._blobs / f"{sha256}.part"
        if beside.exists() and beside.stat().st_size > length:
            beside.unlink()
        fetch(sha256, length, beside)
        came = beside.stat().st_size
        if came < length:
            raise UpdateError(f"only {came} of {length} bytes came of {sha256[:12]}…")
        found = sha256_of(beside) if came == length else f"{came} bytes long"
        if found != sha256:
            beside.unlink()
            raise UpdateRefused(f"what came as {sha256[:12]}… is {found[:24]}, and was thrown away")
        self._settle(beside, sha256)

    def is_whole(self, sha256: str) -> bool:
        """Hashes it. Raises OSError only where that says nothing of the file."""
        return _hash_or_none(self._blobs / sha256) == sha256

    def bundle(self, name: str, files: Mapping[str, str]) -> Path:
        """The folder of that name with these files, path -> sha256, each hashed just now.

        Raises ModelError, which says which file is damaged; OSError where the disk is full or cannot be written.
        """
        folder = self._bundles / name
        for path, sha256 in files.items():
            place = folder / path
            if _hash_or_none(place) == sha256:
                continue
            if not self.is_whole(sha256):
                what = "is damaged" if place.exists() or (self._blobs / sha256).exists() else "is missing"
                raise ModelError(f"{path} {what}", hint="the next update brings it again")
            self._link(sha256, place)
        return folder

    def sizes(self) -> Mapping[str, int]:
        """Bytes of each blob."""
        return {each.name: each.stat().st_size for each in self._blobs.iterdir() if len(each.name) == 64}

    def make_room(self, needed_bytes: int, max_bytes: int, *, blobs: Collection[str], bundles: Collection[str]) -> None:
        """Let the oldest files go, but for those given, until there is room on the disk and within `max_bytes`.

        Raises UpdateError where there is not.
        """
        self._drop_bundles(bundles)
        self._drop_unfinished(blobs)
        sizes = dict(self.sizes())
        spare = sorted(sizes.keys() - set(blobs), key=lambda name: (self._blobs / name).stat().st_mtime)
        for name in spare:
            if self._has_room(needed_bytes) and sum(sizes.values()) + needed_bytes <= max_bytes:
                break
            (self._blobs / name).unlink(missing_ok=True)
            del sizes[name]
        sync_folder(self._blobs)
        if sum(sizes.values()) + needed_bytes > max_bytes:
            raise UpdateError(
                f"{needed_bytes} bytes do not fit: the models in use take {sum(sizes.values())} of {max_bytes}"
            )
        if not self._has_room(needed_bytes):
            raise UpdateError(f"no room on the disk of {self._blobs} for {needed_bytes} bytes more")

    def _drop_bundles(self, kept: Collection[str]) -> None:
        for folder in self._bundles.iterdir():
            if folder.name not in kept:
                _remove_tree(folder)

    def _drop_unfinished(self, wanted: Collection[str]) -> None:
        for each in self._blobs.iterdir():
            if each.suffix == ".new" or (each.suffix == ".part" and each.stem not in wanted):
                each.unlink(missing_ok=True)

    def _has_room(self, needed_bytes: int) -> bool:
        free = os.statvfs(self._blobs)
        return free.f_bavail * free.f_frsize >= needed_bytes + _ROOM_LEFT_BYTES

    def _settle(self, beside: Path, sha256: str) -> None:
        """What is complete gets its name, durably."""
        blob = self._blobs / sha256
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.chmod(0o444)
        beside.replace(blob)
        sync_folder(self._blobs)

    def _link(self, sha256: str, place: Path) -> None:
        """A second name of the blob; a copy where the file system has no such thing."""
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f"{place.name}.{os.getpid()}.new")
        beside.unlink(missing_ok=True)
        try:
            os.link(self._blobs / sha256, beside)
        except OSError as refused:
            if refused.errno not in _NO_LINKS:
                raise
            _copy(self._blobs / sha256, beside)
        beside.replace(place)
        for folder in (place.parent, self._bundles):
            sync_folder(folder)


def sha256_of(path: Path) -> str:
    """Of a file's content. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_or_none(path: Path) -> str | None:
    """None where there is no such file or it cannot be read. Raises OSError where that is not the file's fault."""
    try:
        return None if path.is_symlink() or not path.is_file() else sha256_of(path)
    except OSError as unreadable:
        if unreadable.errno in _NO_DAMAGE:
            raise
        return None


def _copy(blob: Path, place: Path) -> None:
    with blob.open("rb") as source, place.open("wb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _remove_tree(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    for each in folder.iterdir():
        _remove_tree(each)
    folder.rmdir()
