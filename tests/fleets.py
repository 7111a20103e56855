"""Publishers for tests: a real signed repository of made-up bundles, and the times at which it is looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from edgeinfer.clock import Clock
from edgeinfer.fleet.keys import KeyFiles
from edgeinfer.fleet.repository import FleetRepository, Published, Settings
from edgeinfer.updates.manifest import FileEntry, Manifest

PASSPHRASE = b"correct horse battery"
DAY_S = 86_400
NOW_S = 1_800_000_000  # In 2027, and after this package was made.


class Wall:
    """A wall clock that a test sets, in seconds; monotonic time is the real one."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    @property
    def clock(self) -> Clock:
        return Clock(unix_ns=lambda: round(self.now_s * 1e9))


class Publisher:
    """A fleet in a folder. `files` of a release are made up from its number."""

    def __init__(self, folder: Path, wall: Wall) -> None:
        self.folder = folder
        self.wall = wall
        self.keys = KeyFiles(folder / "keys", lambda purpose: PASSPHRASE)
        self.repository = FleetRepository.create(folder, self.keys, Settings(publisher="tests"), wall.clock)
        self.served = folder / "repository"

    @property
    def root(self) -> Path:
        return self.folder / "root.json"

    def publish(
        self,
        slot: str = "detector",
        *,
        files: Mapping[str, bytes] | None = None,
        groups: tuple[str, ...] = (),
        rollout: float = 1.0,
        floor: int = 0,
        release: int | None = None,
    ) -> Published:
        number = release or self.repository.next_release(slot)
        contents = files or {
            "model.toml": f"# release {number} of {slot}\n".encode(),
            "weights": bytes([number]) * 5000,
        }
        sources, entries = {}, {}
        for name, content in contents.items():
            place = self.folder / f"source-{number}-{name}"
            place.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            sources[digest] = place
            entries[name] = FileEntry(digest, len(content))
        manifest = Manifest(
            schema="edgeinfer.release/1",
            slot=slot,
            release=number,
            name="made-up",
            version=str(number),
            files=entries,
            floor=floor,
        )
        published = Published(manifest, groups, rollout)
        self.repository.add(published, sources)
        return published
