"""A model on a device, ready for pictures or for windows of samples."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from edgeinfer.bundle import Bundle, Overrides, load_bundle
from edgeinfer.bundle.facts import Format
from edgeinfer.clock import Clock, ClockWatch, rfc3339
from edgeinfer.delegates import Devices, Failover, Shared, Turns, load_golden
from edgeinfer.errors import ModelError, UsageError
from edgeinfer.frame import Frame, Input, Window
from edgeinfer.preprocess import Fitter, LaidOut, Placement
from edgeinfer.recurrence import Recurrence
from edgeinfer.result import IdMaker, ModelInfo, Outcome, Result, SourceInfo, Timing, as_utf8
from edgeinfer.runtimes import Runtime
from edgeinfer.samples import WindowFitter
from edgeinfer.tasks import TASKS, WINDOW_TASKS, Fitted
from edgeinfer.tensor import Array, TensorSpec


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers: `node` is this machine, `pipeline` the name of what runs on it."""

    node: str
    pipeline: str = "main"


class Prepared(NamedTuple):
    """What a model has done for a frame before its turn, in took_ns nanoseconds; see Model.prepare."""

    laid_out: LaidOut
    fitter: Fitter
    took_ns: int


class Answer:
    """What a model found in a frame or a window. `result` writes it out: there is time for that during the next one.

    Holds the frame's facts and not its picture or samples. stages_ns: monotonic times when it was taken up, fitted,
    computed and decoded. prepared_ns: how long `prepare` took for it, before. size: width and height; of a
    window, its samples and their rate.
    """

    __slots__ = (
        "_clock",
        "_lock",
        "_result",
        "_write_out",
        "captured_ns",
        "captured_unix_ns",
        "deepened_ns",
        "device",
        "filled",
        "outcome",
        "position_s",
        "prepared_ns",
        "seq",
        "size",
        "stages_ns",
        "uri",
    )

    def __init__(
        self,
        write_out: Callable[[Answer], Result],
        frame: Input,
        outcome: Outcome,
        device: str,
        stages_ns: tuple[int, int, int, int],
        clock: Clock,
        *,
        prepared_ns: int = 0,
    ) -> None:
        self._write_out = write_out
        self._clock = clock
        self.deepened_ns: int | None = None
        self._lock = threading.Lock()
        self._result: Result | None = None
        self.seq = frame.seq
        self.captured_ns = frame.captured_ns
        self.captured_unix_ns = frame.captured_unix_ns
        self.position_s = frame.position_s
        self.uri = frame.uri
        if isinstance(frame, Frame):
            self.size: tuple[int, int] | tuple[int, float] = frame.width, frame.height
            self.filled: float | None = None
        else:
            self.size = frame.values.shape[0], frame.rate_hz
            self.filled = round(frame.filled, 6) or None
        self.outcome = outcome
        self.device = device
        self.stages_ns = stages_ns
        self.prepared_ns = prepared_ns

    def deepen(self, outcome: Outcome) -> None:
        """Take what further models made of it, just now, before anybody has asked for the result."""
        self.outcome = outcome
        self.deepened_ns = self._clock.monotonic_ns()

    def result(self) -> Result:
        """The same one whoever asks, and however often."""
        with self._lock:
            if self._result is None:
                self._result = self._write_out(self)
            return self._result


