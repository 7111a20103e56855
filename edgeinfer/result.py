"""What came out of one frame or window: typed, and one JSON line when written.

All coordinates are 0..1 of the source image, x to the right, y down, clipped to it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

import msgspec

from edgeinfer.clock import ClockState

SCHEMA = "edgeinfer.result/1"

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOW_BITS = 30
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)


Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max."""
Keypoint = tuple[float, float, float]
"""x, y, and the score of being there, 0..1."""


class Detection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object: `box_xyxy` is x_min, y_min, x_max, y_max; `score` 0..1.

    keypoints: of a body or a face, in the order of the model. track_id: the same for one object in all frames.
    inner: what the stages of a cascade found in this box.
    """

    label: str
    class_id: int
    score: float
    box_xyxy: tuple[float, float, float, float]
    track_id: int | None = None
    keypoints: tuple[Keypoint, ...] | None = None
    inner: tuple[Inner, ...] | None = None


class Classification(msgspec.Struct, frozen=True):
    """One class of the whole picture; `score` 0..1."""

    label: str
    class_id: int
    score: float


class ModelInfo(msgspec.Struct, frozen=True):
    """Which model answered; `sha256` is of the weights, in hexadecimal."""

    name: str
    version: str
    sha256: str


class RunLengths(msgspec.Struct, frozen=True):
    """A mask as lengths of runs outside and inside in turn, outside first, row by row from the top left.

    width, height: in pixels.
    """

    width: int
    height: int
    counts: tuple[int, ...]


class Segment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What belongs to a class, or to one object of it: `area` is its share of the picture, 0..1."""

    label: str
    class_id: int
    area: float
    score: float | None = None
    box_xyxy: tuple[float, float, float, float] | None = None
    mask: RunLengths | None = None


class Inner(msgspec.Struct, frozen=True, omit_defaults=True):
    """What another model found in the box of a detection; coordinates and areas are of the whole picture.

    crop_xyxy: of segments, what the model was shown; their masks are grids over that.
    """

    stage: str
    model: ModelInfo
    device: str
    detections: tuple[Detection, ...] | None = None
    classes: tuple[Classification, ...] | None = None
    keypoints: tuple[Keypoint, ...] | None = None
    segments: tuple[Segment, ...] | None = None
    crop_xyxy: Box | None = None


class Anomaly(msgspec.Struct, frozen=True):
    """How far from the usual: from `threshold` on it is one."""

    score: float
    threshold: float
    is_anomaly: bool


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number that the model names, such as a forecast."""

    name: str
    value: float
    unit: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What a task made of the raw tensors: the field of its kind is set, best score first; the others are None."""

    detections: tuple[Detection, ...] | None = None
    classes: tuple[Classification, ...] | None = None
    keypoints: tuple[Keypoint, ...] | None = None
    segments: tuple[Segment, ...] | None = None
    anomaly: Anomaly | None = None
    values: tuple[Value, ...] | None = None


class SourceInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where it came from. width, height: of a picture, in pixels. rate_hz, samples: of a window."""

    uri: str
    width: int | None = None
    height: int | None = None
    rate_hz: float | None = None
    samples: int | None = None


class Timing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Milliseconds. `wait`: captured until taken up, but for what of `preprocess` was done meanwhile; `age`: captured
    until this result was there.

    `stages`: all that the further models of a cascade took, absent where there are none.
    """

    wait: float
    preprocess: float
    infer: float
    decode: float
    age: float
    stages: float | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The answer for one frame; see `schema` for the version of this form.

    reused: a gate saw nothing move, so the model did not run on this frame; what is found is from frame
    `inferred_seq`, which the source took `inferred_age_ms` before this one. All three are absent from a fresh result.
    filled: which share of the input's numbers, 0..1, was made up for missing ones; absent where none was.
    """

    schema: str = msgspec.field(default_factory=lambda: SCHEMA)
    id: str
    node: str
    pipeline: str
    seq: int
    captured_at: str
    clock: ClockState
    monotonic_ns: int
    position_s: float | None = None
    source: SourceInfo
    model: ModelInfo
    device: str
    task: str
    reused: bool = False
    inferred_seq: int | None = None
    inferred_age_ms: float | None = None
    filled: float | None = None
    detections: tuple[Detection, ...] | None = None
    classes: tuple[Classification, ...] | None = None
    keypoints: tuple[Keypoint, ...] | None = None
    segments: tuple[Segment, ...] | None = None
    anomaly: Anomaly | None = None
    values: tuple[Value, ...] | None = None
    timing_ms: Timing

    def to_json(self) -> bytes:
        """One line of UTF-8 JSON, without the line feed."""
        return _ENCODER.encode(self)


_ENCODER = msgspec.json.Encoder()


class IdMaker:
    """ULIDs (https://github.com/ulid/spec): 26 characters, unique, and sorted by the time they were made.

    The random part is drawn once and counts up from there, and a wall clock that goes back is not followed, so that
    ids of one maker always increase.
    """

    def __init__(self, unix_ns: Callable[[], int]) -> None:
        self._unix_ns = unix_ns
        self._lock = threading.Lock()
        self._last_ms = 0
        self._time = _crockford(0, 5)
        # One bit less than there is room for, to count up in. What seldom changes is written out once.
        random = secrets.randbits(79)
        self._high, self._low = random >> _LOW_BITS, random & (1 << _LOW_BITS) - 1
        self._head = _crockford(self._high, 5)

    def __call__(self) -> str:
        with self._lock:
            now_ms = self._unix_ns() // 1_000_000
            if now_ms > self._last_ms:
                self._last_ms, self._time = now_ms, _crockford(now_ms, 5)
            self._low += 1
            if self._low >> _LOW_BITS:
                self._low = 0
                self._high += 1
                self._head = _crockford(self._high, 5)
            low = self._low
            return f"{self._time}{self._head}{_PAIRS[low >> 20]}{_PAIRS[low >> 10 & 1023]}{_PAIRS[low & 1023]}"


def as_utf8(name: str) -> str:
    """A file name as text that can be written: what is no UTF-8 in it becomes U+FFFD."""
    # Python carries such bytes as lone surrogates, which JSON refuses.
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _crockford(number: int, pairs: int) -> str:
    """The lowest 10 bits times `pairs`, as two characters each."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * pairs - 10, -1, -10)])
