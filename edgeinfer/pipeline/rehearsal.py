"""A short run of a model in a real pipeline, as it will be at work: decoding beside it, results made and delivered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil

import cv2
import numpy as np
import numpy.typing as npt

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.facts import WindowInput
from edgeinfer.clock import Clock
from edgeinfer.errors import EdgeInferError, RuntimeFailed, SourceError
from edgeinfer.frame import Frame, Input, Window
from edgeinfer.model import Model
from edgeinfer.pipeline import Pipeline
from edgeinfer.result import Result
from edgeinfer.sources import Source

REEL_WIDTH, REEL_HEIGHT = 1280, 720
"""The pictures of `Reel`, as an HD camera gives them."""
REEL = f"a {REEL_WIDTH} x {REEL_HEIGHT} JPEG picture, decoded anew for each frame"
"""What `Reel` is, for people."""

HISS = "one window of noise"
"""What `Hiss` is, for people."""

_REEL_QUALITY = 90
_WARM_UP_RESULTS = 3
_MEASURED_MIN = 3
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """How it went, after the first frames. fps: results per second. latency_ms: preprocessing, inference and decoding
    of each frame, in order."""

    fps: float
    latency_ms: tuple[float, ...]

    def percentile_ms(self, share: float) -> float:
        """The latency that so large a share (0..1] of the frames stays within, by the nearest rank."""
        return sorted(self.latency_ms)[max(0, ceil(share * len(self.latency_ms)) - 1)]


def rehearse(model: Model, open_source: Callable[[], Source], *, seconds: float) -> Rehearsed:
    """Run the model over the source, again from its beginning where it ends, for about so long; closes the model.

    Raises RuntimeFailed, SourceError.
    """
    watch = _Stopwatch(seconds)
    pipeline = Pipeline(model, Again(open_source), [watch])
    pipeline.start()
    watch.is_over.wait(_TIMEOUT_S)
    pipeline.close()
    error = pipeline.report().error
    if error is not None:
        raise error
    if not watch.is_full:
        raise RuntimeFailed(f"{pipeline.device} gave fewer than {_MEASURED_MIN} results in {_TIMEOUT_S:g} s")
    return watch.rehearsed()


class Reel:
    """One picture of 1280 x 720, decoded from JPEG each time anew: what a USB camera's frames cost. See Source."""

    uri = "reel:"
    live = False
    fps: float | None = None

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._jpeg = _picture_jpeg()
        self._seq = 0

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> Frame | None:
        pixels: npt.NDArray[np.uint8] = cv2.imdecode(self._jpeg, cv2.IMREAD_COLOR)  # type: ignore[assignment]
        seq, self._seq = self._seq, self._seq + 1
        return Frame(pixels, seq, self._clock.monotonic_ns(), self._clock.unix_ns(), self.uri)

    def close(self) -> None:
        """There is nothing to let go of."""


class Hiss:
    """One window of noise, again and again: what a model of samples takes, without a sensor's pace. See Source."""

    uri = "hiss:"
    live = False
    fps: float | None = None

    def __init__(self, wanted: WindowInput, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._wanted = wanted
        self._channels = wanted.channels or ("noise",)
        noise = np.random.default_rng(0).normal(0.0, 0.1, (wanted.length, len(self._channels)))
        self._values = noise.astype(np.float32)
        self._seq = 0

    @property
    def skipped(self) -> Mapping[str, str]:
        return {}

    def read(self) -> Window | None:
        seq, self._seq = self._seq, self._seq + 1
        now_ns, unix_ns = self._clock.monotonic_ns(), self._clock.unix_ns()
        return Window(self._values, seq, now_ns, unix_ns, self.uri, self._wanted.rate_hz, self._channels)

    def close(self) -> None:
        """There is nothing to let go of."""


def open_rehearsal(bundle: Bundle) -> Source:
    """What a model is measured with where nobody names a source: a Reel, or a Hiss for one of samples."""
    return Reel() if bundle.window is None else Hiss(bundle.window)


def rehearsal_of(bundle: Bundle) -> str:
    """What `open_rehearsal` opens, for people."""
    return REEL if bundle.window is None else HISS


class Again:
    """A source that begins anew when it ends; see Source."""

    def __init__(self, open_source: Callable[[], Source]) -> None:
        self._open = open_source
        self._source = open_source()
        self._closed = threading.Event()
        self.uri = self._source.uri
        self.live = self._source.live
        self.fps = self._source.fps

    @property
    def skipped(self) -> Mapping[str, str]:
        return self._source.skipped

    def read(self) -> Input | None:
        frame = self._source.read()
        if frame is not None or self._closed.is_set():
            return frame
        self._source.close()
        self._source = self._open()
        frame = self._source.read()
        if frame is None and not self._closed.is_set():
            raise SourceError(f"{self.uri} gives nothing")
        return frame

    def close(self) -> None:
        self._closed.set()
        self._source.close()


class _Stopwatch:
    """A sink that takes the times of results until it has enough; see Sink. is_over: nothing more will come."""

    uri = "stopwatch:"
    wants_pixels = False

    def __init__(self, seconds: float) -> None:
        self.is_over = threading.Event()
        self._seconds = seconds
        self._seen = 0
        self._done_s: list[float] = []
        self._latency_ms: list[float] = []

    @property
    def is_full(self) -> bool:
        """Whether enough was seen."""
        return len(self._done_s) > _MEASURED_MIN and self._done_s[-1] - self._done_s[0] >= self._seconds

    def write(self, result: Result, frame: Frame | None) -> None:
        self._seen += 1
        if self._seen <= _WARM_UP_RESULTS or self.is_full:
            return
        timing = result.timing_ms
        self._done_s.append(result.monotonic_ns / 1e9 + timing.age / 1e3)
        self._latency_ms.append(timing.preprocess + timing.infer + timing.decode)
        if self.is_full:
            self.is_over.set()

    def close(self) -> None:
        """What was seen stays."""
        self.is_over.set()

    def rehearsed(self) -> Rehearsed:
        took_s = self._done_s[-1] - self._done_s[0]
        return Rehearsed((len(self._done_s) - 1) / took_s, tuple(self._latency_ms))


@cache
def _picture_jpeg() -> npt.NDArray[np.uint8]:
    """Soft shapes under a little noise: of a photograph's detail, and so of its decoding time."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (18, 32, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (REEL_WIDTH, REEL_HEIGHT), interpolation=cv2.INTER_CUBIC)
    noise = random.normal(0, 4, picture.shape)
    picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    is_written, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _REEL_QUALITY])
    if not is_written:
        raise EdgeInferError("this OpenCV writes no JPEG", hint="pip install opencv-python-headless")
    return np.asarray(jpeg, dtype=np.uint8)
