"""Pictures drawn here, `synthetic://NAME?…`, for trying out without a camera and for drills.

Names: `blood-smear` (cells under a microscope), `test-card` (one box at a known place), `noise`.

Query: `width`, `height`, `fps`, `seed`; `frames=N` ends after N frames and, unless `live=1` is said, gives them
as fast as they are taken, none dropped, like a file; without `frames` it is an endless camera that keeps `fps`.
Drills, to see what happens when a camera fails: `lose_after=N` is lost after N frames, `stall_after=N` then gives
nothing until the read times out and it is lost, `silent=1` never gives one; `burst=N` gives N frames at once and then
none for as long as they should have taken, `resize_every=N` changes between the whole size and half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeinfer.bell import Bell
from edgeinfer.clock import Clock
from edgeinfer.errors import SourceError, SourceLost
from edgeinfer.frame import Frame, Pixels
from edgeinfer.sources.buffers import Buffers
from edgeinfer.sources.options import Query, SourceOptions, check
from edgeinfer.sources.smear import BloodSmear
from edgeinfer.words import unknown

Draw = Callable[[int, float], Pixels]
"""(index, seconds) -> a picture, in memory that nobody uses."""

WIDTH, HEIGHT, FPS = 640, 480, 30.0
SIDE_MIN, PIXELS_MAX = 32, 16_000_000

_PREFIX = "synthetic://"
_BARS_BGR = ((192, 192, 192), (0, 192, 192), (192, 192, 0), (0, 192, 0), (192, 0, 192), (0, 0, 192), (192, 0, 0))
_BOX_BGR = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Script:
    """What a synthetic source does and when; `fault_after` frames it is `lost`, or stalls.

    burst: so many frames come at once. resize_every: after so many frames the size changes.
    """

    name: str
    width: int
    height: int
    fps: float
    seed: int
    live: bool
    frames: int | None
    fault_after: int | None
    lost: bool
    burst: int = 1
    resize_every: int | None = None


def open_synthetic(word: str, options: SourceOptions, clock: Clock) -> SyntheticSource:
    """Read the word and prepare to draw."""
    script = read_script(word, options)
    return SyntheticSource(word, script, clock, read_timeout_s=options.read_timeout_s)


def card_box(index: int, width: int = WIDTH, height: int = HEIGHT) -> tuple[int, int, int, int]:
    """Where the white box of `test-card` lies in frame `index`: x_min, y_min, x_max, y_max pixels, half open."""
    box_width, box_height = width // 4, height // 4
    # Two steps without a common divisor of the ways, so that it visits more than one diagonal.
    x_min = _to_and_fro(index * max(1, width // 80), width - box_width)
    y_min = _to_and_fro(index * max(1, height // 90), height - box_height)
    return x_min, y_min, x_min + box_width, y_min + box_height


class SyntheticSource:
    """A camera or a file that is drawn; frame i always shows picture i."""

    def __init__(
        self,
        uri: str,
        script: Script,
        clock: Clock,
        *,
        read_timeout_s: float,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """`wait` sleeps for some seconds and says whether the source was closed meanwhile."""
        self.uri = uri
        self.live = script.live
        self.fps: float | None = script.fps
        self._script = script
        self._clock = clock
        self._read_timeout_s = read_timeout_s
        self._is_closed = False
        self._closing = Bell()
        self._wait = wait or self._closing.wait
        self._draw = _ARTISTS[script.name](script)
        self._seq = 0
        self._due_ns: int | None = None

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> Frame | None:
        script = self._script
        if self._is_closed or self._seq == script.frames:
            return None
        if self._seq == script.fault_after:
            self._fail()
            return None
        if self.live and self._pace():
            return None
        seq, self._seq = self._seq, self._seq + 1
        at_s = seq / script.fps
        pixels = self._draw(seq, at_s)
        if script.resize_every is not None and seq // script.resize_every % 2 == 1:
            pixels = np.ascontiguousarray(pixels[::2, ::2])
        captured_ns, captured_unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
        return Frame(pixels, seq, captured_ns, captured_unix_ns, self.uri, None if self.live else at_s)

    def close(self) -> None:
        self._is_closed = True
        self._closing.ring()

    def _pace(self) -> bool:
        """Wait for the next frame's time; True when closed meanwhile. Who reads late delays the rest."""
        if self._seq % self._script.burst != 0:
            return False
        period_ns = round(1e9 / self._script.fps) * self._script.burst
        now_ns = self._clock.monotonic_ns()
        due_ns = now_ns if self._due_ns is None else self._due_ns
        self._due_ns = max(due_ns, now_ns - period_ns) + period_ns
        return due_ns > now_ns and self._wait((due_ns - now_ns) / 1e9)

    def _fail(self) -> None:
        """The drills: raises, or returns when closed meanwhile."""
        if self._script.lost:
            raise SourceLost(f"{self.uri!r} is lost after {self._seq} frames, as asked for")
        if self._wait(self._read_timeout_s):
            return
        raise SourceLost(f"no frame from {self.uri!r} for {self._read_timeout_s:g} s, as asked for")


