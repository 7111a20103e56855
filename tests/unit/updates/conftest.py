from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleets import Publisher, Wall

from edgeinfer.updates.folder import FolderTransport
from edgeinfer.updates.store import Store
from edgeinfer.updates.transport import Transport
from edgeinfer.updates.trustfolder import TrustFolder
from edgeinfer.updates.tuf import TufRemote


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def publisher(tmp_path: Path, wall: Wall) -> Publisher:
    folder = tmp_path / "fleet"
    folder.mkdir()
    return Publisher(folder, wall)


class Node:
    """A node with a store and a clock of its own; `ask` is one pass of an updater that only looks."""

    def __init__(self, folder: Path, root: Path, wall: Wall, name: str = "node-1") -> None:
        self.folder = folder
        self.root = folder / "given.root.json"
        folder.mkdir()
        self.root.write_bytes(root.read_bytes())
        self.wall = wall
        self.name = name
        self.groups: tuple[str, ...] = ()
        self.wishes: dict[str, int] = {}
        self.store = Store(folder / "store", wall.clock)

    def remote(self, source: Path | Transport) -> TufRemote:
        transport = FolderTransport(source) if isinstance(source, Path) else source
        return TufRemote(
            transport,
            self.store,
            TrustFolder(self.store.folder / "trust"),
            root=self.root,
            node=self.name,
            groups=self.groups,
            wishes=self.wishes,
            clock=self.wall.clock,
            pause=lambda seconds: None,
        )

    def ask(self, source: Path | Transport, slot: str = "detector") -> list[int]:
        return [each.release for each in self.remote(source).releases((slot,))]


@pytest.fixture
def make_node(tmp_path: Path, wall: Wall, publisher: Publisher) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(name: str = "node-1", own_wall: Wall | None = None) -> Node:
        made.append(Node(tmp_path / name, publisher.root, own_wall or wall, name))
        return made[-1]

    yield make
    for node in made:
        node.store.close()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node()