class Model:
    """A loaded model. Call it with a picture, or let a pipeline feed it frames; `close` it, or use `with`.

    Calls from several threads wait for each other, and take turns (see Turns); so do those of all models that share a
    device. score_floor: answers hold what scores that much, though it be below the bundle's score_min; for a tracker.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        *,
        identity: Identity | None = None,
        score_floor: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.bundle = bundle
        self._score_floor = score_floor
        self._runtime = runtime
        self._turns = runtime.turns if isinstance(runtime, Shared) else Turns()
        self._clock = clock or Clock()
        self._identity = identity or Identity(node=socket.gethostname())
        self._recurrence = _recurrence(bundle, runtime)
        self._fitter = (
            None if bundle.window is not None else Fitter(runtime.inputs[bundle.picture.index], bundle.picture)
        )
        self._fit = self._fit_pictures(self._fitter) if self._fitter is not None else self._fit_windows()
        self._decode = self._decoder(_with_floor(bundle, score_floor))
        self.info = ModelInfo(name=as_utf8(bundle.name), version=bundle.version, sha256=bundle.file.sha256)
        self._new_id = IdMaker(self._clock.unix_ns)
        self._clock_watch = ClockWatch(self._clock)
        self._calls = count()
        self._is_closed = False

    @property
    def device(self) -> str:
        """What it really runs on, as in `litert:cpu`."""
        return self._runtime.device

    @property
    def is_shared(self) -> bool:
        """Whether another model, too, takes turns at its device at this moment."""
        return isinstance(self._runtime, Shared) and self._runtime.is_shared

    @property
    def state(self) -> str:
        """`ok`; `degraded: …` while a better device is lost; `down: …` while none computes."""
        return self._runtime.state if isinstance(self._runtime, (Failover, Shared)) else "ok"

    @property
    def ladder(self) -> Mapping[str, str]:
        """The devices that can compute it, the best first: device -> `in use`, `ready` or `lost: …`."""
        if isinstance(self._runtime, (Failover, Shared)):
            return self._runtime.ladder
        return {self.device: "in use"}

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height of its input, in pixels: a larger picture tells it no more. Of a model of pictures only."""
        return self.bundle.picture.width, self.bundle.picture.height

    def settle(self) -> None:
        """For the thread that will call `infer`: it keeps to the cores that the device is best served from."""
        if isinstance(self._runtime, Shared):
            self._runtime.settle()

    def count_with(self, count: Callable[[str], None]) -> None:
        """From now on tell `count` of each `device.lost` and `device.back`."""
        if isinstance(self._runtime, (Failover, Shared)):
            self._runtime.count_with(count)

    def set_score_min(self, score_min: float) -> None:
        """From the next picture on leave out what scores below, 0..1."""
        bundle = dataclasses.replace(self.bundle, decode=dataclasses.replace(self.bundle.decode, score_min=score_min))
        decode = self._decoder(_with_floor(bundle, self._score_floor))
        with self._turns:
            self.bundle, self._decode = bundle, decode

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, by class id; empty where the model names none."""
        return self.bundle.labels

    def __call__(self, image: npt.NDArray[Any]) -> Result:
        """The result for one picture.

        image: (height, width, 3) uint8 in blue-green-red order, as `cv2.imread` gives it, or (height, width) gray.
        Raises UsageError for anything else and once closed, RuntimeFailed where the device fails.
        """
        pixels = _as_bgr(image)
        return self.infer(
            Frame(pixels, next(self._calls), self._clock.monotonic_ns(), self._clock.unix_ns(), "memory:")
        )

    def infer(self, frame: Input) -> Result:
        """The result for one frame or window of a source. Raises RuntimeFailed; UsageError once closed."""
        return self.answer(frame).result()

    def prepare(self, frame: Input) -> Prepared | None:
        """Do for a frame what can be done while another one is computed; for `answer`. None where there is nothing.

        One thread at a time may call it, without a turn: it touches none of the runtime's memory.
        """
        if self._fitter is None or not isinstance(frame, Frame):
            return None
        begun_ns = self._clock.monotonic_ns()
        laid_out = self._fitter.lay_out(frame.pixels)
        return Prepared(laid_out, self._fitter, self._clock.monotonic_ns() - begun_ns)

    def answer(
        self, frame: Input, *, prepared: Prepared | None = None, comes_back: Callable[[], bool] | None = None
    ) -> Answer:
        """The same, not yet written out. Raises RuntimeFailed; UsageError once closed.

        prepared: what `prepare` gave for this frame; of another model, it is done anew.
        comes_back: asked at the end, whether the next frame is at hand; None where it never is. See Turns.
        """
        if prepared is not None and prepared.fitter is not self._fitter:
            prepared = None
        keeps = False
        self._turns.begin(may_come_back=comes_back is not None)
        try:
            if self._is_closed:
                raise UsageError(f"the model {self.bundle.name} is closed", hint="load it again")
            taken_ns = self._clock.monotonic_ns()
            where = self._fit(frame, None if prepared is None else prepared.laid_out)
            fitted_ns = self._clock.monotonic_ns()
            raw = self._runtime.run()
            computed_ns = self._clock.monotonic_ns()
            outcome = self._decode(raw, where)
            done_ns = self._clock.monotonic_ns()
            keeps = comes_back is not None and comes_back()
        finally:
            self._turns.end(comes_back=keeps)
        return Answer(
            self._write_out,
            frame,
            outcome,
            self.device,
            (taken_ns, fitted_ns, computed_ns, done_ns),
            self._clock,
            prepared_ns=0 if prepared is None else prepared.took_ns,
        )

    def _fit_pictures(self, fitter: Fitter) -> Callable[[Input, LaidOut | None], Placement]:
        """What puts a frame into the input; of one that was laid out before, the rest of it."""
        index = self.bundle.picture.index
        stretch = 0

        def fit_frame(frame: Input, laid_out: LaidOut | None) -> Placement:
            nonlocal stretch
            if not isinstance(frame, Frame):
                raise UsageError(f"{self.bundle.name} takes pictures, not samples")
            if self._recurrence is not None:
                # Of a camera, frames are dropped all the time: what it showed before them still tells of this one.
                if frame.stretch != stretch:
                    self._recurrence.reset()
                self._recurrence.feed(self._runtime)
                stretch = frame.stretch
            if laid_out is not None:
                return fitter.place(laid_out, self._runtime.input(index))
            return fitter.fit(frame.pixels, self._runtime.input(index))

        return fit_frame

    def _fit_windows(self) -> Callable[[Input, LaidOut | None], Fitted]:
        """What puts a window into the inputs."""
        window_input = self.bundle.window
        assert window_input is not None, "a model takes pictures or windows"
        index = window_input.index
        window_fitter = WindowFitter(self._runtime.inputs[index], window_input)
        last_seq = -1

        def fit_window(window: Input, laid_out: LaidOut | None) -> Fitted:
            nonlocal last_seq
            if not isinstance(window, Window):
                raise UsageError(f"{self.bundle.name} takes samples, not pictures")
            if self._recurrence is not None:
                # A live window may have been dropped on its way here.
                if not window.follows or window.seq != last_seq + 1:
                    self._recurrence.reset()
                self._recurrence.feed(self._runtime)
                last_seq = window.seq
            return window_fitter.fit(window, self._runtime.input(index))

        return fit_window

    def _decoder(self, bundle: Bundle) -> Callable[[tuple[Array, ...], Any], Outcome]:
        """What turns the outputs into an outcome, and keeps the state that is among them."""
        recurrence = self._recurrence
        if recurrence is None:
            return _make_decode(bundle, self._runtime.outputs)
        decode = _make_decode(bundle, recurrence.answers_of(self._runtime.outputs))
        return lambda raw, where: decode(recurrence.keep(raw), where)

    def _write_out(self, answer: Answer) -> Result:
        taken_ns, fitted_ns, computed_ns, done_ns = answer.stages_ns
        captured_ns, outcome, deepened_ns = answer.captured_ns, answer.outcome, answer.deepened_ns
        prepared_ns = answer.prepared_ns
        return Result(
            id=self._new_id(),
            node=self._identity.node,
            pipeline=self._identity.pipeline,
            seq=answer.seq,
            captured_at=rfc3339(answer.captured_unix_ns),
            clock=self._clock_watch.state(),
            monotonic_ns=captured_ns,
            position_s=None if answer.position_s is None else round(answer.position_s, 6),
            source=_source_info(answer.uri, answer.size, is_window=self.bundle.window is not None),
            model=self.info,
            device=answer.device,
            task=self.bundle.task,
            filled=answer.filled,
            detections=outcome.detections,
            classes=outcome.classes,
            keypoints=outcome.keypoints,
            segments=outcome.segments,
            anomaly=outcome.anomaly,
            values=outcome.values,
            timing_ms=Timing(
                wait=_ms(taken_ns - captured_ns - prepared_ns),
                preprocess=_ms(fitted_ns - taken_ns + prepared_ns),
                infer=_ms(computed_ns - fitted_ns),
                decode=_ms(done_ns - computed_ns),
                age=_ms((deepened_ns or done_ns) - captured_ns),
                stages=None if deepened_ns is None else _ms(deepened_ns - done_ns),
            ),
        )

    def reuse(self, result: Result, frame: Frame, *, inferred_age_ns: int) -> Result:
        """What was inferred from an earlier frame, said of this one and marked as reused; no stage took any time.

        inferred_age_ns: how long before this frame that one was taken.
        """
        wait_ms = _ms(self._clock.monotonic_ns() - frame.captured_ns)
        return replace(
            result,
            id=self._new_id(),
            seq=frame.seq,
            captured_at=rfc3339(frame.captured_unix_ns),
            clock=self._clock_watch.state(),
            monotonic_ns=frame.captured_ns,
            position_s=None if frame.position_s is None else round(frame.position_s, 6),
            source=_source_info(frame.uri, (frame.width, frame.height), is_window=False),
            reused=True,
            inferred_seq=result.seq,
            inferred_age_ms=_ms(inferred_age_ns),
            timing_ms=Timing(wait=wait_ms, preprocess=0.0, infer=0.0, decode=0.0, age=wait_ms),
        )

    def close(self) -> None:
        """Free the model's memory; may be called twice."""
        with self._turns:
            self._is_closed = True
        self._runtime.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_model(
    word: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    paced: bool = False,
    isolate: bool = False,
    overrides: Overrides | None = None,
    identity: Identity | None = None,
    score_floor: float | None = None,
    clock: Clock | None = None,
    devices: Devices | None = None,
) -> Model:
    """Read a model, choose its device, prove that it loads, and open it; or share what `devices` has open.

    Raises ModelError, DeviceNotFound, and UsageError where an option asks for what there is not.

    isolate: run even a CPU in a process of its own, which can be killed and replaced.
    score_floor: see Model.
    paced: frames come with pauses between them, so that idle runtime threads must sleep rather than spin.
    """
    bundle = load_bundle(word, overrides, prefer=format_for(device))
    _check_task(bundle)  # A misspelt task is said before the model is tried.
    runtime = (devices or Devices()).open(
        bundle.file, device, threads=threads, paced=paced, isolate=isolate, golden=load_golden(bundle)
    )
    try:
        return Model(bundle, runtime, identity=identity, score_floor=score_floor, clock=clock)
    except BaseException:
        runtime.close()
        raise


