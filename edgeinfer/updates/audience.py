"""Whether a release is for this node: by its groups, and by the share of nodes that it is rolled out to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Protocol


class Addressed(Protocol):
    """A release, as far as it says for whom it is: see Release."""

    @property
    def slot(self) -> str: ...

    @property
    def release(self) -> int: ...

    @property
    def groups(self) -> tuple[str, ...]: ...

    @property
    def rollout(self) -> float: ...


def is_for(release: Addressed, node: str, groups: Collection[str]) -> bool:
    """Every node decides for itself, and the same each time."""
    if release.groups and not set(release.groups).intersection(groups):
        return False
    return place_of(node, release.slot, release.release) < release.rollout


def place_of(node: str, slot: str, release: int) -> float:
    """Where the node stands in the order of a rollout, 0..1 and never 1; other nodes are first with each release."""
    digest = hashlib.sha256(f"{node}\0{slot}\0{release}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
