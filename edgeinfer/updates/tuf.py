"""A signed repository: The Update Framework's rules over any transport, and the releases that they let through."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta
from tuf.api import exceptions
from tuf.api.metadata import Metadata, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgeinfer.clock import Clock
from edgeinfer.errors import ModelError, UpdateError, UpdateRefused
from edgeinfer.updates.audience import is_for
from edgeinfer.updates.manifest import MANIFEST_BYTES_MAX, Manifest, parse_manifest
from edgeinfer.updates.remote import Release
from edgeinfer.updates.transport import NotThere, Transport, patiently, read_whole
from edgeinfer.updates.trusted_time import TimeFloor, keep, trusted_now
from edgeinfer.updates.trustfolder import TrustFolder

log = logging.getLogger(__name__)

_METADATA, _TARGETS = "metadata/", "targets/"
_MANIFEST = re.compile(r"slots/([a-z0-9][a-z0-9-]{0,31})/([1-9][0-9]{0,15})\.json")
_LOOKED_AT = 8
_TRIES = 5
_FIRST_PAUSE_S = 0.5
_HASHED_AT_ONCE = 1 << 20


class SlotFloor(Protocol):
    """Below this release nothing is taken."""

    @property
    def floor(self) -> int: ...


class Floors(TimeFloor, Protocol):
    """What is known of each slot, and of time; a Store."""

    def state(self, slot: str) -> SlotFloor: ...


class Custom(msgspec.Struct, frozen=True):
    """What the targets metadata say of a manifest, so that not every one has to be fetched.

    groups: of nodes that it is for, all where empty. rollout_ppm: the share of the nodes, in millionths: signed JSON
    knows no fractions.
    """

    slot: str
    release: int
    groups: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    rollout_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] = 1_000_000

    @property
    def rollout(self) -> float:
        """0..1."""
        return self.rollout_ppm / 1e6


class TufRemote:
    """The releases of a repository that are for this node. trust: where its metadata are kept.

    node, groups: who we are. Raises UsageError, UpdateError.
    """

    def __init__(
        self,
        transport: Transport,
        floors: Floors,
        trust: TrustFolder,
        *,
        root: Path | None,
        node: str,
        groups: Collection[str] = (),
        wishes: Mapping[str, int] | None = None,
        clock: Clock | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """wishes: slot -> the release that somebody wishes for, read after the metadata came."""
        self._transport = transport
        self._floors = floors
        self._trust = trust
        self._first_root = trust.first_root(root)
        self._node = node
        self._groups = frozenset(groups)
        self._wishes = {} if wishes is None else wishes
        self._clock = clock or Clock()
        self._pause = pause
        self._targets: Mapping[str, TargetFile] = {}

    def releases(self, slots: Collection[str]) -> tuple[Release, ...]:
        self._targets = self._refresh()
        return tuple(each for slot in sorted(set(slots)) for each in self._of_slot(slot))

    def fetch(self, sha256: str, length: int, beside: Path) -> None:
        target = self._targets.get(f"blobs/{sha256}")
        if target is None or target.length != length or target.hashes.get("sha256") != sha256:
            raise UpdateRefused(f"nobody has signed a file {sha256[:12]}… of {length} bytes")
        had = _length_of(beside)
        found = self._download(sha256, length, beside)
        if found != sha256 and had:
            # What was left of an earlier attempt may have suffered from a power cut.
            beside.unlink()
            found = self._download(sha256, length, beside)
        if found != sha256:
            beside.unlink()
            raise UpdateRefused(f"what came as {sha256[:12]}… is something else, and was thrown away")

    def close(self) -> None:
        self._transport.close()

    def _refresh(self) -> Mapping[str, TargetFile]:
        """Every target that is signed and valid now."""
        now = trusted_now(self._floors, self._clock)
        try:
            with self._trust.change() as folder:
                updater = _updater(folder, self._first_root, self._transport, now)
                try:
                    updater.refresh()
                except exceptions.ExpiredMetadataError:
                    self._note_expiry(folder, now)
                    raise
                listed = Metadata[Targets].from_file(str(folder / "targets.json")).signed.targets
                # Asked for one by one: what counts is what was verified, and not what the file says by now.
                signed = {path: target for path in listed if (target := updater.get_targetinfo(path)) is not None}
        except (exceptions.DownloadError, exceptions.RepositoryError) as failed:
            raise _in_our_words(failed, now) from failed
        except OSError as failed:
            raise UpdateError(f"the metadata cannot be kept: {failed}") from failed
        keep(self._floors, now)
        return signed

    def _note_expiry(self, folder: Path, now: datetime) -> None:
        """What has expired once stays so, should the clock fall back to 2016.

        Time is held to have come no further than to the end of what was last valid: more would have to be believed of a
        clock alone, and that of one that stands years ahead. So the next signature counts whatever the clock said.
        """
        try:
            expires = Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed.expires
        except (exceptions.StorageError, exceptions.RepositoryError):
            return
        keep(self._floors, min(now, expires + timedelta(seconds=1)))

    def _of_slot(self, slot: str) -> Iterator[Release]:
        """At or above the floor, the newest first; where somebody wishes for one of them, that one only.

        What cannot be understood, such as a manifest for later versions of this package, is passed over where there is
        another one. Raises UpdateRefused where there is none, UpdateError.
        """
        floor = max(1, self._floors.state(slot).floor)
        found = [
            (custom, target)
            for custom, target in self._announced(slot)
            if custom.release >= floor and is_for(custom, self._node, self._groups)
        ]
        found.sort(key=lambda pair: -pair[0].release)
        wished = self._wishes.get(slot)
        looked_at = found[:_LOOKED_AT] + [pair for pair in found[_LOOKED_AT:] if pair[0].release == wished]
        offers: list[Release] = []
        refused: list[ModelError] = []
        for custom, target in looked_at:
            data = self._read_manifest(target)
            try:
                floor = max(floor, _checked(data, custom).floor)
            except ModelError as wrong:
                log.warning("%s is passed over: %s", target.path, wrong)
                refused.append(wrong)
                continue
            offers.append(Release(slot, custom.release, data, custom.groups, custom.rollout))
        if refused and not offers:
            raise UpdateRefused(f"no release of {slot} can be used: {refused[0].message}", hint=refused[0].hint)
        offers = [each for each in offers if each.release >= floor]
        chosen = [each for each in offers if each.release == wished]
        if wished is not None and not chosen:
            log.warning("release %d of %s is wished for, and is none that may be had", wished, slot)
        yield from chosen or offers

    def _announced(self, slot: str) -> Iterator[tuple[Custom, TargetFile]]:
        for path, target in self._targets.items():
            named = _MANIFEST.fullmatch(path)
            if named is None or named[1] != slot:
                continue
            try:
                custom = msgspec.convert(target.custom or {}, Custom)
            except msgspec.ValidationError as wrong:
                raise UpdateRefused(f"{path}: what is signed of it makes no sense: {wrong}") from wrong
            if (custom.slot, custom.release) != (slot, int(named[2])):
                raise UpdateRefused(f"{path} is signed as release {custom.release} of {custom.slot[:40]}")
            yield custom, target

    def _read_manifest(self, target: TargetFile) -> bytes:
        if target.length > MANIFEST_BYTES_MAX:
            raise UpdateRefused(f"{target.path} has {target.length} bytes, at most {MANIFEST_BYTES_MAX} are allowed")
        data = read_whole(self._transport, _TARGETS + target.path, target.length, clock=self._clock)
        try:
            target.verify_length_and_hashes(data)
        except exceptions.LengthOrHashMismatchError as other:
            raise UpdateRefused(f"{target.path} is not what was signed") from other
        return data

    def _download(self, sha256: str, length: int, beside: Path) -> str:
        """Go on behind what is there, again and again while that brings more; the sha256 of what is there then.

        Raises UpdateError, UpdateRefused.
        """
        failures, pause_s = 0, _FIRST_PAUSE_S
        while (had := _length_of(beside)) < length:
            try:
                self._append(f"{_TARGETS}blobs/{sha256}", had, length - had, beside)
                reason = UpdateError(f"the file {sha256[:12]}… ends early")
            except (NotThere, UpdateRefused):
                raise
            except UpdateError as failed:
                reason = failed
            if _length_of(beside) > had:
                failures, pause_s = 0, _FIRST_PAUSE_S
                continue
            failures += 1
            if failures == _TRIES:
                raise reason
            self._pause(pause_s)
            pause_s *= 2
        return _sha256_of(beside)

    def _append(self, path: str, offset: int, most: int, beside: Path) -> None:
        with (
            closing(patiently(self._transport, path, offset, most, clock=self._clock)) as pieces,
            beside.open("ab") as file,
        ):
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def _checked(data: bytes, custom: Custom) -> Manifest:
    """Raises ModelError for what is no manifest, or that of another release."""
    manifest = parse_manifest(data)
    if (manifest.slot, manifest.release) != (custom.slot, custom.release):
        raise ModelError(f"it is the manifest of release {manifest.release} of {manifest.slot}")
    return manifest


class MetadataFetcher(FetcherInterface):
    """Lets the client of the framework read metadata over a transport, into memory: never into a temporary folder."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError("files are fetched by the remote, metadata as bytes")

    def download_bytes(self, url: str, max_length: int) -> bytes:
        try:
            return read_whole(self._transport, url, max_length)
        except NotThere as missing:
            raise exceptions.DownloadHTTPError(str(missing), 404) from missing
        except UpdateRefused as refused:
            raise exceptions.DownloadLengthMismatchError(str(refused)) from refused
        except UpdateError as failed:
            raise exceptions.DownloadError(str(failed)) from failed


def _updater(folder: Path, first_root: bytes, transport: Transport, now: datetime) -> Updater:
    # Files are named by content or by release already, and lie under these names on any web server.
    config = UpdaterConfig(prefix_targets_with_hash=False, max_delegations=1)
    updater = Updater(str(folder), _METADATA, fetcher=MetadataFetcher(transport), config=config, bootstrap=first_root)
    # There is no public way to say what time it is; a test sees whether this one still works.
    updater._trusted_set.reference_time = now
    return updater


def _in_our_words(failed: Exception, now: datetime) -> UpdateError:
    if isinstance(failed, exceptions.ExpiredMetadataError):
        return UpdateError(
            f"the signatures of the repository have expired: {failed}",
            hint=f"it is {now:%Y-%m-%d %H:%M} UTC here; is that right, and does the publisher still sign?",
        )
    if isinstance(failed, exceptions.DownloadError) and not isinstance(failed, exceptions.DownloadLengthMismatchError):
        return UpdateError(str(failed))
    return UpdateRefused(f"the repository is not what its keys have signed: {failed}")


def _length_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED_AT_ONCE):
            digest.update(chunk)
    return digest.hexdigest()