def format_for(device: str) -> Format:
    """Which weights of a bundle that has several the device of that word reads."""
    return "onnx" if device.startswith("onnx") else "tflite"


def _check_task(bundle: Bundle) -> None:
    error = UsageError if bundle.provenance.get("task") == "flag" else ModelError
    (TASKS if bundle.window is None else WINDOW_TASKS).get(bundle.task, error=error)


def _make_decode(bundle: Bundle, outputs: tuple[TensorSpec, ...]) -> Callable[[tuple[Array, ...], Any], Outcome]:
    _check_task(bundle)
    try:
        if bundle.window is None:
            return TASKS.get(bundle.task)(bundle, outputs).decode
        return WINDOW_TASKS.get(bundle.task)(bundle, outputs).decode
    except UsageError as wrong:
        if "flag" in (bundle.provenance.get("task"), bundle.provenance.get("decoder")):
            raise
        # Nobody typed it: it stands in model.toml.
        raise ModelError(f"{bundle.folder or bundle.file.path}: {wrong.message}", hint=wrong.hint) from wrong


def _recurrence(bundle: Bundle, runtime: Runtime) -> Recurrence | None:
    if not bundle.carried.state and not bundle.carried.constants:
        return None
    return Recurrence(bundle.carried, runtime.inputs, runtime.outputs)


def _with_floor(bundle: Bundle, floor: float | None) -> Bundle:
    if floor is None or floor >= bundle.decode.score_min:
        return bundle
    return dataclasses.replace(bundle, decode=dataclasses.replace(bundle.decode, score_min=floor))


def _as_bgr(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if not isinstance(image, np.ndarray):
        raise UsageError(f"an image is a numpy array, not {type(image).__name__}")
    if image.dtype != np.uint8:
        raise UsageError(f"an image has dtype uint8, not {image.dtype}")
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError(f"an image has shape (height, width, 3) or (height, width), not {image.shape}")
    return np.ascontiguousarray(image)


@lru_cache(maxsize=16)
def _source_info(uri: str, size: tuple[int, int] | tuple[int, float], *, is_window: bool) -> SourceInfo:
    """Many frames share one. size: width and height; of a window, samples and their rate."""
    if is_window:
        return SourceInfo(uri=as_utf8(uri), rate_hz=size[1], samples=size[0])
    return SourceInfo(uri=as_utf8(uri), width=size[0], height=int(size[1]))


def _ms(nanoseconds: int) -> float:
    """With three decimals; `round` takes three times as long."""
    return (nanoseconds + 500) // 1000 / 1000
