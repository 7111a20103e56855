"""What a publisher's repository does by itself, and what nodes say to `fleet status`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import mosquitto
from fleets import DAY_S, Publisher, Wall

from edgeinfer.cli import main
from edgeinfer.config import UplinkConfig
from edgeinfer.errors import ModelError, UpdateRefused, UsageError
from edgeinfer.fleet.state import models_of_nodes
from edgeinfer.updates.open import open_remote
from edgeinfer.updates.store import Store
from edgeinfer.uplink.publication import Acknowledged, Connected, Publication
from edgeinfer.uplink.subscriber import open_subscriber, subscriber_config


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def publisher(tmp_path: Path, wall: Wall) -> Publisher:
    (tmp_path / "fleet").mkdir()
    return Publisher(tmp_path / "fleet", wall)


@pytest.fixture
def store(tmp_path: Path, wall: Wall) -> Iterator[Store]:
    store = Store(tmp_path / "store", wall.clock)
    yield store
    store.close()


def test_from_a_publisher_into_a_store(publisher: Publisher, store: Store, wall: Wall) -> None:
    content = {"model.toml": b"# of a node\n", "labels/en.txt": b"a\nb\n"}
    publisher.publish(files={"model.toml": content["model.toml"]})
    remote = open_remote(str(publisher.served), store, root=publisher.root, node="pi-7", clock=wall.clock)
    (release,) = remote.releases(("detector",))
    installed = store.offer(release.manifest)
    store.fetch(installed, remote.fetch)
    store.verified("detector")
    assert (store.bundle_of(installed) / "model.toml").read_bytes() == content["model.toml"]
    assert store.state("detector").step == "verified"


def test_a_repository_that_was_tampered_with_leaves_the_store_as_it_was(
    publisher: Publisher, store: Store, wall: Wall
) -> None:
    published = publisher.publish()
    remote = open_remote(str(publisher.served), store, root=publisher.root, node="pi-7", clock=wall.clock)
    (release,) = remote.releases(("detector",))
    sha256 = published.manifest.files["weights"].sha256
    (publisher.served / "targets" / "blobs" / sha256).write_bytes(b"x" * 5000)
    installed = store.offer(release.manifest)
    with pytest.raises(UpdateRefused):
        store.fetch(installed, remote.fetch)
    assert store.active("detector") is None
    assert not list((store.folder / "blobs").glob(f"{sha256}*"))


def test_signatures_are_renewed_in_time(publisher: Publisher, wall: Wall) -> None:
    assert not publisher.repository.is_due()
    wall.now_s += 1.1 * DAY_S
    assert publisher.repository.is_due()
    before = publisher.repository.expires()
    publisher.repository.renew()
    assert not publisher.repository.is_due()
    after = publisher.repository.expires()
    assert after["timestamp"] > before["timestamp"]
    assert after["targets"] == before["targets"]
    publisher.repository.renew_targets()
    assert publisher.repository.expires()["targets"] > before["targets"]


def test_two_commands_at_once_are_one_too_many(publisher: Publisher) -> None:
    with (
        publisher.repository.locked(),
        pytest.raises(UsageError, match="another command"),
        publisher.repository.locked(),
    ):
        pass


def test_damaged_metadata_is_said_to_be_damaged(publisher: Publisher) -> None:
    (publisher.served / "metadata" / "timestamp.json").write_text("{}")
    with pytest.raises(ModelError, match="damaged"):
        publisher.repository.expires()


def test_numbers_are_never_given_twice(publisher: Publisher) -> None:
    first, second = publisher.publish(), publisher.publish()
    publisher.repository.add(publisher.publish(), {}, without=[first, second])
    assert publisher.repository.next_release("detector") == 4


def test_status_shows_what_nodes_say(publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: dict[str, Any] = {
        "schema": "edgeinfer.model/1",
        "step": "trial",
        "active": 3,
        "candidate": 4,
        "more": {"x": 1},
    }
    publisher.publish()
    (tmp_path / "broker").mkdir()
    with mosquitto(tmp_path / "broker") as broker:
        publish(
            broker.url,
            {
                "edgeinfer/v1/pi%207/model/detector": json.dumps(said).encode(),
                "edgeinfer/v1/pi-8/model/detector": b"\xff rubbish",
            },
        )
        (only,) = models_of_nodes(UplinkConfig(url=broker.url), seconds=0.5)
        assert (only.node, only.slot) == ("pi 7", "detector")
        assert main(["fleet", "status", "--fleet", str(publisher.folder), "--mqtt", broker.url]) == 0
    shown = capsys.readouterr().out
    assert "detector 1: made-up 1  to all, 100%" in shown
    assert "pi 7 detector: schema edgeinfer.model/1, step trial, active 3, candidate 4" in shown


def publish(url: str, retained: dict[str, bytes]) -> None:
    """Until the broker has them."""
    link = open_subscriber(subscriber_config(url))
    waiting: set[int | None] = set()
    try:
        while True:
            for event in link.turn(0.1):
                if isinstance(event, Connected):
                    waiting = {link.publish(Publication(topic, data, retain=True)) for topic, data in retained.items()}
                elif isinstance(event, Acknowledged):
                    waiting.discard(event.token)
                    if not waiting:
                        return
    finally:
        link.close(1.0)
