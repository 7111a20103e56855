"""Bundles, the releases that are made of them, and a shelf that offers these as a repository does."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from edgeinfer.updates.manifest import FileEntry, Manifest, encode_manifest
from edgeinfer.updates.remote import Release

MODEL_TOML = b"""\
schema = "edgeinfer.model/1"
name = "tiny"
version = "1"

[weights]
tflite = "tiny.tflite"
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tiny_files(number: int) -> dict[str, bytes]:
    """A bundle that the store takes and no runtime would; others for each number."""
    return {"model.toml": MODEL_TOML, "tiny.tflite": b"weights %d;" % number * 500}


def files_of(bundle: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(bundle.iterdir())}


def write_bundle(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def manifest_of(files: Mapping[str, bytes], release: int, *, slot: str = "detector", **more: object) -> Manifest:
    entries = {path: FileEntry(sha256(content), len(content)) for path, content in files.items()}
    facts = {"schema": "edgeinfer.release/1", "name": "tiny", "version": "1", **more}
    return Manifest(slot=slot, release=release, files=entries, **facts)  # type: ignore[arg-type]


class Shelf:
    """A Remote whose signatures are believed. fetched: which contents were asked for."""

    def __init__(self) -> None:
        self.offers: list[Release] = []
        self.contents: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def put(self, files: Mapping[str, bytes], release: int, **more: object) -> bytes:
        """Offer that release from now on; its manifest."""
        manifest = manifest_of(files, release, **more)
        data = encode_manifest(manifest)
        self.offers.append(Release(manifest.slot, release, data))
        self.contents.update({sha256(content): content for content in files.values()})
        return data

    def releases(self, slots: Collection[str]) -> tuple[Release, ...]:
        return tuple(each for each in self.offers if each.slot in slots)

    def fetch(self, content_sha256: str, length: int, beside: Path) -> None:
        self.fetched.append(content_sha256)
        had = beside.stat().st_size if beside.exists() else 0
        with beside.open("ab") as file:
            file.write(self.contents[content_sha256][had:length])

    def close(self) -> None:
        pass
