"""A signed repository on the publisher's disk, by the rules of The Update Framework."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api import exceptions
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgeinfer.clock import Clock
from edgeinfer.durable import replace_file, sync_folder
from edgeinfer.errors import ModelError, OutputError, UsageError
from edgeinfer.fleet.keys import KeyFiles
from edgeinfer.updates.manifest import MANIFEST_BYTES_MAX, Manifest, encode_manifest, parse_manifest
from edgeinfer.updates.tuf import Custom

ROOT_KEYS = ("root-1", "root-2", "root-3")
KEYS = (*ROOT_KEYS, "targets", "online")

_ROOT_THRESHOLD = 2
_METADATA_BYTES_MAX = 5_000_000
_KEY_NAME = "x-edgeinfer-name"
_COPIED_AT_ONCE = 1 << 20

Role = Literal["root", "targets", "snapshot", "timestamp"]
Days = Annotated[int, Meta(ge=1, le=3650)]


class Expiries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """After so many days the signatures of a role no longer count."""

    root: Days = 365
    targets: Days = 90
    snapshot: Days = 14
    timestamp: Days = 3


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`fleet.json`: what was said at `fleet init`."""

    schema: Literal["edgeinfer.fleet/1"] = "edgeinfer.fleet/1"
    publisher: Annotated[str, Meta(max_length=64)] = ""
    expiries: Expiries = Expiries()


@dataclass(frozen=True, slots=True)
class Published:
    """A release as it stands in the repository. groups: all nodes where empty; rollout: 0..1."""

    manifest: Manifest
    groups: tuple[str, ...] = ()
    rollout: float = 1.0

    @property
    def path(self) -> str:
        return manifest_path(self.manifest.slot, self.manifest.release)


def manifest_path(slot: str, release: int) -> str:
    return f"slots/{slot}/{release}.json"


