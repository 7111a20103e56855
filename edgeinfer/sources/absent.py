"""In place of a camera or stream that cannot be opened yet."""

from __future__ import annotations

from collections.abc import Mapping

from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.sources import SOURCES, Source, words

_NEVER_ABSENT = frozenset({*words.FILE_DRIVERS, "synthetic"})


class AbsentSource:
    """Says at the first read why there is none; whoever opens lost sources again does the rest. See Source."""

    live = True
    fps: float | None = None

    def __init__(self, uri: str, error: SourceError) -> None:
        self.uri = uri
        self._error = error

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> None:
        raise SourceLost(self._error.message, hint=self._error.hint)

    def close(self) -> None:
        """There is nothing to let go of."""


def absent_source(word: str, error: SourceError) -> Source:
    """For a source that may come: a camera, a stream, one of a plugin. Raises `error` for a file and for no source."""
    try:
        driver = words.driver_name(word, SOURCES.names())
    except SourceError:
        raise error from None
    if driver in _NEVER_ABSENT:
        raise error
    return AbsentSource(word, error)
