"""One frame's journey: captured, handed over, inferred, delivered; a thread for each, and bounds between them."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from edgeinfer.board.cores import give_way
from edgeinfer.bundle import Bundle
from edgeinfer.clock import Clock
from edgeinfer.errors import EdgeInferError, OutputError, RuntimeFailed, SourceError
from edgeinfer.frame import Frame, Input
from edgeinfer.metrics import Tally
from edgeinfer.model import Answer, Model, Prepared
from edgeinfer.pipeline.capture import Capture
from edgeinfer.pipeline.cascade import Cascade, worst_of
from edgeinfer.pipeline.delivery import Delivery, Pending, Ready
from edgeinfer.pipeline.gate import KEYFRAME_S, Gate, Reuse
from edgeinfer.pipeline.handoff import BoundedQueue, Finished, Handoff, Mailbox
from edgeinfer.pipeline.profile import Profile, StageTime
from edgeinfer.pipeline.rate import Rate
from edgeinfer.result import ModelInfo, Result, Timing
from edgeinfer.scene.scene import Scene, Seen
from edgeinfer.sinks import Sink
from edgeinfer.sources import Source

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_CAPTURE_MAY_TAKE_S = 0.3
_OLD_BEFORE_SAID = 30
# What waits while a model is replaced on a device that only one can have: of a camera of 30 fps, four seconds.
_DELAYED_FRAMES = 120
_DELAYED_BYTES = 128 << 20
# And what may wait while one is opened beside it, which takes the cores now and then.
_CUSHIONED_FRAMES = 30

__all__ = ["Limits", "Look", "Pipeline", "PipelineFacts", "Report", "Work"]


@dataclass(frozen=True, slots=True)
class Limits:
    """frames: stop after so many were inferred, answered by the gate, or too old for either.

    max_age_ms: a live result older than that is not published, nor written by a sink that is late. rate_fps: so many
    frames a second are taken up at most; of a file, by its own time. keyframe_s: with a gate, the model runs after that
    much time whatever the gate says.
    first_frame_s: how long a source may take for its first frame; a `patient` pipeline takes one that needs longer, or
    gives none, for lost. silence_s: a read that takes longer hangs.
    sinks_s: after a stop, how long all sinks together may take for what they still hold.
    """

    frames: int | None = None
    max_age_ms: float | None = None
    rate_fps: float | None = None
    keyframe_s: float = KEYFRAME_S
    first_frame_s: float = 15.0
    silence_s: float = 20.0
    sinks_s: float = 5.0
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went. frames: inferred; results: handed to the outputs; elapsed_s: without the outputs' last writes.

    counts: of frames `captured`, `inferred`, `gated` (the last result was reused), `published` (their result went to
    the outputs), `dropped.superseded` (a newer one came before it was taken up), `dropped.rate`, `dropped.max_age` and
    `dropped.paused`;
    what is captured and neither published nor dropped was in work or waiting when the run ended.
    Of results `written.sink.<uri>`, `failed.sink.<uri>`, `dropped.sink.<uri>`, `dropped.max_age.sink.<uri>`.
    Of the source `source.lost`, `source.reopened`, `source.hung`; of the device `device.lost`, `device.back`.
    stage_ms: mean milliseconds per inferred frame by stage. profile: every stage in full, where that was asked for.
    skipped: name -> reason of what the source passed over.
    error: what ended the run before its end, None otherwise.
    """

    frames: int
    results: int
    elapsed_s: float
    counts: Mapping[str, int]
    stage_ms: Mapping[str, float]
    skipped: Mapping[str, str]
    error: EdgeInferError | None
    profile: tuple[StageTime, ...] = ()

    @property
    def gated(self) -> int:
        """Of how many frames the gate saved the inference."""
        return self.counts.get("gated", 0)

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many were dropped, by reason."""
        prefix = "dropped."
        return {name[len(prefix) :]: count for name, count in self.counts.items() if name.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """What a pipeline does. source: as the user typed it."""

    name: str
    bundle: Bundle
    model: ModelInfo
    device: str
    source: str


@dataclass(frozen=True, slots=True)
class Work:
    """What a pipeline is at, and since when by the monotonic clock. is_inference: a frame or a window is in work."""

    what: str
    since_ns: int
    is_inference: bool = False


Look = Callable[[Input, Answer], None]
"""Shown what was inferred and what the model found in it; must be quick, and keep no more than it needs."""


class Pipeline:
    """Source -> model -> sinks. Takes ownership of what it is given and closes it.

    `reopen` gives the source anew after it was lost. `start` and `wait`, or `run` for both; `stop` ends it from any
    thread. A live source keeps the newest frame only; from a file no frame is dropped. `gate` lets the last result
    stand for frames that show nothing new. `cascade` has what is detected looked at by further models. `scene` follows
    objects and tells what happens. `profile` times every stage. `on_done` is called, by a thread of the pipeline, when
    it has ended.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        sinks: Sequence[Sink],
        *,
        name: str = "main",
        reopen: Callable[[], Source] | None = None,
        limits: Limits | None = None,
        gate: Gate | None = None,
        cascade: Cascade | None = None,
        scene: Scene | None = None,
        profile: Profile | None = None,
        on_done: Callable[[], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.tally = Tally()
        self._latest: Pending | None = None
        self._model = model
        model.count_with(self.tally.add)
        self._exchanging = threading.Lock()
        self._next_model: Model | None = None
        self._takes_models = True
        self._score_min: float | None = None
        self._limits = limits or Limits()
        max_age_ms = self._limits.max_age_ms if source.live else None
        self._max_age_ns = None if max_age_ms is None else max_age_ms * 1e6
        self._clock = clock or Clock()
        self._profile = profile
        self._add_timing: Callable[[Timing], None] | None = None
        self._deliver = self._deliver_to_all
        reopen = reopen or _cannot_reopen
        if profile is not None:
            source, reopen = profile.source(source), _profiled(profile, reopen)
            gate = gate and profile.gate(gate)
            self._add_timing = profile.of_model(_input_bytes(model))
            self._deliver = profile.timed("deliver", self._deliver_to_all)
            sinks = [profile.sink(sink) for sink in sinks]
        self._source = source
        self._reuse = None if gate is None else Reuse(gate, keyframe_s=self._limits.keyframe_s)
        self._cascade = cascade
        self._scene = scene
        self._rate = None if self._limits.rate_fps is None else Rate(self._limits.rate_fps)
        self._pace: Rate | None = None
        self._slowed = ""
        self._look: Look | None = None
        self._parked = threading.Event()
        self._released = threading.Event()
        self._released.set()
        self._prepared: dict[int, Prepared] = {}
        self._gives_way = False
        # What a gate or a rate passes over would be prepared in vain.
        is_each_inferred = self._reuse is None and self._rate is None
        self._handoff: Handoff = (
            Mailbox(lambda reason: self.tally.add(f"dropped.{reason}"))
            if source.live
            else BoundedQueue(prepare=self._prepare if is_each_inferred else None)
        )
        # What is live shall give way, and its next frame is seldom there already. Nor does one follow at once behind
        # what a frame may have to wait for.
        is_at_once = is_each_inferred and cascade is None
        self._comes_back = self._is_coming_back if is_at_once and isinstance(self._handoff, BoundedQueue) else None
        self._capture = Capture(
            source, reopen, self._handoff, self.tally, patient=self._limits.patient, clock=self._clock
        )
        self._busy_since_ns: int | None = None
        self._deliveries = [self._delivery_to(sink) for sink in sinks]
        self._old_in_a_row = 0
        self._stage_ns = dict.fromkeys(("preprocess", "infer", "decode"), 0)
        self._stopped = threading.Event()
        self._delivering = threading.Lock()
        self._is_delivered = False
        self._done = threading.Event()
        self._on_done = on_done
        self._resumed = threading.Event()
        self._resumed.set()
        self._error: EdgeInferError | None = None
        self._started_ns: int | None = None
        self._ended_ns = 0
        self._thread = threading.Thread(target=self._run, name=f"pipeline {name}", daemon=True)

    @property
    def device(self) -> str:
        return self._model.device

    @property
    def ladder(self) -> Mapping[str, str]:
        """See Model."""
        return self._model.ladder

    @property
    def latest(self) -> Result | None:
        """The last result that was published."""
        latest = self._latest
        return None if latest is None else latest.result()

    @property
    def is_live(self) -> bool:
        """Whether its source is: then frames may be dropped."""
        return self._source.live

    @property
    def outputs(self) -> tuple[str, ...]:
        """The words of its outputs."""
        return tuple(delivery.sink.uri for delivery in self._deliveries)

    @property
    def state(self) -> str:
        """`ok`, `paused`, `degraded: reason`, `down: reason` while no device computes, or `stopped`."""
        if self._done.is_set():
            return "stopped"
        if not self._resumed.is_set():
            return "paused"
        state = self._state_of_models()
        if state.startswith("down"):
            return state
        device = "" if state == "ok" else state.removeprefix("degraded: ")
        reasons = "; ".join(reason for reason in (self._capture.trouble, self._slowed, device) if reason)
        return f"degraded: {reasons}" if reasons else "ok"

    @property
    def facts(self) -> PipelineFacts:
        """What it does, in words for other machines."""
        return PipelineFacts(self.name, self._model.bundle, self._model.info, self.device, self._source.uri)

    @property
    def counted_in(self) -> Literal["frames", "windows"]:
        """See Bundle."""
        return self._model.bundle.counted_in

    def work(self) -> Work | None:
        """What it is at: a frame, or the opening of its source. None while there is nothing to do but to wait: for the
        next frame, for one to be due, for a lost source to be tried again, while paused, and once ended."""
        if self._done.is_set():
            return None
        busy_since_ns, opening_since_ns = self._busy_since_ns, self._capture.opening_since_ns
        if busy_since_ns is not None:
            return Work(f"a {self.counted_in[:-1]} is in work", busy_since_ns, is_inference=True)
        return None if opening_since_ns is None else Work("its source is being opened", opening_since_ns)

    def pause(self) -> None:
        """Take up no more frames: a camera's are dropped, and counted as `dropped.paused`; those of a file wait."""
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()

    def set_score_min(self, score_min: float) -> None:
        """See Model. It holds for a model that comes later, too."""
        with self._exchanging:
            self._score_min = score_min
            for model in (self._model, self._next_model):
                if model is not None:
                    model.set_score_min(score_min)

    def exchange(self, model: Model) -> None:
        """From the next frame on this model answers, which now belongs to the pipeline; the former is closed."""
        model.count_with(self.tally.add)
        with self._exchanging:
            if self._score_min is not None:
                model.set_score_min(self._score_min)
            unwanted: Model | None = model
            if self._takes_models:
                unwanted, self._next_model = self._next_model, model
        if unwanted is not None:
            unwanted.close()

    def watch(self, look: Look | None) -> None:
        """From now on show each frame that was inferred to `look`, by the pipeline's thread; None: to nobody."""
        self._look = look

    def cushion(self, *, lasting: bool = False) -> None:
        """For the next 120 frames of a live source let up to thirty wait, then fewer, rather than give way to the
        newest. lasting: until it is called again."""
        if isinstance(self._handoff, Mailbox):
            self._handoff.delay(_CUSHIONED_FRAMES, _DELAYED_BYTES, lasting=lasting)

    def hold(self, timeout_s: float) -> bool:
        """Take up no frame until `release`; whether the one in work was finished in time. If not, all goes on.

        Of a live source up to 120 frames wait meanwhile, of 128 MiB at most; those of a file wait anyway.
        """
        if isinstance(self._handoff, Mailbox):
            self._handoff.delay(_DELAYED_FRAMES, _DELAYED_BYTES)
        self._parked.clear()
        self._released.clear()
        if self._parked.wait(timeout_s) and not self._done.is_set():
            return True
        self.release()
        return False

    def let_go(self) -> None:
        """While held: free the model and its device, for one that `exchange` brings."""
        self._model.close()

    def release(self) -> None:
        self._released.set()

    def set_rate(self, fps: float | None, reason: str = "") -> None:
        """Take up at most so many frames a second, for that reason, or as many as before where None.

        A file loses no frame by it: it takes longer.
        """
        self._slowed = "" if fps is None else f"slowed to {fps:.1f} fps: {reason}"
        self._pace = None if fps is None else Rate(fps)

    def start(self) -> None:
        self._started_ns = self._clock.monotonic_ns()
        for delivery in self._deliveries:
            delivery.start()
        self._capture.start()
        self._thread.start()

    def stop(self) -> None:
        """End soon: the frame in work is finished, every finished result is written."""
        self._stopped.set()
        self._resumed.set()
        self._released.set()
        self._capture.stop()
        for delivery in self._deliveries:
            delivery.hurry()

    def close(self) -> None:
        """Stop and wait; where it was never started, or not wholly, close what it was given."""
        self.stop()
        if self._thread.ident is not None:
            self.wait()
            return
        with ExitStack() as all_of_it:  # Whatever one of them raises, the others are closed.
            for delivery in self._deliveries:
                delivery.finish()
                all_of_it.callback(delivery.sink.close)
            all_of_it.callback(self._close_models)
            all_of_it.callback(self._source.close)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has ended, within that time."""
        return self._done.wait(timeout_s)

    def run(self) -> Report:
        self.start()
        self.wait()
        return self.report()

    def report(self) -> Report:
        """How it went, or how it goes."""
        counts = self.tally.snapshot()
        frames = counts.get("inferred", 0)
        end_ns = self._ended_ns or self._clock.monotonic_ns()
        begin_ns = end_ns if self._started_ns is None else self._started_ns
        return Report(
            frames=frames,
            results=counts.get("published", 0),
            elapsed_s=(end_ns - begin_ns) / 1e9,
            counts=counts,
            stage_ms={stage: total / max(frames, 1) / 1e6 for stage, total in self._stage_ns.items()},
            skipped=dict(self._source.skipped),
            error=self._error,
            profile=() if self._profile is None else self._profile.times(),
        )

    def leave_frame(self) -> None:
        """After `stop`, when the frame in work takes too long: deliver what is finished, and do not wait for it."""
        self._deliver_the_rest()

    def _run(self) -> None:
        try:
            self._model.settle()
            self._infer_all()
        except Finished:
            pass
        except EdgeInferError as error:
            self._error = error
        except Exception as bug:  # noqa: BLE001 - the edge of a thread; the traceback travels with the error
            self._error = _of_bug(f"pipeline {self.name} failed", bug)
        self._ended_ns = self._clock.monotonic_ns()
        self._busy_since_ns = None
        try:
            self._capture.stop()
            self._deliver_the_rest()
            self._capture.join(_CAPTURE_MAY_TAKE_S)
            self._close_models()
        except Exception as bug:  # noqa: BLE001 - the edge of a thread; the traceback travels with the error
            self._error = self._error or _of_bug(f"closing pipeline {self.name} failed", bug)
        finally:
            self._done.set()  # Whoever waits must not wait for ever.
            if self._on_done is not None:
                self._on_done()

    def _on_gone(self) -> None:
        """An output takes no more. The others go on; without any there is nobody to work for."""
        if all(delivery.is_gone for delivery in self._deliveries):
            self.stop()

    def _infer_all(self) -> None:
        last_frame_ns = self._clock.monotonic_ns()
        done = 0
        while not self._stopped.is_set():
            if not self._released.is_set():
                last_frame_ns = self._wait_for_release()
                continue
            if not self._resumed.is_set():
                last_frame_ns = self._wait_for_resume()
                continue
            self._busy_since_ns = None
            frame = self._next_frame()
            self._busy_since_ns = self._clock.monotonic_ns()
            if self._next_model is not None:
                self._take_next_model()
            if frame is None:
                last_frame_ns = self._look_after_source(last_frame_ns)
                continue
            last_frame_ns = self._busy_since_ns
            done += self._take(frame)
            if self._limits.frames is not None and done >= self._limits.frames:
                return

    def _wait_for_release(self) -> int:
        """The time until when there was nothing to expect."""
        self._busy_since_ns = None
        self._parked.set()
        while not self._released.wait(_LOOK_EVERY_S) and not self._stopped.is_set():
            pass
        return self._clock.monotonic_ns()

    def _wait_for_resume(self) -> int:
        """While paused, let go what a live source gives. The time until when there was nothing to expect."""
        self._busy_since_ns = None
        if not self._source.live:
            self._resumed.wait(_LOOK_EVERY_S)
        elif self._handoff.get(_LOOK_EVERY_S) is not None:
            self.tally.add("dropped.paused")
        return self._clock.monotonic_ns()

    def _take_next_model(self) -> None:
        with self._exchanging:
            former, coming = self._model, self._next_model
            if coming is None:
                return
            self._model, self._next_model = coming, None
        coming.settle()
        former.close()
        log.info("pipeline %s: %s answers now, on %s", self.name, coming.info.name, coming.device)

    def _close_models(self) -> None:
        with self._exchanging:
            self._takes_models = False
            coming, self._next_model = self._next_model, None
        self._model.close()
        if coming is not None:
            coming.close()
        if self._cascade is not None:
            self._cascade.close()

    def _next_frame(self) -> Input | None:
        pace, rate = self._pace, self._rate
        if pace is not None:
            self._wait_for(pace)
        frame = self._handoff.get(_LOOK_EVERY_S) if rate is None else self._next_due(rate)
        if pace is not None and frame is not None:
            pace.take(self._clock.monotonic_ns())
        return frame

    def _wait_for(self, pace: Rate) -> None:
        """Until the next frame may be taken up."""
        wait_s = pace.wait_s(self._clock.monotonic_ns())
        if wait_s <= 0:
            return
        if isinstance(self._handoff, Mailbox):
            self._handoff.hold(wait_s)
        else:
            self._stopped.wait(wait_s)

    def _next_due(self, rate: Rate) -> Input | None:
        """Of a live source the newest frame when one is due, of a file the next that is not passed over."""
        if isinstance(self._handoff, Mailbox):
            wait_s = rate.wait_s(self._clock.monotonic_ns())
            if wait_s > 0:
                self._handoff.hold(wait_s)
            frame = self._handoff.get(_LOOK_EVERY_S)
            if frame is not None:
                rate.take(self._clock.monotonic_ns())
            return frame
        while (frame := self._handoff.get(_LOOK_EVERY_S)) is not None and rate.passes_over(frame.position_s):
            self.tally.add("dropped.rate")
        if frame is not None and frame.position_s is None:
            log.warning("%s has no time: all its frames are taken, whatever the rate", self._source.uri)
            self._rate = None
        return frame

    def _take(self, frame: Input) -> bool:
        """Whether the frame is done with: False where no device computes at present."""
        if self._is_too_old(frame):
            self._drop_old()
            return True
        answer = (None if self._reuse is None else self._reused(frame, self._reuse)) or self._infer(frame)
        if answer is None:
            return False
        if self._is_too_old(frame):
            if self._scene is not None and isinstance(answer, Seen):
                self._scene.take_back(answer)
            self._drop_old()
            return True
        self._old_in_a_row = 0
        self._latest = answer
        self.tally.add("published")
        self._deliver(answer, frame)
        return True

    def _infer(self, frame: Input) -> Pending | None:
        try:
            prepared = self._prepared.pop(frame.seq, None)
            answer = self._model.answer(frame, prepared=prepared, comes_back=self._comes_back)
            if self._cascade is not None:
                self._cascade.deepen(answer, frame, self._model.bundle.decode.score_min, self.tally.add)
        except RuntimeFailed:
            if not (self._source.live and self._state_of_models().startswith("down")):
                raise
            # The device layer has said it, and is opening the devices again.
            self.tally.add("dropped.device")
            return None
        self.tally.add("inferred")
        taken_ns, fitted_ns, computed_ns, done_ns = answer.stages_ns
        self._stage_ns["preprocess"] += fitted_ns - taken_ns + answer.prepared_ns
        self._stage_ns["infer"] += computed_ns - fitted_ns
        self._stage_ns["decode"] += done_ns - computed_ns
        pending = answer if self._scene is None else self._seen(answer, frame, self._scene)
        if self._reuse is not None:
            self._reuse.inferred(frame, pending.result())
        if self._add_timing is not None:
            self._add_timing(answer.result().timing_ms)
        if (look := self._look) is not None:
            look(frame, answer)
        return pending

    def _prepare(self, frame: Input) -> None:
        """By the capture's thread, which is ahead anyway."""
        if self._model.is_shared and not self._gives_way:
            # Whoever has its turn at the device must not wait for the sources of all others.
            self._gives_way = True
            give_way()
        try:
            prepared = self._model.prepare(frame)
        except Exception:
            # Unprepared, it fails where it is said to be the model's fault and not the source's.
            log.debug("pipeline %s: frame %d cannot be prepared", self.name, frame.seq, exc_info=True)
            return
        if prepared is not None:
            self._prepared[frame.seq] = prepared

    def _is_coming_back(self) -> bool:
        """Whether the next frame is taken up as soon as this one is delivered."""
        assert isinstance(self._handoff, BoundedQueue), "a live source does not come back"
        is_going_on = self._pace is None and self._resumed.is_set() and self._released.is_set()
        return is_going_on and self._handoff.has_more()

    def _state_of_models(self) -> str:
        own = self._model.state
        return own if self._cascade is None else worst_of([own, self._cascade.state])

    def _seen(self, pending: Pending, frame: Input, scene: Scene) -> Seen:
        return scene.look(pending.result(), frame, score_min=self._model.bundle.decode.score_min)

    def _reused(self, frame: Input, reuse: Reuse) -> Pending | None:
        """The last result, marked as reused, where the gate lets it stand for this frame."""
        assert isinstance(frame, Frame), "a gate looks at pictures"
        known = reuse.for_frame(frame)
        if known is None:
            return None
        self.tally.add("gated")
        ready = Ready(self._model.reuse(known.result, frame, inferred_age_ns=known.age_ns))
        return ready if self._scene is None else self._seen(ready, frame, self._scene)

    def _deliver_to_all(self, answer: Pending, frame: Input) -> None:
        for delivery in self._deliveries:
            delivery.put(answer, frame)

    def _delivery_to(self, sink: Sink) -> Delivery:
        return Delivery(
            sink,
            self.tally,
            lossless=not self._source.live,
            on_gone=self._on_gone,
            max_age_ms=self._limits.max_age_ms,
            clock=self._clock,
        )

    def _drop_old(self) -> None:
        self.tally.add("dropped.max_age")
        self._old_in_a_row += 1
        if self._old_in_a_row == _OLD_BEFORE_SAID:
            log.warning(
                "pipeline %s: %d results in a row were older than %g ms, and none is published; is max_age too short?",
                self.name,
                _OLD_BEFORE_SAID,
                self._limits.max_age_ms,
            )

    def _is_too_old(self, frame: Input) -> bool:
        return self._max_age_ns is not None and self._clock.monotonic_ns() - frame.captured_ns > self._max_age_ns

    def _look_after_source(self, last_frame_ns: int) -> int:
        """Nothing came for a while: is that a source that never delivers, a hung read, or patience?"""
        now_ns = self._clock.monotonic_ns()
        silent_s = (now_ns - max(last_frame_ns, self._capture.looked_ns)) / 1e9
        if self.tally["captured"] == 0 and not self._limits.patient:
            if silent_s > self._limits.first_frame_s:
                raise SourceError(f"{self._source.uri} delivered nothing within {self._limits.first_frame_s:g} s")
        elif self._capture.is_lost:
            return now_ns  # Whoever is away is not silent: the patience begins with the return.
        elif silent_s > self._limits.silence_s:
            if not self._source.live:
                # Opened again, a file would begin at its first frame.
                raise SourceError(f"{self._source.uri} gave nothing for {self._limits.silence_s:g} s, and no end")
            self._capture.replace_hung_read()
            return now_ns
        return last_frame_ns

    def _deliver_the_rest(self) -> None:
        with self._delivering:
            if not self._is_delivered:
                self._is_delivered = True
                self._finish_deliveries()

    def _finish_deliveries(self) -> None:
        last = None if self._scene is None else self._scene.cut()
        for delivery in self._deliveries:
            delivery.finish(last)
        # At the end of a file a slow sink may take its time; after a stop all of them have some seconds, since a disk
        # may stall, but one that blocks for ever must not keep the program.
        deadline_ns = None
        for delivery in self._deliveries:
            while not delivery.join(_LOOK_EVERY_S):
                if not self._stopped.is_set():
                    continue
                deadline_ns = deadline_ns or self._clock.monotonic_ns() + round(self._limits.sinks_s * 1e9)
                if self._clock.monotonic_ns() >= deadline_ns:
                    delivery.give_up()
                    break
        failures = [failure for delivery in self._deliveries if (failure := delivery.failure) is not None]
        if self._error is not None:
            for failure in failures:
                log.error("%s", failure)
        elif failures:
            self._error = failures[0] if len(failures) == 1 else OutputError("; ".join(map(str, failures)))


def _profiled(profile: Profile, reopen: Callable[[], Source]) -> Callable[[], Source]:
    return lambda: profile.source(reopen())


def _input_bytes(model: Model) -> int:
    taken = model.bundle.window or model.bundle.picture
    spec = model.bundle.file.inputs[taken.index]
    return math.prod(spec.shape) * spec.dtype.itemsize


def _of_bug(what: str, bug: Exception) -> EdgeInferError:
    """The error that a person is told, with the traceback behind it."""
    error = EdgeInferError(f"{what}: {bug!r}", hint="a bug in edgeinfer or in a plugin; --debug shows where")
    error.__cause__ = bug
    return error


def _cannot_reopen() -> Source:
    raise SourceError("this source cannot be opened again")
