"""Where releases come from: what an update asks of a repository."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Release:
    """A release whose signatures were checked. groups: of nodes that it is for, all where empty.

    manifest: the signed bytes. rollout: the share of nodes that it is for, 0..1.
    """

    slot: str
    release: int
    manifest: bytes
    groups: tuple[str, ...] = ()
    rollout: float = 1.0


class Remote(Protocol):
    """Says which releases there are, and brings their files."""

    def releases(self, slots: Collection[str]) -> tuple[Release, ...]:
        """Those that are signed and valid now. Raises UpdateError: try again later; UpdateRefused: an attack."""
        ...

    def fetch(self, sha256: str, length: int, beside: Path) -> None:
        """Bring that content into the file `beside`, going on behind what is in it; never more than `length` bytes.

        The store checks the content again. Raises UpdateError, UpdateRefused.
        """
        ...

    def close(self) -> None:
        """May be called twice."""
        ...
