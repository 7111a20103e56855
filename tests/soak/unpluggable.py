"""`unpluggable:///run/camera?fps=30`: a drawn camera that can be unplugged, or fall silent, by a file beside it.

While `/run/camera.unplugged` is there it is lost, and cannot be opened; while `/run/camera.silent` is there it is open
and gives no frame. The query is that of `synthetic://test-card`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceLost
from edgeinfer.frame import Frame
from edgeinfer.sources import Source, SourceOptions
from edgeinfer.sources.synthetic import open_synthetic

PREFIX = "unpluggable://"
UNPLUGGED, SILENT = ".unplugged", ".silent"


class Unpluggable:
    """A source."""

    live = True

    def __init__(self, uri: str, options: SourceOptions, clock: Clock) -> None:
        """Raises SourceLost while it is unplugged."""
        place, _, query = uri.removeprefix(PREFIX).partition("?")
        self.uri = uri
        self._unplugged, self._silent = Path(place + UNPLUGGED), Path(place + SILENT)
        self._read_timeout_s = options.read_timeout_s
        self._closed = threading.Event()
        self._look()
        self._card: Source = open_synthetic(f"synthetic://test-card?{query}", options, clock)
        self.fps = self._card.fps

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> Frame | None:
        self._look()
        if self._silent.exists():
            self._closed.wait(self._read_timeout_s)
            raise SourceLost(f"no frame from {self.uri!r} for {self._read_timeout_s:g} s")
        return self._card.read()

    def close(self) -> None:
        self._closed.set()
        self._card.close()

    def _look(self) -> None:
        if self._unplugged.exists():
            raise SourceLost(f"{self.uri!r} is unplugged")
