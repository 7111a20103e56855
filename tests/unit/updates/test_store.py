"""The store: what is in use is whole, was never refused, and is not older than what was in use."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from releases import MODEL_TOML, Shelf, manifest_of, sha256, tiny_files, write_bundle

from edgeinfer.errors import ModelError, UpdateError, UpdateRefused, UsageError
from edgeinfer.updates.lifecycle import CANARY_ATTEMPTS
from edgeinfer.updates.manifest import encode_manifest, parse_manifest
from edgeinfer.updates.store import Store

SLOT = "detector"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder, tmp_path):
    store = Store(folder)
    store.add(write_bundle(tmp_path / "factory", tiny_files(0)), SLOT)
    yield store
    store.close()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def bring(store: Store, shelf: Shelf, release: int, *, files_of: int | None = None, **more: object):
    """To where it waits for its trial, the canary having nothing against it. files_of: the release that it repeats."""
    installed = store.offer(shelf.put(tiny_files(release if files_of is None else files_of), release, **more))
    store.fetch(installed, shelf.fetch)
    store.verified(SLOT)
    store.begin_canary(SLOT)
    store.pass_canary(SLOT, "it did well")
    return installed


def commit(store: Store, shelf: Shelf, release: int, **more: object):
    installed = bring(store, shelf, release, **more)
    store.begin_trial(SLOT)
    store.commit(SLOT)
    return installed


def test_a_release_goes_its_way_and_the_history_tells_it(store, shelf):
    commit(store, shelf, 3, publisher="ann", published_at="2026-11-26T12:00:00Z", note="better at night")
    assert [entry.what for entry in store.history(SLOT)] == [
        "factory", "fetching", "verified", "canary", "staged", "trial", "committed"
    ]  # fmt: skip
    assert "published by ann at 2026-11-26T12:00:00Z better at night" in store.history(SLOT)[1].why
    state = store.state(SLOT)
    assert (state.step, state.active, state.previous, state.factory, state.floor) == ("committed", 3, 0, 0, 3)
    bundle = store.bundle_of(store.active(SLOT))
    assert (bundle / "model.toml").read_bytes() == MODEL_TOML
    assert (bundle / "tiny.tflite").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(("release", "more", "said"), [(2, {}, "below the floor, 3"), (0, {}, "below the floor, 3")])
def test_a_downgrade_is_refused(store, shelf, release, more, said):
    commit(store, shelf, 3)
    with pytest.raises(UpdateRefused, match=said):
        store.offer(shelf.put(tiny_files(9), release, **more))


def test_a_signed_floor_denies_what_is_below(store, shelf):
    commit(store, shelf, 7, floor=7)
    with pytest.raises(UpdateRefused, match="below the floor, 7"):
        store.offer(shelf.put(tiny_files(6), 6))


def test_another_release_under_a_number_that_was_in_use_is_refused(store, shelf):
    commit(store, shelf, 3)
    with pytest.raises(UpdateRefused, match="was another one"):
        store.offer(shelf.put(tiny_files(4), 3))


@pytest.mark.parametrize("undo", ["reject", "roll_back"])
def test_what_was_refused_is_denied_under_any_number_until_it_is_something_else(store, shelf, undo):
    bring(store, shelf, 3)
    if undo == "roll_back":
        store.begin_trial(SLOT)
    getattr(store, undo)(SLOT, "it finds nothing")
    for release in (3, 4, 100):
        with pytest.raises(UpdateRefused, match="refused before: it finds nothing"):
            store.offer(shelf.put(tiny_files(3), release))
    assert store.state(SLOT).active == 0
    assert commit(store, shelf, 5).release == 5


def test_each_attempt_of_a_trial_is_counted_before_it_begins(store, shelf):
    bring(store, shelf, 1)
    for left in (2, 1, 0):
        assert store.begin_trial(SLOT).release == 1
        assert store.state(SLOT).attempts == left
    assert store.begin_trial(SLOT) is None
    state = store.state(SLOT)
    assert (state.step, state.active, state.reason) == ("rolled_back", 0, "its process ended in each attempt")


def test_a_trial_that_is_left_in_good_order_does_not_count(store, shelf):
    bring(store, shelf, 1)
    for _ in range(10):
        assert store.begin_trial(SLOT) is not None
        store.leave_trial(SLOT)
    assert store.state(SLOT).attempts == 3


def test_a_canary_that_takes_the_updater_along_each_time_ends_in_a_refusal(store, shelf):
    installed = store.offer(shelf.put(tiny_files(1), 1))
    store.fetch(installed, shelf.fetch)
    for _ in range(CANARY_ATTEMPTS):
        store.verified(SLOT)
        assert store.begin_canary(SLOT) is not None
    store.verified(SLOT)
    assert store.begin_canary(SLOT) is None
    assert store.state(SLOT).step == "rejected"


def flip_a_bit(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("rb+") as file:  # In place, as a worn cell does it: in the blob and in each link of it.
        file.write(content)


def cut_off(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, Path.unlink])
def test_a_damaged_model_falls_back_to_the_previous_then_to_the_factorys(store, shelf, damage, folder):
    commit(store, shelf, 1)
    commit(store, shelf, 2)
    for release, coming in ((2, 1), (1, 0), (0, None)):
        active = store.active(SLOT)
        assert active.release == release
        # One file with two names: what is wrong with it is wrong with both.
        damage(folder / "blobs" / active.files["tiny.tflite"])
        if damage is Path.unlink:
            (folder / "bundles" / active.sha256 / "tiny.tflite").unlink(missing_ok=True)
        with pytest.raises(ModelError, match=r"tiny.tflite is (damaged|missing)"):
            store.bundle_of(active)
        found = store.fall_back(SLOT, active, "damaged")
        assert (None if found is None else found.release) == coming
    # It can come again: being damaged is no fault of the release.
    assert commit(store, shelf, 2).release == 2
    assert store.bundle_of(store.active(SLOT)).is_dir()


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "./x", "a//x", "a\0x", "a\nx", "a/b/c/d", "", ".", "x" * 256],
)
def test_a_path_that_leaves_the_bundle_is_refused_before_anything_is_fetched(store, shelf, path):
    manifest = encode_manifest(manifest_of({**tiny_files(1), path: b"evil"}, 1))
    with pytest.raises(ModelError, match=r"is no path within a bundle"):
        store.offer(manifest)
    assert store.state(SLOT).step == "committed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: replace_struct(m, floor=9), "floor: 9 would deny"),
        (lambda m: replace_struct(m, files={"x": m.files["model.toml"]}), "no model.toml"),
        (lambda m: replace_struct(m, files={**m.files, "model.toml/x": m.files["model.toml"]}), "file and a folder"),
        (lambda m: replace_struct(m, slot="Detector"), "slot"),
        (lambda m: replace_struct(m, release=-1), "release"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_in_a_line(change, said):
    data = encode_manifest(change(manifest_of(tiny_files(1), 1)))
    with pytest.raises(ModelError, match=said) as refused:
        parse_manifest(data)
    assert len(str(refused.value).splitlines()) == 1


def replace_struct(manifest, **changes):
    import msgspec

    return msgspec.structs.replace(manifest, **changes)


@pytest.mark.parametrize(
    "data", [b"", b"[", b"{}", b'{"schema": "edgeinfer.release/2"}', b"[" * 100_000, b" " * 300_000]
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(ModelError):
        parse_manifest(data)


@pytest.mark.parametrize(
    ("came", "error"),
    [(b"other" * 1100, UpdateRefused), (b"", UpdateError), (b"short", UpdateError), (b"x" * 9000, UpdateRefused)],
)
def test_what_comes_as_something_else_never_gets_the_name(store, shelf, folder, came, error):
    installed = store.offer(shelf.put(tiny_files(1), 1))
    with pytest.raises(error):
        store.fetch(installed, lambda name, length, beside: beside.write_bytes(came))
    assert not (folder / "blobs" / installed.files["tiny.tflite"]).exists()


def test_a_download_goes_on_where_it_was_cut_off(store, shelf, folder):
    files = tiny_files(1)
    installed = store.offer(shelf.put(files, 1))
    name = installed.files["tiny.tflite"]
    (folder / "blobs" / f"{name}.part").write_bytes(files["tiny.tflite"][:1000])
    had = []

    def fetch(sha, length, beside):
        had.append(beside.stat().st_size if beside.exists() else 0)
        shelf.fetch(sha, length, beside)

    store.fetch(installed, fetch)
    assert 1000 in had
    assert (folder / "blobs" / name).read_bytes() == files["tiny.tflite"]


def test_the_oldest_blobs_go_first_and_never_one_that_a_slot_names(store, shelf, folder):
    for release in range(1, 8):
        commit(store, shelf, release)
    names = {"active": 7, "previous": 6, "factory": 0}
    candidate = store.offer(shelf.put(tiny_files(8), 8))
    store.make_room(0, max_bytes=40_000)
    with pytest.raises(UpdateError, match="do not fit"):
        store.fetch(candidate, shelf.fetch, max_bytes=20_000)
    left = {each.name for each in (folder / "blobs").iterdir()}
    for role, release in names.items():
        installed = getattr(store, role)(SLOT)
        assert installed.release == release
        assert store.bundle_of(installed).is_dir()
    assert sha256(tiny_files(1)["tiny.tflite"]) not in left
    store.fetch(candidate, shelf.fetch, max_bytes=60_000)


def test_a_full_disk_stops_the_update_and_nothing_else(store, shelf, folder, monkeypatch):
    commit(store, shelf, 1)
    installed = store.offer(shelf.put(tiny_files(2), 2))

    def full(sha, length, beside):
        beside.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.fetch(installed, full)
    assert store.bundle_of(store.active(SLOT)).is_dir()
    store.fetch(
        installed, lambda sha, length, beside: (beside.unlink(missing_ok=True), shelf.fetch(sha, length, beside))
    )
    # The same where the file system says so beforehand.
    seen = os.statvfs(folder)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*seen[:4], 0, *seen[5:])))
    third = store.give_up(SLOT, "no room") or store.offer(shelf.put(tiny_files(3), 3))
    with pytest.raises(UpdateError, match="no room on the disk"):
        store.fetch(third, shelf.fetch)
    assert store.state(SLOT).active == 1


def test_the_operator_may_go_back_and_what_he_left_is_denied(store, shelf):
    commit(store, shelf, 1)
    commit(store, shelf, 2)
    assert store.go_back(SLOT, "it looks odd").release == 1
    with pytest.raises(UpdateRefused, match="it looks odd"):
        store.offer(shelf.put(tiny_files(2), 2))
    assert store.go_back(SLOT, "further").release == 0
    with pytest.raises(ModelError, match="nothing to go back to"):
        store.go_back(SLOT, "and further")


@pytest.mark.parametrize("held_by", ["factory", "active", "previous"])
def test_what_a_model_of_the_slot_holds_is_not_denied_with_a_release_that_brings_it_again(
    store, shelf, tmp_path, held_by
):
    if held_by != "factory":
        commit(store, shelf, 1)
    if held_by == "previous":
        commit(store, shelf, 2)
    held = getattr(store, held_by)(SLOT)
    again = bring(store, shelf, 5, files_of=held.release)
    store.begin_trial(SLOT)
    store.roll_back(SLOT, "too slow")
    assert store.denial(held) is None
    assert store.denial(again) == "too slow"
    assert store.add(write_bundle(tmp_path / "again", tiny_files(held.release)), SLOT).release == 0


def test_going_back_from_a_copy_of_the_factorys_model_denies_the_copy_alone(store, shelf):
    installed = commit(store, shelf, 1, files_of=0)
    assert store.go_back(SLOT, "it looks wrong") == store.factory(SLOT)
    assert store.denial(store.factory(SLOT)) is None
    assert store.denial(installed) == "it looks wrong"


def test_of_releases_that_are_over_only_the_number_is_kept(store, shelf, folder):
    for release in range(1, 6):
        commit(store, shelf, release)
    store.reject(SLOT, "nothing to reject")
    bring(store, shelf, 6)
    store.reject(SLOT, "it finds nothing")
    store.make_room()
    with sqlite3.connect(folder / "control.db") as db:
        rows = db.execute("SELECT release, length(manifest) > 0 FROM releases ORDER BY release").fetchall()
    db.close()
    assert rows == [(0, 1), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1)]
    with pytest.raises(UpdateRefused, match="it finds nothing"):
        store.offer(shelf.put(tiny_files(6), 6))


def test_two_processes_do_not_update_at_once(store, folder):
    with store.updating(), pytest.raises(UpdateError, match="another update is at work"), Store(folder).updating():
        pass


def test_a_store_of_a_newer_version_is_left_alone(store, folder):
    store.close()
    with sqlite3.connect(folder / "control.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ModelError, match="newer version"):
        Store(folder)


def test_a_slot_has_a_name_that_is_one(store, tmp_path):
    with pytest.raises(UsageError, match="is no name of a slot"):
        store.add(write_bundle(tmp_path / "b", tiny_files(1)), "../detector")


class Life(RuleBasedStateMachine):
    """Any order of what an updater, a node and an operator do, with the store closed and opened in between."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name) / "store"
        self.shelf = Shelf()
        self.refused: set[int] = set()
        self.floor = 0
        self.next = 1
        self.store = Store(self.folder)
        self.store.add(write_bundle(Path(self.scratch.name) / "factory", tiny_files(0)), SLOT)

    @property
    def candidate(self) -> int | None:
        return self.store.state(SLOT).candidate

    @rule(back=st.integers(0, 3))
    def offer(self, back: int) -> None:
        release = max(self.next - back, 0)
        self.next = max(self.next, release + 1)
        try:
            installed = self.store.offer(self.shelf.put(tiny_files(release), release))
        except UpdateRefused:
            assert release in self.refused or release < max(self.floor, 1)
        except UpdateError:
            assert self.store.state(SLOT).step == "trial"
        else:
            assert release not in self.refused
            assert release >= self.floor
            self.store.fetch(installed, self.shelf.fetch)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.folder)

    @rule()
    def verified(self) -> None:
        self.store.verified(SLOT)

    @rule()
    def canary(self) -> None:
        before = self.candidate
        if self.store.begin_canary(SLOT) is None and before is not None and self.candidate is None:
            self.refused.add(before)

    @rule()
    def passes(self) -> None:
        self.store.pass_canary(SLOT, "well")

    @rule()
    def trial(self) -> None:
        before = self.candidate
        if self.store.begin_trial(SLOT) is None and before is not None and self.candidate is None:
            self.refused.add(before)

    @rule()
    def leave(self) -> None:
        self.store.leave_trial(SLOT)

    @rule()
    def commit(self) -> None:
        before, is_trial = self.candidate, self.store.state(SLOT).step == "trial"
        self.store.commit(SLOT)
        if is_trial:
            assert self.store.state(SLOT).active == before
            self.floor = max(self.floor, before)

    @rule(what=st.sampled_from(["reject", "roll_back"]))
    def refuse(self, what: str) -> None:
        before = self.candidate
        getattr(self.store, what)(SLOT, "bad")
        if before is not None and self.candidate is None:
            self.refused.add(before)

    @rule()
    def give_up(self) -> None:
        self.store.give_up(SLOT, "lost")

    @precondition(lambda self: self.store.active(SLOT) is not None)
    @rule()
    def damage(self) -> None:
        self.store.fall_back(SLOT, self.store.active(SLOT), "damaged")

    @rule()
    def collect(self) -> None:
        self.store.make_room()

    @invariant()
    def a_valid_model_is_active(self) -> None:
        state, active = self.store.state(SLOT), self.store.active(SLOT)
        assert state.floor == self.floor
        assert (state.candidate is None) == (state.step in ("idle", "committed", "rolled_back", "rejected"))
        if active is not None:
            assert self.store.bundle_of(active).is_dir()
            assert self.store.denial(active) is None
            assert active.release not in self.refused

    def teardown(self) -> None:
        self.store.close()
        self.scratch.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=15, stateful_step_count=30, suppress_health_check=list(HealthCheck))