def read_script(word: str, options: SourceOptions) -> Script:
    """The word's name and query, over the options; raises SourceError."""
    name, _, query = word[len(_PREFIX) :].partition("?")
    if name not in _ARTISTS:
        raise SourceError(unknown("synthetic source", name, _ARTISTS))
    if options.pixel_format is not None:
        raise SourceError(f"format cannot be chosen for a synthetic source ({word!r})", hint="leave it out")
    values = Query(query, word)
    width = values.whole("width", low=1) or options.width or WIDTH
    height = values.whole("height", low=1) or options.height or HEIGHT
    fps = values.number("fps")
    fps = fps if fps is not None else options.fps or FPS
    frames = values.whole("frames", low=1)
    live = values.switch("live")
    seed = values.whole("seed") or 0
    fault_after, lost = _fault(values, word)
    burst, resize_every = values.whole("burst", low=1), values.whole("resize_every", low=1)
    values.done()
    check(SourceOptions(width=width, height=height, fps=fps))
    if min(width, height) < SIDE_MIN or width * height > PIXELS_MAX:
        hint = f"{SIDE_MIN} pixels a side, up to {PIXELS_MAX // 1_000_000} million"
        raise SourceError(f"{width}x{height} in {word!r} cannot be drawn", hint=hint)
    live = frames is None if live is None else live
    return Script(name, width, height, fps, seed, live, frames, fault_after, lost, burst or 1, resize_every)


def _fault(values: Query, word: str) -> tuple[int | None, bool]:
    """After how many frames it fails, and whether it is lost then (or stalls)."""
    lose_after, stall_after = values.whole("lose_after"), values.whole("stall_after")
    silent = 0 if values.switch("silent") else None
    asked = [after for after in (lose_after, stall_after, silent) if after is not None]
    if len(asked) > 1:
        raise SourceError(f"{word!r} asks for two faults", hint="one of lose_after, stall_after, silent")
    return (asked[0] if asked else None), lose_after is not None


def _to_and_fro(way: int, room: int) -> int:
    return room - abs(way % (2 * room) - room)


def _blood_smear(script: Script) -> Draw:
    smear = BloodSmear(script.width, script.height, seed=script.seed)
    return lambda _index, at_s: smear.draw(at_s)


def _test_card(script: Script) -> Draw:
    width, height = script.width, script.height
    card = np.empty((height, width, 3), np.uint8)
    for bar, colour in enumerate(_BARS_BGR):
        card[:, bar * width // len(_BARS_BGR) : (bar + 1) * width // len(_BARS_BGR)] = colour

    buffers = Buffers()

    def draw(index: int, _at_s: float) -> Pixels:
        picture = buffers.free()
        if picture is None:
            picture = card.copy()
            buffers.keep(picture)
        else:
            np.copyto(picture, card)
        x_min, y_min, x_max, y_max = card_box(index, width, height)
        picture[y_min:y_max, x_min:x_max] = _BOX_BGR
        return picture

    return draw


def _noise(script: Script) -> Draw:
    def draw(index: int, _at_s: float) -> Pixels:
        rng = np.random.default_rng((script.seed, index))
        return np.asarray(rng.integers(0, 256, (script.height, script.width, 3), np.uint8))

    return draw


_ARTISTS: dict[str, Callable[[Script], Draw]] = {
    "blood-smear": _blood_smear,
    "noise": _noise,
    "test-card": _test_card,
}
