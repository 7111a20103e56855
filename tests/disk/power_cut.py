"""What a disk may hold after a power cut, given the trace of what was done to it.

Everything that was synced, and of the rest any part: nothing, everything, all up to some moment, or some writes and not
others, each of them whole or torn at a sector. Names keep their order, as every journalling file system does: of what
was created, renamed and deleted since the folder was synced, all up to some moment. A file may have got its new size
without the data that it was to hold.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.disk.faulty_disk import Change, Record

SECTOR_BYTES = 512

Fate = Literal["nothing", "everything", "until", "any"]
FATES: tuple[Fate, ...] = ("nothing", "everything", "until", "any", "any")


@dataclass
class _File:
    """synced: what is on the disk for sure; pending: writes and truncations since."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Record] = field(default_factory=list)


class Disk:
    """The files of one folder, as far as the trace was replayed."""

    def __init__(self, before: Path | None = None) -> None:
        self._before = before
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._pending_names: list[Record] = []
        self._untouched = {} if before is None else {each.name: each for each in before.iterdir()}

    def apply(self, record: Record) -> None:
        match record.change:
            case Change.CREATE:
                self._create(record)
            case Change.WRITE | Change.TRUNCATE:
                self._files[record.file].pending.append(record)
            case Change.SYNC:
                file = self._files[record.file]
                for each in file.pending:
                    _do(file.synced, each)
                file.pending.clear()
            case Change.SYNC_FOLDER:
                for each in self._pending_names:
                    _rename(self._names, self._untouched, each)
                self._pending_names.clear()
            case Change.RENAME | Change.UNLINK:
                self._pending_names.append(record)
            case Change.MARK:
                pass

    def cut(self, fate: Fate, rng: random.Random, folder: Path) -> None:
        """Write into an empty folder what the disk may hold if the power goes now."""
        names, untouched = dict(self._names), dict(self._untouched)
        kept = {"nothing": 0, "everything": len(self._pending_names)}.get(
            fate, rng.randint(0, len(self._pending_names))
        )
        for each in self._pending_names[:kept]:
            _rename(names, untouched, each)
        for name, path in untouched.items():
            (folder / name).write_bytes(path.read_bytes())
        for name, number in names.items():
            (folder / name).write_bytes(_survivor(self._files[number], fate, rng))

    def _create(self, record: Record) -> None:
        if not record.offset:
            self._files[record.file] = _File()
            self._pending_names.append(record)
        elif record.text in self._untouched:
            self._files[record.file] = _File(bytearray(self._untouched.pop(record.text).read_bytes()))
            self._names[record.text] = record.file
        else:
            raise AssertionError(f"{record.text} was there before, and nobody knows whence")


def _rename(names: dict[str, int], untouched: dict[str, Path], record: Record) -> None:
    if record.change is Change.CREATE:
        names[record.text] = record.file
    elif record.change is Change.UNLINK:
        names.pop(record.text, None)
        untouched.pop(record.text, None)
    else:
        old, new = record.text.split("/")
        untouched.pop(new, None)
        if old in untouched:
            untouched[new] = untouched.pop(old)
            names.pop(new, None)
        else:
            names[new] = names.pop(old)


def _survivor(file: _File, fate: Fate, rng: random.Random) -> bytearray:
    content = bytearray(file.synced)
    for record in _surviving(file.pending, fate, rng):
        _do(content, record)
    size = max((each.offset + len(each.data) for each in file.pending), default=0)
    if fate == "any" and size > len(content) and rng.random() < 0.5:
        content.extend(bytes(size - len(content)))
    return content


def _surviving(pending: list[Record], fate: Fate, rng: random.Random) -> Iterable[Record]:
    if fate == "nothing":
        return
    if fate == "everything":
        yield from pending
        return
    if fate == "until" and pending:
        whole = rng.randrange(len(pending))
        yield from pending[:whole]
        yield from _torn(pending[whole], rng)
        return
    share = rng.choice((0.1, 0.5, 0.9))
    for record in pending:
        if rng.random() < share:
            yield from (record,) if rng.random() < 0.5 else _torn(record, rng)


def _torn(record: Record, rng: random.Random) -> Iterable[Record]:
    """Some sectors of a write: those up to one, or any."""
    if record.change is Change.TRUNCATE:
        return
    edges = [0, *range(-record.offset % SECTOR_BYTES or SECTOR_BYTES, len(record.data), SECTOR_BYTES), len(record.data)]
    parts = list(itertools.pairwise(edges))
    share = rng.random()
    until = rng.randint(0, len(parts))
    is_begin = rng.random() < 0.5
    for index, (begin, end) in enumerate(parts):
        if index < until if is_begin else rng.random() < share:
            yield Record(Change.WRITE, record.file, record.offset + begin, record.data[begin:end])


def _do(content: bytearray, record: Record) -> None:
    if record.change is Change.TRUNCATE:
        del content[record.offset :]
        content.extend(bytes(record.offset - len(content)))
        return
    end = record.offset + len(record.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[record.offset : end] = record.data
