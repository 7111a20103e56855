"""Where frames and samples come from: one file per kind of source, opened by what a user types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError
from edgeinfer.frame import Input
from edgeinfer.registry import Registry
from edgeinfer.sources import words
from edgeinfer.sources.options import SourceOptions as SourceOptions
from edgeinfer.sources.options import check
from edgeinfer.sources.readings import SampleSource as SampleSource


class Source(Protocol):
    """An open source.

    uri: as the user typed it. live: newest frame wins, and a loss is worth reopening; otherwise no frame may
    be dropped and the end is the end. fps: the nominal rate, None where it is not known.
    skipped: by name, what could not be read and was passed over (a damaged image in a folder).
    It may have a `suffice(width, height)`, called before the first read where nobody needs the picture itself: pictures
    may then be reduced, as long as their sides are at least these.
    It may have `looked_ns`, the monotonic time when it last had an answer of what it reads from: a read that waits for
    more is not one that hangs.
    """

    uri: str
    live: bool
    fps: float | None

    @property
    def skipped(self) -> Mapping[str, str]:
        """What was passed over so far: name -> reason."""
        ...

    def read(self) -> Input | None:
        """The next frame or window, a fresh array that the caller may keep; None at the end, and once closed.

        Raises SourceLost when a live source stops, SourceError when what is left cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of the device or file; may be called twice, and from another thread than `read`."""
        ...


OpenSource = Callable[[str, SourceOptions, Clock], Source | SampleSource]
"""(uri, options, clock) -> an open source; raises SourceError."""

SOURCES: Registry[OpenSource] = Registry(
    "source",
    {
        "camera": "edgeinfer.sources.camera:open_camera",
        "rtsp": "edgeinfer.sources.rtsp:open_rtsp",
        "video": "edgeinfer.sources.video:open_video",
        "images": "edgeinfer.sources.images:open_images",
        "synthetic": "edgeinfer.sources.synthetic:open_synthetic",
        "serial": "edgeinfer.sources.serial:open_serial",
        "mic": "edgeinfer.sources.mic:open_mic",
        "wav": "edgeinfer.sources.wav:open_wav",
        "csv": "edgeinfer.sources.recording:open_csv",
        "jsonl": "edgeinfer.sources.recording:open_jsonl",
        "sqlite": "edgeinfer.sources.sqlite:open_sqlite",
        "stdin": "edgeinfer.sources.stdin:open_stdin",
        # The uplink knows how to come to a broker.
        "mqtt": "edgeinfer.uplink.sensor:open_mqtt",
    },
    extras={"sounddevice": "audio"},
)


def open_any(word: str, options: SourceOptions | None = None, *, clock: Clock | None = None) -> Source | SampleSource:
    """Open what a user typed, be it a source of pictures or one of samples. Raises SourceError as `open_source`."""
    wanted = options or SourceOptions()
    check(wanted)
    driver = SOURCES.get(words.driver_name(word, SOURCES.names()), error=SourceError)
    return driver(word, wanted, clock or Clock())


def open_source(word: str, options: SourceOptions | None = None, *, clock: Clock | None = None) -> Source:
    """Open what a user typed, as a source of pictures: a device, a URI, a file, a folder or a glob.

    Raises SourceError: unknown word, no such file, an option that makes no sense, one of samples, or what the driver
    says.
    """
    source = open_any(word, options, clock=clock)
    if isinstance(source, SampleSource):
        source.close()
        raise SourceError(f"{word!r} gives samples, and pictures are wanted here")
    return source
