"""The folder of trusted metadata: whatever moment the power goes, it is the old one or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleets import DAY_S, Publisher, Wall

from edgeinfer.clock import Clock
from edgeinfer.errors import UpdateRefused, UsageError
from edgeinfer.updates import trustfolder
from edgeinfer.updates.audience import is_for, place_of
from edgeinfer.updates.open import open_remote
from edgeinfer.updates.remote import Release
from edgeinfer.updates.schedule import Schedule
from edgeinfer.updates.trustfolder import TrustFolder


class PowerCut(Exception):
    pass


def cut_power(monkeypatch: pytest.MonkeyPatch, folder: Path, after_syncs: int) -> Callable[[], None]:
    """Ends the program after so many syncs. The call that is given back does to the disk what losing the power does: of
    files that were not synced nothing is left but their names."""
    synced: set[int] = set()
    real = os.fsync

    def fsync(handle: int) -> None:
        if len(synced) >= after_syncs:
            raise PowerCut
        synced.add(os.fstat(handle).st_ino)
        real(handle)

    def lose() -> None:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_ino not in synced:
                os.truncate(path, 0)

    monkeypatch.setattr(os, "fsync", fsync)
    return lose


@pytest.mark.parametrize("after_syncs", range(9))
def test_a_power_cut_at_any_sync_lets_no_rollback_in(
    publisher: Publisher, node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_syncs: int
) -> None:
    publisher.publish()
    old = publisher.folder / "old"
    shutil.copytree(publisher.served, old)
    publisher.publish()
    assert node.ask(publisher.served) == [2, 1]
    publisher.publish()
    trust = node.store.folder / "trust"
    before = {path.stat().st_ino for path in trust.rglob("*")}
    with monkeypatch.context() as patched:
        lose = cut_power(patched, trust, after_syncs)
        try:
            node.ask(publisher.served)
        except PowerCut:
            pass
        finally:
            # What was there before is on the disk already.
            kept = {
                path: path.read_bytes() for path in trust.rglob("*") if path.is_file() and path.stat().st_ino in before
            }
            lose()
            for path, content in kept.items():
                if not path.is_symlink():
                    path.write_bytes(content)
    with pytest.raises(UpdateRefused):
        node.ask(old)
    assert node.ask(publisher.served) == [3, 2, 1]


def test_what_is_trusted_first_has_to_be_said_once(publisher: Publisher, node: Any, tmp_path: Path) -> None:
    publisher.publish()
    with pytest.raises(UsageError, match="--root"):
        open_remote(str(publisher.served), node.store, node="n")
    with pytest.raises(UsageError, match="there is no"):
        open_remote(str(publisher.served), node.store, node="n", root=tmp_path / "none")
    for root in (publisher.root, None):
        remote = open_remote(str(publisher.served), node.store, node="n", root=root, clock=publisher.wall.clock)
        assert [each.release for each in remote.releases(("detector",))] == [1]
        remote.close()
    with pytest.raises(UsageError, match="no URL of a repository"):
        open_remote("gopher://host/", node.store, node="n")


def test_a_folder_that_was_left_half_made_is_made_again(tmp_path: Path) -> None:
    trust = TrustFolder(tmp_path / "trust")
    with trust.change() as folder:
        (folder / "timestamp.json").write_text("1")
    (tmp_path / "trust" / "b").mkdir()
    (tmp_path / "trust" / "b" / "rubbish").write_text("left behind")
    with trust.change() as folder:
        assert [path.name for path in folder.iterdir()] == ["timestamp.json"]
        (folder / "timestamp.json").write_text("2")
    assert (tmp_path / "trust" / trustfolder._CURRENT / "timestamp.json").read_text() == "2"


# For whom a release is.


def test_a_rollout_is_for_its_share_of_the_nodes_and_for_the_same_ones_each_time() -> None:
    places = [place_of(f"node-{number}", "detector", 7) for number in range(4000)]
    assert abs(sum(place < 0.1 for place in places) / 4000 - 0.1) < 0.02
    assert all(0 <= place < 1 for place in places)
    assert places == [place_of(f"node-{number}", "detector", 7) for number in range(4000)]
    others = [place_of(f"node-{number}", "detector", 8) for number in range(4000)]
    both = sum(one < 0.1 and other < 0.1 for one, other in zip(places, others, strict=True))
    assert both < 80  # Other nodes are the first next time: 40 of 4000 are expected to be among them twice.


def test_groups() -> None:
    release = Release("detector", 1, b"", ("canary", "lab"))
    assert is_for(release, "node", ("lab",))
    assert not is_for(release, "node", ("shop",))
    assert not is_for(release, "node", ())
    assert is_for(Release("detector", 1, b""), "node", ("shop",))
    assert not is_for(Release("detector", 1, b"", (), 0.0), "node", ())


def test_a_node_sees_what_is_for_it(publisher: Publisher, make_node: Any) -> None:
    publisher.publish()
    publisher.publish(groups=("canary",), floor=2)
    widened = publisher.publish(rollout=0.0)
    plain, canary = make_node("plain"), make_node("canary")
    canary.groups = ("canary",)
    assert plain.ask(publisher.served) == [1]  # A floor that is signed for others is none for it.
    assert canary.ask(publisher.served) == [2]
    publisher.repository.set_rollout(widened, 1.0)
    assert plain.ask(publisher.served) == [3, 1]


def test_the_newest_eight_are_looked_at(publisher: Publisher, node: Any) -> None:
    for _ in range(10):
        publisher.publish()
    assert node.ask(publisher.served) == [10, 9, 8, 7, 6, 5, 4, 3]
    node.wishes = {"detector": 1}
    assert node.ask(publisher.served) == [1]


# When is asked.


def test_a_schedule(tmp_path: Path) -> None:
    wall = Wall()
    schedule = Schedule(tmp_path, 3600, wall.clock)
    assert schedule.is_due()
    schedule.asked()
    for after_s, is_due in ((0, False), (1800, False), (3300, True), (DAY_S, True), (-DAY_S, True)):
        moved = Clock(unix_ns=lambda after_s=after_s: round((wall.now_s + after_s) * 1e9))
        assert Schedule(tmp_path, 3600, moved).is_due() is is_due
    (tmp_path / "asked").write_bytes(b"\xff rubbish")
    assert schedule.is_due()
