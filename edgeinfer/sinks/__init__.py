"""Where results go: one file per kind of output, opened by what a user types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.registry import Registry
from edgeinfer.result import Result
from edgeinfer.words import nearest


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What a sink may want to know beforehand. fps: nominal rate of the source, None where not known.

    live: frames may be missing between two results, so that their times and not their number count.
    append: go on at the end of a table or of lines that are there already; without it, and every video, begins anew.
    """

    fps: float | None = None
    live: bool = False
    append: bool = False


class Sink(Protocol):
    """An open output; called by one thread. wants_pixels: whether `write` needs the frame.

    It may have a `waiting_max`: how many results may wait before it, where the usual number would make them too old;
    and a `write_many(results)`, which takes all that wait at once, of a source whose results may come together.
    One that needs a picture only now and then leaves `wants_pixels` False and has a `wants_this() -> bool`: asked for
    each result, by the thread that infers, whether `write` is to get the frame of this one. Its pictures may be reduced
    (see Source.suffice), and as long as it says no they cost nothing. It has no `write_many`.
    One that takes events has a `write_events(events, result, frame)`, called after `write` for the result in which they
    happened; `wants_event_frames`: then with its frame. What still lasts at the end of a run is ended by one more call,
    with the last result and without a frame.
    """

    uri: str
    wants_pixels: bool

    def write(self, result: Result, frame: Frame | None) -> None:
        """Take one result; with `wants_pixels` the frame it came from, not to be changed. Raises OutputError."""
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

_BY_SUFFIX = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".avi": "video",
    ".mkv": "video",
    ".mp4": "video",
}
# Ours go by the ending; a scheme names another package's.
_OWN = frozenset({"csv", "jsonl", "memory", "video"})
_BROKERS = frozenset({"mqtt", "mqtts"})


def sink_name(word: str) -> str:
    """The name in SINKS of what a user typed. Raises OutputError naming the nearest ending."""
    if word == "-":
        return "jsonl"
    scheme, colon, _ = word.partition(":")
    if colon and "/" not in scheme and scheme in SINKS.names() and scheme not in _OWN:
        return scheme
    if scheme in _BROKERS:
        raise OutputError(f"output {word!r} is a broker: a whole node sends there, not a pipeline by itself")
    suffix = Path(word).suffix.lower()
    name = _BY_SUFFIX.get(suffix)
    if name is None:
        close = nearest(suffix, _BY_SUFFIX) if suffix else None
        advice = f"did you mean {close!r}?" if close else f"end it in {', '.join(_BY_SUFFIX)}, or give - for stdout"
        raise OutputError(f"output {word!r}: its ending says no format", hint=advice)
    return name


def open_sink(word: str, options: SinkOptions) -> Sink:
    """Open what a user typed: `-`, a file by its ending, or `name:…` of another package. Raises OutputError."""
    return SINKS.get(sink_name(word), error=OutputError)(word, options)
