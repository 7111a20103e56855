"""A publisher of one's own on this machine: a signed repository with one release of made-up bytes, served or fetched.

python -m scripts.local_fleet serve FOLDER URL|HOST:PORT      until it is killed
python -m scripts.local_fleet fetch URL FOLDER NODE           one file, into NODE/weights; may be killed at any moment
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from pathlib import Path

from edgeinfer.config import UplinkConfig
from edgeinfer.fleet.broker import FleetResponder
from edgeinfer.fleet.files import ServedFiles
from edgeinfer.fleet.keys import KeyFiles
from edgeinfer.fleet.repository import FleetRepository, Published, Settings
from edgeinfer.fleet.web import FleetServer
from edgeinfer.updates.exchange import split_url
from edgeinfer.updates.manifest import FileEntry, Manifest, parse_manifest
from edgeinfer.updates.open import open_remote
from edgeinfer.updates.store import Store

SLOT = "made-up"


def make(folder: Path, size_bytes: int, *, seed: int = 0) -> str:
    """A fleet with one release; the sha256 of its weights."""
    keys = KeyFiles(folder / "keys", lambda purpose: b"of no worth at all")
    repository = FleetRepository.create(folder, keys, Settings())
    contents = {"model.toml": b"# made up\n", "weights": random.Random(seed).randbytes(size_bytes)}
    entries, sources = {}, {}
    for name, content in contents.items():
        source = folder / name
        source.write_bytes(content)
        entries[name] = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
        sources[entries[name].sha256] = source
    manifest = Manifest(schema="edgeinfer.release/1", slot=SLOT, release=1, name="made-up", version="1", files=entries)
    repository.add(Published(manifest), sources)
    return entries["weights"].sha256


def serve(folder: Path, place: str) -> FleetServer | FleetResponder:
    """At a broker's URL, or at host:port."""
    files = ServedFiles(folder / "repository")
    if "://" not in place:
        return FleetServer(files, place)
    broker, repository = split_url(place)
    return FleetResponder(files, UplinkConfig(url=broker), repository)


def fetch(url: str, folder: Path, node: Path) -> dict[str, float]:
    """What an updater does: metadata and manifest, then the weights. Seconds of each."""
    begun_s = time.perf_counter()
    store = Store(node / "store")
    remote = open_remote(url, store, root=folder / "root.json", node="made-up")
    try:
        (release,) = remote.releases((SLOT,))
        listed_s = time.perf_counter()
        entry = parse_manifest(release.manifest).files["weights"]
        remote.fetch(entry.sha256, entry.length, node / "weights.part")
        done_s = time.perf_counter()
        (node / "weights.part").replace(node / "weights")
    finally:
        remote.close()
        store.close()
    return {"metadata_s": listed_s - begun_s, "file_s": done_s - listed_s, "s": done_s - begun_s}


def main(words: list[str]) -> None:
    if words[0] == "serve":
        serve(Path(words[1]), words[2])
        while True:
            time.sleep(3600)
    fetch(words[1], Path(words[2]), Path(words[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
