"""Where frames come from: one file per kind of source, opened by what a user types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from edgeinfer.clock import Clock
from edgeinfer.frame import Frame
from edgeinfer.registry import Registry


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a user may say about a source besides its name; None leaves it to the device.

    width, height: pixels. fps: frames per second. pixel_format: a four-character code such as MJPG or YUYV.
    open_timeout_s, read_timeout_s: how long a driver may wait where it can bound its waiting.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0


class Source(Protocol):
    """An open source.

    uri: as the user typed it. live: newest frame wins, and a loss is worth reopening; otherwise no frame may
    be dropped and the end is the end. fps: the nominal rate, None where it is not known.
    skipped: by name, what could not be read and was passed over (a damaged image in a folder).
    """

    uri: str
    live: bool
    fps: float | None

    @property
    def skipped(self) -> Mapping[str, str]:
        """What was passed over so far: name -> reason."""
        ...

    def read(self) -> Frame | None:
        """The next frame, a fresh array that the caller may keep; None at the end.

        Raises SourceLost when a live source stops, SourceError when what is left cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of the device or file; may be called twice, and from another thread than `read`."""
        ...


OpenSource = Callable[[str, SourceOptions, Clock], Source]
"""(uri, options, clock) -> an open source; raises SourceError."""

SOURCES: Registry[OpenSource] = Registry(
    "source",
    {
        "camera": "edgeinfer.sources.camera:open_camera",
        "rtsp": "edgeinfer.sources.rtsp:open_rtsp",
        "video": "edgeinfer.sources.video:open_video",
        "images": "edgeinfer.sources.images:open_images",
        "synthetic": "edgeinfer.sources.synthetic:open_synthetic",
    },
)
