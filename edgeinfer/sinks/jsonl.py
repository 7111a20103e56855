"""Results as JSON lines, to a file or to stdout."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.event import Happening
from edgeinfer.frame import Frame
from edgeinfer.result import Result
from edgeinfer.sinks import SinkOptions
from edgeinfer.sinks.textfile import LineFile


class JsonlSink:
    """One line a result, in the form of `edgeinfer.result/1`, and one an event, in that of `edgeinfer.event/1`."""

    wants_pixels = False

    def __init__(self, uri: str, options: SinkOptions) -> None:
        self.uri = uri
        self._file = LineFile(uri, append=options.append)

    def write(self, result: Result, frame: Frame | None) -> None:
        self._file.write(result.to_json() + b"\n")

    def write_many(self, results: Sequence[Result]) -> None:
        """The same, with one call to the kernel."""
        self._file.write(b"".join([result.to_json() + b"\n" for result in results]))

    def write_events(self, events: Sequence[Happening], result: Result, frame: Frame | None) -> None:
        self._file.write(b"".join([event.to_json() + b"\n" for event in events]))

    def close(self) -> None:
        self._file.close()