class FleetRepository:
    """The folder of a publisher: `keys/`, `fleet.json`, `root.json` for the nodes, and `repository/` to be served.

    Raises UsageError where there is none, ModelError where it is damaged, OutputError where it cannot be written.
    """

    def __init__(self, folder: Path, keys: KeyFiles, clock: Clock | None = None) -> None:
        self.folder = folder
        self.served = folder / "repository"
        self._metadata = self.served / "metadata"
        self._targets = self.served / "targets"
        self._keys = keys
        self._clock = clock or Clock()
        if not (self._metadata / "timestamp.json").is_file():
            raise UsageError(f"there is no fleet in {folder}", hint="edgeinfer fleet init")
        try:
            self.settings = msgspec.json.decode((folder / "fleet.json").read_bytes(), type=Settings)
        except (OSError, msgspec.MsgspecError) as damaged:
            raise ModelError(f"{folder / 'fleet.json'} cannot be read: {damaged}") from damaged

    @classmethod
    def create(cls, folder: Path, keys: KeyFiles, settings: Settings, clock: Clock | None = None) -> FleetRepository:
        """Make the keys and an empty repository. Raises UsageError where there is one, OutputError."""
        if (folder / "fleet.json").exists() or any(keys.has(name) for name in KEYS):
            raise UsageError(f"there is a fleet in {folder} already", hint="name another folder with --fleet")
        self = cls.__new__(cls)
        self.folder, self.served = folder, folder / "repository"
        self._metadata, self._targets = self.served / "metadata", self.served / "targets"
        self._keys, self._clock, self.settings = keys, clock or Clock(), settings
        with _as_output_error():
            for each in (self._metadata, self._targets / "blobs", self._targets / "slots"):
                each.mkdir(parents=True, exist_ok=True)
            replace_file(folder / "fleet.json", msgspec.json.format(msgspec.json.encode(settings)))
        signers = {name: keys.make(name) for name in KEYS}
        for name in KEYS:
            keys.settle(name)
        root = Root(consistent_snapshot=True)
        for name, signer in signers.items():
            _add_key(root, name, signer.public_key)
        root.roles["root"].threshold = _ROOT_THRESHOLD
        self._sign_root(root, [signers[name] for name in ROOT_KEYS])
        snapshot = Snapshot(meta={"targets.json": MetaFile(1)})
        self._sign_all(Targets(), snapshot, Timestamp(), signers["targets"], signers["online"])
        return self

    # What there is.

    @property
    def root(self) -> Metadata[Root]:
        newest = max(self._metadata.glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
        return _load(newest)

    def expires(self) -> Mapping[Role, datetime]:
        return {
            "root": self.root.signed.expires,
            "targets": self._signed_targets().expires,
            "snapshot": self._snapshot().expires,
            "timestamp": self._timestamp().expires,
        }

    def releases(self) -> tuple[Published, ...]:
        """By slot, the oldest first."""
        found = []
        for path, target in self._signed_targets().targets.items():
            if path.startswith("slots/"):
                custom = msgspec.convert(target.custom, Custom)
                manifest = parse_manifest(_read(self._targets / path, MANIFEST_BYTES_MAX))
                found.append(Published(manifest, custom.groups, custom.rollout))
        return tuple(sorted(found, key=lambda each: (each.manifest.slot, each.manifest.release)))

    def next_release(self, slot: str) -> int:
        """Above every number that the slot has had: a manifest is never taken away from the disk."""
        had = [int(path.stem) for path in (self._targets / "slots" / slot).glob("*.json") if path.stem.isdecimal()]
        return max(had, default=0) + 1

    # What is done to it.

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process changes it at a time. Raises UsageError where another one does."""
        handle = os.open(self.folder / "fleet.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UsageError(f"another command is at work on {self.folder}", hint="wait for its end") from None
        finally:
            os.close(handle)

    def add(self, published: Published, files: Mapping[str, Path], *, without: Sequence[Published] = ()) -> None:
        """Sign a release. files: sha256 -> where each is now; those that are here already may be left out.

        without: releases that nobody shall install any more.
        """
        with _as_output_error():
            for entry in published.manifest.files.values():
                self._take_in(entry.sha256, files.get(entry.sha256))
            data = encode_manifest(published.manifest)
            place = self._targets / published.path
            place.parent.mkdir(parents=True, exist_ok=True)
            replace_file(place, data)
            sync_folder(place.parent.parent)

        def change(targets: Targets) -> None:
            for each in without:
                targets.targets.pop(each.path, None)
            for entry in published.manifest.files.values():
                path = f"blobs/{entry.sha256}"
                targets.targets[path] = TargetFile(entry.length, {"sha256": entry.sha256}, path)
            digest = hashlib.sha256(data).hexdigest()
            custom = {"custom": _custom(published)}
            targets.targets[published.path] = TargetFile(len(data), {"sha256": digest}, published.path, custom)

        self._change(change)

    def set_rollout(self, published: Published, rollout: float) -> None:
        """The same release for another share of the nodes, 0..1."""

        def change(targets: Targets) -> None:
            widened = dataclasses.replace(published, rollout=rollout)
            targets.targets[published.path].unrecognized_fields["custom"] = _custom(widened)

        self._change(change)

    def renew(self) -> None:
        """Sign snapshot and timestamp anew, with the online key only; targets and root keep their time."""
        self._sign_online(self._snapshot(), self._timestamp())

    def renew_targets(self) -> None:
        """Sign the releases for another term, where none is published for so long."""
        self._change(lambda targets: None)

    def is_due(self) -> bool:
        """Whether less than two thirds of the timestamp's or the snapshot's time are left."""
        days = self.settings.expiries
        expires = self.expires()
        return any(
            expires[role] - self._now() < timedelta(days=getattr(days, role)) * 2 / 3
            for role in ("snapshot", "timestamp")
        )

    def rotate(self, names: Sequence[str]) -> None:
        """Replace these keys, and sign the root metadata for another term; without names that alone.

        Two root keys of before have to be here. Raises UsageError.
        """
        for name in names:
            if name not in KEYS:
                raise UsageError(f"no key is called {name!r}; there are: {', '.join(KEYS)}")
        old = self.root.signed
        old_signers = [self._signer(old, name) for name in ROOT_KEYS if self._keys.has(name)]
        if len(old_signers) < _ROOT_THRESHOLD:
            raise UsageError(
                f"{len(old_signers)} of the root keys are here, and {_ROOT_THRESHOLD} have to sign",
                hint="--keys DIR names a folder that others were moved to",
            )
        new = Root.from_dict(old.to_dict())
        made = {name: self._keys.make(name) for name in names}
        for name, signer in made.items():
            _replace_key(new, name, signer.public_key)
        new.version += 1
        self._sign_root(new, [*old_signers, *(made[name] for name in ROOT_KEYS if name in made)], before=old)
        for name in names:
            self._keys.settle(name)
        if "targets" in made:
            self.renew_targets()
        elif "online" in made:
            self.renew()

    # How it is written.

    def _change(self, change: Callable[[Targets], None]) -> None:
        root = self.root.signed
        targets_key, online = self._signer(root, "targets"), self._signer(root, "online")
        targets = self._signed_targets()
        change(targets)
        targets.version += 1
        snapshot, timestamp = self._snapshot(), self._timestamp()
        self._sign_all(targets, snapshot, timestamp, targets_key, online, is_new=False)

    def _sign_all(
        self,
        targets: Targets,
        snapshot: Snapshot,
        timestamp: Timestamp,
        targets_key: CryptoSigner,
        online: CryptoSigner,
        *,
        is_new: bool = True,
    ) -> None:
        """From the leaves up, so that a reader finds everything that a timestamp names."""
        data = self._signed(targets, "targets", [targets_key])
        self._write(f"{targets.version}.targets.json", data)
        snapshot.meta["targets.json"] = _described(targets.version, data)
        if is_new:
            snapshot.version = timestamp.version = 0
        self._sign_online(snapshot, timestamp, online)

    def _sign_online(self, snapshot: Snapshot, timestamp: Timestamp, online: CryptoSigner | None = None) -> None:
        online = online or self._signer(self.root.signed, "online")
        snapshot.version += 1
        timestamp.version += 1
        data = self._signed(snapshot, "snapshot", [online])
        self._write(f"{snapshot.version}.snapshot.json", data)
        timestamp.snapshot_meta = _described(snapshot.version, data)
        self._write("timestamp.json", self._signed(timestamp, "timestamp", [online]))

    def _sign_root(self, root: Root, signers: Sequence[CryptoSigner], *, before: Root | None = None) -> None:
        """Raises UsageError where that is not enough for the root before it, or for itself."""
        data = self._signed(root, "root", signers)
        metadata = Metadata[Root].from_bytes(data)
        try:
            for judge in (root, before or root):
                judge.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        except exceptions.UnsignedMetadataError as too_few:
            raise UsageError(
                f"the root keys that are here do not suffice: {too_few}",
                hint="--keys DIR names a folder that others were moved to",
            ) from too_few
        self._write(f"{root.version}.root.json", data)
        with _as_output_error():
            replace_file(self.folder / "root.json", data)

    def _signed(
        self, signed: Root | Snapshot | Targets | Timestamp, role: Role, signers: Sequence[CryptoSigner]
    ) -> bytes:
        signed.expires = self._now() + timedelta(days=getattr(self.settings.expiries, role))
        metadata: Metadata[Any] = Metadata(signed)
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(JSONSerializer(compact=False))

    def _write(self, name: str, data: bytes) -> None:
        with _as_output_error():
            replace_file(self._metadata / name, data)

    def _take_in(self, sha256: str, source: Path | None) -> None:
        """Raises ModelError where the file is not what it was a moment ago."""
        blob = self._targets / "blobs" / sha256
        if blob.is_file():
            return
        if source is None:
            raise ModelError(f"the repository lacks the file {sha256[:12]}…")
        beside = blob.with_suffix(f".{os.getpid()}.new")
        digest = hashlib.sha256()
        with source.open("rb") as read, beside.open("wb") as file:
            while chunk := read.read(_COPIED_AT_ONCE):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            beside.unlink()
            raise ModelError(f"{source} was changed while it was published")
        beside.replace(blob)
        sync_folder(blob.parent)

    def _signer(self, root: Root, name: str) -> CryptoSigner:
        public = next((key for key in root.keys.values() if key.unrecognized_fields.get(_KEY_NAME) == name), None)
        if not isinstance(public, SSlibKey):
            raise ModelError(f"{self._metadata}: the root metadata name no key {name}")
        return self._keys.signer(name, public)

    def _timestamp(self) -> Timestamp:
        signed: Timestamp = _load(self._metadata / "timestamp.json").signed
        return signed

    def _snapshot(self) -> Snapshot:
        version = self._timestamp().snapshot_meta.version
        signed: Snapshot = _load(self._metadata / f"{version}.snapshot.json").signed
        return signed

    def _signed_targets(self) -> Targets:
        version = self._snapshot().meta["targets.json"].version
        signed: Targets = _load(self._metadata / f"{version}.targets.json").signed
        return signed

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.unix_ns() // 10**9, tz=timezone.utc)


def _add_key(root: Root, name: str, key: SSlibKey) -> None:
    key.unrecognized_fields[_KEY_NAME] = name
    for role in _roles_of(name):
        root.add_key(key, role)


def _replace_key(root: Root, name: str, key: SSlibKey) -> None:
    old = [keyid for keyid, each in root.keys.items() if each.unrecognized_fields.get(_KEY_NAME) == name]
    for keyid in old:
        for role in _roles_of(name):
            root.revoke_key(keyid, role)
    _add_key(root, name, key)


def _roles_of(name: str) -> tuple[Role, ...]:
    if name in ROOT_KEYS:
        return ("root",)
    return ("targets",) if name == "targets" else ("snapshot", "timestamp")


def _custom(published: Published) -> dict[str, Any]:
    manifest = published.manifest
    custom = Custom(manifest.slot, manifest.release, published.groups, round(published.rollout * 1e6))
    return dict(msgspec.to_builtins(custom, builtin_types=()))


def _described(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _load(path: Path) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(_read(path))
    except exceptions.RepositoryError as damaged:
        raise ModelError(f"{path} is damaged: {damaged}") from damaged


def _read(path: Path, most: int = _METADATA_BYTES_MAX) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as unreadable:
        raise ModelError(f"cannot read {path}: {unreadable.strerror}") from unreadable
    if len(content) > most:
        raise ModelError(f"{path} is longer than {most} bytes")
    return content


@contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except OSError as failed:
        raise OutputError(f"cannot write {failed.filename or 'the repository'}: {failed.strerror}") from failed
