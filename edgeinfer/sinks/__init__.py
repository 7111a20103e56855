"""Where results go: one file per kind of output, opened by what a user types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgeinfer.frame import Frame
from edgeinfer.registry import Registry
from edgeinfer.result import Result


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What a sink may need to know beforehand. fps: nominal rate of the source; live: gaps in time are real."""

    fps: float | None = None
    live: bool = False


class Sink(Protocol):
    """An open output; called by one thread."""

    uri: str

    def write(self, result: Result, frame: Frame) -> None:
        """Take one result. `frame` is the picture it came from, not to be changed. Raises OutputError."""
        ...

    def close(self) -> None:
        """Finish what was begun, durably; may be called twice. Raises OutputError."""
        ...


OpenSink = Callable[[str, SinkOptions], Sink]
"""(uri, options) -> an open sink; raises OutputError."""

SINKS: Registry[OpenSink] = Registry(
    "sink",
    {
        "csv": "edgeinfer.sinks.csv:CsvSink",
        "jsonl": "edgeinfer.sinks.jsonl:JsonlSink",
        "memory": "edgeinfer.sinks.memory:MemorySink",
        "video": "edgeinfer.sinks.video:VideoSink",
    },
)
