"""What a repository, or somebody between it and a node, may try; the node's store and trust are real."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleets import DAY_S, NOW_S, Publisher, Wall
from tuf.api.metadata import Metadata

from edgeinfer.clock import Clock
from edgeinfer.errors import UpdateError, UpdateRefused, UsageError
from edgeinfer.updates.folder import FolderTransport
from edgeinfer.updates.manifest import encode_manifest
from edgeinfer.updates.transport import Chunks, NotThere, patiently, read_whole

IN_2016_S = 1_451_606_400


def kept(publisher: Publisher, name: str) -> Path:
    """A copy of what is served now."""
    copy = publisher.folder / name
    shutil.copytree(publisher.served, copy)
    return copy


class Twisted(FolderTransport):
    """Hands out other bytes for some paths."""

    def __init__(self, folder: Path, twist: Callable[[str, bytes], bytes]) -> None:
        super().__init__(folder)
        self._twist = twist

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        whole = b"".join(super().chunks(path, 0, 1 << 30))
        yield self._twist(path, whole)[offset : offset + most]


def test_arbitrary_install_from_keys_that_nobody_trusts(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    publisher.publish()
    assert node.ask(publisher.served) == [1]
    (tmp_path / "evil").mkdir()
    evil = Publisher(tmp_path / "evil", publisher.wall)
    for _ in range(3):
        evil.publish()
    with pytest.raises(UpdateRefused, match="not what its keys have signed"):
        node.ask(evil.served)
    assert node.ask(publisher.served) == [1]


def test_rollback_to_what_was_signed_before(publisher: Publisher, node: Any) -> None:
    publisher.publish()
    old = kept(publisher, "old")
    publisher.publish()
    assert node.ask(publisher.served) == [2, 1]
    with pytest.raises(UpdateRefused):
        node.ask(old)


def test_freeze_ends_when_the_signatures_do(publisher: Publisher, node: Any, wall: Wall) -> None:
    publisher.publish()
    old = kept(publisher, "old")
    assert node.ask(old) == [1]
    wall.now_s += 3.1 * DAY_S
    with pytest.raises(UpdateError, match="expired") as stopped:
        node.ask(old)
    assert not isinstance(stopped.value, UpdateRefused)  # A publisher on holiday is no attack.
    publisher.repository.renew()
    assert node.ask(publisher.served) == [1]


def test_fast_forward_is_undone_by_rotating_the_key(publisher: Publisher, node: Any) -> None:
    publisher.publish()
    assert node.ask(publisher.served) == [1]
    stolen = publisher.keys.signer("online")
    forged = kept(publisher, "forged")
    timestamp = Metadata.from_file(str(forged / "metadata" / "timestamp.json"))
    timestamp.signed.version = 2**31
    timestamp.sign(stolen)
    timestamp.to_file(str(forged / "metadata" / "timestamp.json"))
    assert node.ask(forged) == [1]
    with pytest.raises(UpdateRefused):  # The damage: nothing of the publisher's is new enough any more.
        node.ask(publisher.served)
    publisher.repository.rotate(["online"])
    publisher.publish()
    assert node.ask(publisher.served) == [2, 1]


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_mix_and_match_of_old_and_new_metadata(publisher: Publisher, node: Any, role: str) -> None:
    publisher.publish()
    old = (publisher.served / "metadata" / f"2.{role}.json").read_bytes()
    publisher.publish()
    mixed = Twisted(publisher.served, lambda path, data: old if path.endswith(f"3.{role}.json") else data)
    with pytest.raises(UpdateRefused):
        node.ask(mixed)


def test_mix_and_match_of_manifests(publisher: Publisher, node: Any) -> None:
    publisher.publish("detector")
    other = publisher.publish("classifier")
    manifest = encode_manifest(other.manifest)
    with pytest.raises(UpdateRefused):
        node.ask(Twisted(publisher.served, lambda path, data: manifest if "slots/" in path else data))


def test_a_manifest_under_another_slot_is_refused_though_it_is_signed(publisher: Publisher, node: Any) -> None:
    published = publisher.publish("detector")
    lying = msgspec.structs.replace(published.manifest, slot="classifier")
    data = encode_manifest(lying)

    def change(targets: Any) -> None:
        target = targets.targets[published.path]
        target.length, target.hashes = len(data), {"sha256": hashlib.sha256(data).hexdigest()}

    publisher.repository._change(change)
    (publisher.served / "targets" / published.path).write_bytes(data)
    with pytest.raises(UpdateRefused, match="classifier"):
        node.ask(publisher.served)


@pytest.mark.parametrize("custom", [{"slot": "classifier", "release": 1}, {"slot": "detector", "release": 2}, {}, None])
def test_what_is_signed_of_a_manifest_has_to_agree_with_its_place(publisher: Publisher, node: Any, custom: Any) -> None:
    published = publisher.publish("detector")

    def change(targets: Any) -> None:
        targets.targets[published.path].unrecognized_fields["custom"] = custom

    publisher.repository._change(change)
    with pytest.raises(UpdateRefused):
        node.ask(publisher.served)


@pytest.mark.parametrize("role", ["timestamp", "1.root", "2.targets", "2.snapshot"])
def test_wrong_signature(publisher: Publisher, node: Any, role: str) -> None:
    publisher.publish()
    publisher.repository.rotate([])
    name = "2.root" if role == "1.root" else role

    def twist(path: str, data: bytes) -> bytes:
        if not path.endswith(f"/{name}.json"):
            return data
        signed = json.loads(data)
        for each in signed["signatures"]:
            each["sig"] = ("0" if each["sig"][0] != "0" else "1") + each["sig"][1:]
        return json.dumps(signed).encode()

    with pytest.raises(UpdateRefused):
        node.ask(Twisted(publisher.served, twist))


def test_a_stolen_targets_key_is_worth_nothing_once_it_was_replaced(publisher: Publisher, make_node: Any) -> None:
    publisher.publish()
    long_away, here = make_node("long-away"), make_node("here")
    assert long_away.ask(publisher.served) == here.ask(publisher.served) == [1]
    stolen = publisher.keys.signer("targets")
    for names in (["targets"], ["root-1"], ["online", "root-2"]):  # The node sleeps through all of it.
        publisher.repository.rotate(names)
    forged = kept(publisher, "forged")
    newest = max((forged / "metadata").glob("*.targets.json"), key=lambda path: int(path.name.split(".")[0]))
    targets = Metadata.from_file(str(newest))
    targets.signatures.clear()
    targets.sign(stolen)
    targets.to_file(str(newest))
    with pytest.raises(UpdateRefused):
        here.ask(forged)
    publisher.publish()
    assert long_away.ask(publisher.served) == [2, 1]


@pytest.mark.parametrize(
    ("old_names", "is_taken"),
    [((), False), (("root-1",), False), (("root-1", "root-1"), False), (("root-3", "root-1"), True)],
)
def test_a_root_that_hands_over_to_others_needs_two_of_the_old_keys(
    publisher: Publisher, node: Any, tmp_path: Path, old_names: tuple[str, ...], is_taken: bool
) -> None:
    publisher.publish()
    assert node.ask(publisher.served) == [1]
    (tmp_path / "others").mkdir()
    others = Publisher(tmp_path / "others", publisher.wall)
    handover = others.repository.root
    handover.signed.version = 2
    handover.signatures.clear()
    for keys, names in ((others.keys, ("root-1", "root-2", "root-3")), (publisher.keys, old_names)):
        for name in names:
            handover.sign(keys.signer(name), append=True)
    handover.to_file(str(others.served / "metadata" / "2.root.json"))
    others.publish()
    if is_taken:
        assert node.ask(others.served) == [1]
        return
    with pytest.raises(UpdateRefused):
        node.ask(others.served)
    assert node.ask(publisher.served) == [1]


def test_one_root_key_alone_changes_nothing(publisher: Publisher) -> None:
    for name in ("root-1", "root-2"):
        (publisher.folder / "keys" / f"{name}.pem").unlink()
    before = publisher.root.read_bytes()
    with pytest.raises(UsageError, match="have to sign"):
        publisher.repository.rotate(["targets"])
    assert publisher.root.read_bytes() == before


def test_root_keys_may_lie_elsewhere(publisher: Publisher, tmp_path: Path, node: Any) -> None:
    from edgeinfer.fleet.keys import KeyFiles
    from edgeinfer.fleet.repository import FleetRepository

    sticks = [tmp_path / "stick-1", tmp_path / "stick-2"]
    for number, stick in enumerate(sticks, 1):
        stick.mkdir()
        (publisher.folder / "keys" / f"root-{number}.pem").rename(stick / f"root-{number}.pem")
    keys = KeyFiles(publisher.folder / "keys", lambda purpose: b"correct horse battery", sticks)
    FleetRepository(publisher.folder, keys, publisher.wall.clock).rotate(["targets"])
    publisher.publish()
    assert node.ask(publisher.served) == [1]


# What comes without end, slowly or not at all.


class Endless(FolderTransport):
    def __init__(self, folder: Path, part: str) -> None:
        super().__init__(folder)
        self._part = part
        self.given = 0

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        if self._part not in path:
            yield from super().chunks(path, offset, most)
            return
        for _ in count():
            self.given += 1 << 16
            yield bytes(1 << 16)


@pytest.mark.parametrize("part", ["timestamp", "2.root", "2.snapshot", "2.targets", "slots/"])
def test_endless_metadata(publisher: Publisher, node: Any, part: str) -> None:
    publisher.publish()
    endless = Endless(publisher.served, part)
    with pytest.raises(UpdateRefused):
        node.ask(endless)
    assert endless.given < 8 << 20


def test_an_endless_file_never_writes_more_than_was_signed(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    entry = publisher.publish().manifest.files["weights"]
    remote = node.remote(Endless(publisher.served, "blobs/"))
    remote.releases(("detector",))
    beside = tmp_path / "beside"
    with pytest.raises(UpdateRefused):
        remote.fetch(entry.sha256, entry.length, beside)
    assert not beside.exists() or beside.stat().st_size <= entry.length


class Trickle:
    """A byte a second, on a clock that only this moves."""

    def __init__(self) -> None:
        self.now_ns = 0

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        for _ in range(most):
            self.now_ns += 10**9
            yield b"x"

    def close(self) -> None:
        pass


def test_slow_retrieval_is_given_up() -> None:
    trickle = Trickle()
    with pytest.raises(UpdateError, match="too slowly"):
        read_whole(trickle, "metadata/timestamp.json", 16_384, clock=Clock(monotonic_ns=lambda: trickle.now_ns))


class Mute:
    def __init__(self) -> None:
        self.let_go = threading.Event()

    def chunks(self, path: str, offset: int, most: int) -> Chunks:
        yield b"a"
        self.let_go.wait()

    def close(self) -> None:
        self.let_go.set()


def test_who_falls_silent_is_given_up() -> None:
    mute = Mute()
    pieces = patiently(mute, "targets/x", 0, 100, silence_s=0.3)
    assert next(pieces) == b"a"
    with pytest.raises(UpdateError, match="nothing of targets/x came"):
        next(pieces)
    mute.close()


# What is brought.


def test_a_tampered_file_is_thrown_away(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    entry = publisher.publish().manifest.files["weights"]

    def twist(path: str, data: bytes) -> bytes:
        return data[:2000] + b"!" + data[2001:] if "blobs/" in path else data

    remote = node.remote(Twisted(publisher.served, twist))
    remote.releases(("detector",))
    with pytest.raises(UpdateRefused, match="thrown away"):
        remote.fetch(entry.sha256, entry.length, tmp_path / "beside")
    assert not (tmp_path / "beside").exists()


def test_a_rest_that_suffered_is_fetched_anew(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    entry = publisher.publish().manifest.files["weights"]
    remote = node.remote(publisher.served)
    remote.releases(("detector",))
    beside = tmp_path / "beside"
    beside.write_bytes(bytes(1000))  # Zeros, as after a power cut.
    remote.fetch(entry.sha256, entry.length, beside)
    assert beside.read_bytes() == bytes([1]) * 5000


@pytest.mark.parametrize(("sha256", "length"), [("f" * 64, 5000), (None, 4999), ("../../../etc/passwd", 100)])
def test_a_file_that_nobody_signed(
    publisher: Publisher, node: Any, tmp_path: Path, sha256: str | None, length: int
) -> None:
    entry = publisher.publish().manifest.files["weights"]
    remote = node.remote(publisher.served)
    remote.releases(("detector",))
    with pytest.raises(UpdateRefused, match="nobody has signed"):
        remote.fetch(sha256 or entry.sha256, length, tmp_path / "beside")


@pytest.mark.parametrize("name", ["../model.toml", "/etc/passwd", "a/../../b", "a\\b", "a\nb"])
def test_a_signed_manifest_that_leaves_its_folder(publisher: Publisher, node: Any, name: str) -> None:
    published = publisher.publish()
    entry = published.manifest.files["weights"]
    escaping = msgspec.structs.replace(published.manifest, files={**published.manifest.files, name: entry})
    publisher.repository.add(type(published)(escaping), {})
    with pytest.raises(UpdateRefused, match="no path within a bundle"):
        node.ask(publisher.served)
    publisher.publish()
    assert node.ask(publisher.served) == [2]


# Time.


def test_what_has_expired_once_stays_so_when_the_clock_falls_back_to_2016(
    publisher: Publisher, make_node: Any, wall: Wall
) -> None:
    publisher.publish()
    own = Wall()
    node = make_node("without-rtc", own)
    assert node.ask(publisher.served) == [1]
    own.now_s = NOW_S + 5 * DAY_S
    with pytest.raises(UpdateError, match="expired"):
        node.ask(publisher.served)
    own.now_s = IN_2016_S
    with pytest.raises(UpdateError, match="expired"):
        node.ask(publisher.served)
    wall.now_s = NOW_S + 5 * DAY_S
    publisher.repository.renew()
    assert node.ask(publisher.served) == [1]


def test_the_last_time_seen_outlives_the_metadata(publisher: Publisher, make_node: Any, wall: Wall) -> None:
    publisher.publish()
    old = kept(publisher, "old")
    own = Wall()
    node = make_node("without-rtc", own)
    wall.now_s = own.now_s = NOW_S + 10 * DAY_S
    publisher.repository.renew()
    assert node.ask(publisher.served) == [1]
    own.now_s = IN_2016_S
    assert node.ask(publisher.served) == [1]
    shutil.rmtree(node.store.folder / "trust")
    with pytest.raises(UpdateError, match="expired"):
        node.ask(old)


def test_a_clock_in_2016_is_at_least_the_time_of_the_build(publisher: Publisher, make_node: Any, wall: Wall) -> None:
    from edgeinfer.updates.trusted_time import BUILT

    wall.now_s = BUILT.timestamp() - 10 * DAY_S
    publisher.publish()
    with pytest.raises(UpdateError, match="expired"):
        make_node("without-rtc", Wall(IN_2016_S)).ask(publisher.served)


def test_two_years_ahead_stops_updates_until_the_next_signature_after_it(
    publisher: Publisher, make_node: Any, wall: Wall
) -> None:
    publisher.publish()
    own = Wall()
    node = make_node("ahead", own)
    assert node.ask(publisher.served) == [1]
    own.now_s = NOW_S + 730 * DAY_S
    with pytest.raises(UpdateError, match="expired"):
        node.ask(publisher.served)
    own.now_s = wall.now_s = NOW_S + DAY_S
    publisher.repository.renew()
    assert node.ask(publisher.served) == [1]


def test_a_missing_file_is_said_to_be_missing(publisher: Publisher) -> None:
    with pytest.raises(NotThere):
        read_whole(FolderTransport(publisher.served), "metadata/none.json", 10)
