"""What a user may say about a source besides its name, checked where it enters."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl

from edgeinfer.errors import SourceError
from edgeinfer.words import unknown

SIDE_MAX = 16384
FPS_MAX = 1000.0
TIMEOUT_MAX_S = 3600.0

PICTURE_OPTIONS = ("width", "height", "fps", "pixel_format")


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


def check(options: SourceOptions) -> None:
    """Raises SourceError for a value that no source can have."""
    for side, pixels in (("width", options.width), ("height", options.height)):
        if pixels is not None and not 1 <= pixels <= SIDE_MAX:
            raise SourceError(f"{side} {pixels} is impossible", hint=f"a side is 1 to {SIDE_MAX} pixels")
    if options.fps is not None and not 0 < options.fps <= FPS_MAX:
        raise SourceError(f"fps {options.fps:g} is impossible", hint=f"above 0, up to {FPS_MAX:g}")
    code = options.pixel_format
    if code is not None and not (len(code) == 4 and code.isascii() and code.isprintable()):
        raise SourceError(f"pixel format {code!r} is impossible", hint="a four-character code such as MJPG or YUYV")
    for name in ("open_timeout_s", "read_timeout_s"):
        seconds = getattr(options, name)
        if not 0 < seconds <= TIMEOUT_MAX_S:
            raise SourceError(f"{name} {seconds:g} is impossible", hint=f"above 0, up to {TIMEOUT_MAX_S:g}")


def refuse_picture_options(options: SourceOptions, word: str, what: str) -> None:
    """For sources whose pictures are as they are: better an error than an option without effect."""
    for field in fields(options):
        if field.name in PICTURE_OPTIONS and getattr(options, field.name) is not None:
            name = "format" if field.name == "pixel_format" else field.name
            raise SourceError(f"{name} cannot be chosen for {what} ({word!r})", hint="leave it out")


def from_query(options: SourceOptions, query: str, word: str) -> SourceOptions:
    """`width=1280&height=720&fps=30&format=MJPG` laid over the options."""
    values = Query(query, word)
    said: dict[str, Any] = {
        "width": values.whole("width"),
        "height": values.whole("height"),
        "fps": values.number("fps"),
        "pixel_format": values.text("format"),
    }
    values.done()
    merged = replace(options, **{name: value for name, value in said.items() if value is not None})
    check(merged)
    return merged


class Query:
    """The `?name=value&…` of a URI: each value asked for by name and type, and nothing may be left over."""

    def __init__(self, query: str, word: str) -> None:
        self._word = word
        self._known: list[str] = []
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as broken:
            raise SourceError(f"the query of {word!r} is not name=value&name=value") from broken
        self._values = dict(pairs)
        if len(self._values) < len(pairs):
            raise SourceError(f"{word!r} says the same thing twice")

    def text(self, name: str) -> str | None:
        self._known.append(name)
        return self._values.get(name)

    def whole(self, name: str, *, low: int = 0, high: int = 2**31 - 1) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and low <= int(value) <= high):
            raise SourceError(
                f"{name}={value} in {self._word!r} is impossible", hint=f"a whole number, {low} to {high}"
            )
        return int(value)

    def number(self, name: str) -> float | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise SourceError(f"{name}={value} in {self._word!r} is impossible", hint="a number")
        return number

    def switch(self, name: str) -> bool | None:
        value = self.whole(name, high=1)
        return None if value is None else bool(value)

    def done(self) -> None:
        """Raises SourceError when the query holds a name that nobody asked for."""
        for name in self._values:
            if name not in self._known:
                raise SourceError(f"{unknown('option', name, self._known)} (in {self._word!r})")
