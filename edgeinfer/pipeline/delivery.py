"""Each sink behind its own thread and bounded queue, so that none can hold up the frames or the other sinks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from edgeinfer.bell import Bell
from edgeinfer.clock import Clock
from edgeinfer.errors import OutputError
from edgeinfer.event import Happening
from edgeinfer.frame import Frame, Input
from edgeinfer.metrics import Tally
from edgeinfer.result import Result
from edgeinfer.scene.scene import Seen
from edgeinfer.sinks import Sink

log = logging.getLogger(__name__)

_QUEUE_WITH_PIXELS = 4
_QUEUE_WITHOUT_PIXELS = 256
# Of a live source: how long a sink may need, at its pace, for what waits before it; what is left there at most.
_BACKLOG_NS = 200_000_000
_STALE_NS = 10_000_000_000
_WRITES_REMEMBERED = 8
# Of dropped results, so many events are kept for the next one.
_EVENTS_LEFT_MAX = 1000
# Of a file: how long results may gather before the sink's thread looks again.
_NAP_S = 0.1
# So many are written at once. Python's lock is held until they are written out: with a hundred, for so long that the
# thread that reads falls behind, and a device is handed on that had the next frame coming.
_TOGETHER_MAX = 16


class Pending(Protocol):
    """A result that is written out when it is asked for, by the thread that asks."""

    def result(self) -> Result: ...


class Ready(NamedTuple):
    """One that is there already."""

    value: Result

    def result(self) -> Result:
        return self.value


class _Waiting(NamedTuple):
    pending: Pending
    frame: Frame | None
    captured_ns: int
    events: tuple[Happening, ...] = ()


class _Pace:
    """How long a sink takes for a result, of late: the mean of some writes but for the slowest.

    So a disk that stalls once does not count as slow, and a sink that is slow time and again does.
    """

    def __init__(self) -> None:
        self._writes_ns: deque[int] = deque(maxlen=_WRITES_REMEMBERED)

    def add(self, took_ns: int) -> None:
        self._writes_ns.append(took_ns)

    def results_within(self, nanoseconds: int) -> int:
        """How many results it takes in that time, at least one."""
        usual_ns = sum(self._writes_ns) - max(self._writes_ns, default=0)
        return max(1, nanoseconds * (len(self._writes_ns) - 1) // usual_ns) if usual_ns > 0 else _QUEUE_WITHOUT_PIXELS


class Delivery:
    """Writes results to one sink.

    lossless: `put` waits for room, and for a sink that takes several at once results gather for a tenth of a second
    rather than to wake its thread one by one. Otherwise the oldest results are dropped: where there is no room, and
    where the sink is so slow that all it gets would be old. What is older than `max_age_ms` is dropped in any case, and
    counted as `dropped.max_age.sink.<uri>`. What the sink refuses is counted as `failed.sink.<uri>`, and the next
    result is tried again; what else it never got to see as `dropped.sink.<uri>`. Events go with the result in which
    they happened, or where that is dropped with the next one, or at the end.
    `on_gone` is called, by the sink's thread, when the sink takes no more: its reader went away, or it failed for good.
    """

    def __init__(
        self,
        sink: Sink,
        tally: Tally,
        *,
        lossless: bool,
        on_gone: Callable[[], None],
        max_age_ms: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.sink = sink
        self._tally = tally
        self._lossless = lossless
        self._on_gone = on_gone
        usual = _QUEUE_WITH_PIXELS if sink.wants_pixels else _QUEUE_WITHOUT_PIXELS
        self._size: int = getattr(sink, "waiting_max", usual)
        self._wants_this: Callable[[], bool] = getattr(sink, "wants_this", lambda: sink.wants_pixels)
        self._max_age_ns = None if max_age_ms is None else round(max_age_ms * 1e6)
        self._monotonic_ns = (clock or Clock()).monotonic_ns
        self._pace = _Pace()
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._came = Bell()
        self._has_room = threading.Condition(self._lock)
        self._is_finished = False
        self._is_hurried = False
        self._is_gone = False
        self._is_failing = False
        self._in_hand = 0
        self._written = f"written.sink.{sink.uri}"
        # Of a live source each result is written when it comes.
        self._write_many: Callable[[Sequence[Result]], None] | None = (
            getattr(sink, "write_many", None) if lossless and not sink.wants_pixels else None
        )
        self._is_napping = False
        self._write_events: Callable[[Sequence[Happening], Result, Frame | None], None] | None = getattr(
            sink, "write_events", None
        )
        self._wants_event_frames: bool = getattr(sink, "wants_event_frames", False)
        self._left_events: tuple[Happening, ...] = ()
        self._last: Seen | None = None
        self._lost = 0
        self.error: OutputError | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.uri}", daemon=True)

    @property
    def is_gone(self) -> bool:
        """Whether the sink takes no more results."""
        return self._is_gone

    @property
    def failure(self) -> OutputError | None:
        """What went wrong, with the number of results lost by it; None where nothing did."""
        if self.error is None or not self._lost:
            return self.error
        lost = f"{self._lost} result{'' if self._lost == 1 else 's'} lost"
        return OutputError(f"{self.error.message}, {lost}", hint=self.error.hint)

    def start(self) -> None:
        self._thread.start()

    def put(self, pending: Pending, frame: Input) -> None:
        """Hand over a result, and the picture where it is from one; may wait when lossless, but not once hurried."""
        with self._lock:
            if len(self._waiting) >= self._size:
                self._make_room()
            if self._is_finished or self._is_gone:
                self._tally.add(f"dropped.sink.{self.sink.uri}")
                return
            wants_frame, events = self._wants_this(), self._events_with(pending)
            if events and self._wants_event_frames:
                wants_frame = True
            picture = frame if wants_frame and isinstance(frame, Frame) else None
            if picture is not None and isinstance(pending, Seen):
                picture = pending.shown(picture)
            self._waiting.append(_Waiting(pending, picture, frame.captured_ns, events))
            if not self._is_napping or len(self._waiting) > self._size // 2:
                self._came.ring()

    def _make_room(self) -> None:
        if not self._lossless:
            self._leave_oldest("dropped.sink")
            return
        self._has_room.wait_for(
            lambda: len(self._waiting) < self._size or self._is_finished or self._is_hurried or self._is_gone
        )

    def hurry(self) -> None:
        """The run is to end: only the frame in work is still to come, and its `put` waits for no room."""
        with self._lock:
            self._is_hurried = True
            self._wake_all()

    def finish(self, last: Seen | None = None) -> None:
        """No more results: what waits is still written. Wakes a `put` that waits for room.

        last: the last result there was, with events that came true by its being the last.
        """
        with self._lock:
            self._last = last
            self._is_finished = True
            self._wake_all()

    def join(self, timeout_s: float | None) -> bool:
        """Wait until everything is written and the sink is closed; False when that took longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Leave a sink that does not take its results behind, and count them."""
        self._give_up(OutputError(f"output {self.sink.uri} does not take results", hint="it was left behind"))

    def _run(self) -> None:
        try:
            while items := self._next():
                self._write_in_time(items)
            self._write_last_events()
        except Exception:
            log.exception("output %s failed and is given up", self.sink.uri)
            self._give_up(OutputError(f"output {self.sink.uri} failed"))
            self._on_gone()
        self._close()

    def _next(self) -> Sequence[_Waiting]:
        """What is to be written now; nothing at the end. Several, where the sink takes them at once."""
        self._in_hand = 0
        if self._write_many is not None:
            self._nap()
        while True:
            with self._lock:
                if self._is_something_left():
                    return self._taken()
            self._came.wait()

    def _nap(self) -> None:
        """Waking a thread costs as much as ten results: at a high rate none of them has to. The end wakes at once."""
        with self._lock:
            if self._waiting or self._is_finished or self._is_gone:
                return
            self._came.wait(0)  # Rung for what has been taken since.
            self._is_napping = True
        self._came.wait(_NAP_S)
        self._is_napping = False

    def _taken(self) -> Sequence[_Waiting]:
        if self._is_gone or not self._waiting:
            return ()
        if self._write_many is None:
            items: Sequence[_Waiting] = (self._waiting.popleft(),)
        else:
            items = [self._waiting.popleft() for _ in range(min(len(self._waiting), _TOGETHER_MAX))]
        self._in_hand = len(items)
        if self._lossless:
            self._has_room.notify_all()
        return items

    def _wake_all(self) -> None:
        self._came.ring()
        self._has_room.notify_all()

    def _is_something_left(self) -> bool:
        """Whether there is a result that the sink shall have, or no more to come."""
        if not self._lossless:
            self._leave_the_stale()
        return bool(self._waiting) or self._is_finished or self._is_gone

    def _leave_the_stale(self) -> None:
        now_ns = self._monotonic_ns()
        if self._max_age_ns is not None:
            while self._waiting and now_ns - self._waiting[0].captured_ns > self._max_age_ns:
                self._leave_oldest("dropped.max_age.sink")
        if len(self._waiting) < 2:
            return
        room = self._pace.results_within(_BACKLOG_NS)
        while len(self._waiting) > 1 and (
            len(self._waiting) > room or now_ns - self._waiting[0].captured_ns > _STALE_NS
        ):
            self._leave_oldest("dropped.sink")

    def _leave_oldest(self, counted_as: str) -> None:
        """Its events go with the next one."""
        events = self._waiting.popleft().events
        self._tally.add(f"{counted_as}.{self.sink.uri}")
        if events and self._waiting:
            following = self._waiting[0]
            self._waiting[0] = following._replace(events=(events + following.events)[-_EVENTS_LEFT_MAX:])
        elif events:
            self._left_events = (self._left_events + events)[-_EVENTS_LEFT_MAX:]

    def _events_with(self, pending: Pending) -> tuple[Happening, ...]:
        if self._write_events is None or not isinstance(pending, Seen):
            return ()
        events, self._left_events = self._left_events + pending.events, ()
        return events

    def _write_in_time(self, items: Sequence[_Waiting]) -> None:
        if self._lossless:
            self._write(items)
            return
        begin_ns = self._monotonic_ns()
        self._write(items)
        self._pace.add(self._monotonic_ns() - begin_ns)

    def _write(self, items: Sequence[_Waiting]) -> None:
        try:
            if self._write_many is not None and len(items) > 1:
                self._write_many([item.pending.result() for item in items])
            else:
                self.sink.write(items[0].pending.result(), items[0].frame)
            if self._write_events is not None:
                for item in items:
                    if item.events:
                        self._write_events(item.events, item.pending.result(), item.frame)
        except OutputError as error:
            if error.reader_is_gone:
                log.info("%s", error)
                self._give_up(None)
                self._on_gone()
                return
            if self._is_gone:
                return
            self._tally.add(f"failed.sink.{self.sink.uri}", len(items))
            self._lost += len(items)
            self.error = error
            if not self._is_failing:
                log.warning("%s; its results are lost until it takes them again", error)
            self._is_failing = True
            return
        if self._is_gone:
            return  # It was given up meanwhile, and these results counted with the rest.
        self._tally.add(self._written, len(items))
        if self._is_failing:
            log.warning("output %s takes results again", self.sink.uri)
            self._is_failing = False

    def _write_last_events(self) -> None:
        last = self._last
        if self._write_events is None or self._is_gone or last is None:
            return
        events, self._left_events = self._left_events + last.events, ()
        if not events:
            return
        try:
            self._write_events(events, last.result(), None)
        except OutputError as error:
            if not error.reader_is_gone:
                self.error = self.error or error

    def _close(self) -> None:
        try:
            self.sink.close()
        except OutputError as error:
            self.error = self.error or error
        except Exception:
            log.exception("closing output %s failed", self.sink.uri)
            self.error = self.error or OutputError(f"closing output {self.sink.uri} failed")

    def _give_up(self, error: OutputError | None) -> None:
        """Take no more, and count what waits and what is in the sink's hands."""
        with self._lock:
            self.error = error or self.error
            self._is_gone = True
            left = len(self._waiting) + self._in_hand
            self._waiting.clear()
            self._wake_all()
        self._lost += left
        self._tally.add(f"dropped.sink.{self.sink.uri}", left)
