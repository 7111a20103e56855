"""Each sink behind its own thread and bounded queue, so that none can hold up the frames or the other sinks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from edgeinfer.errors import OutputError
from edgeinfer.frame import Frame
from edgeinfer.metrics import Tally
from edgeinfer.result import Result
from edgeinfer.sinks import Sink

log = logging.getLogger(__name__)

_QUEUE_WITH_PIXELS = 4
_QUEUE_WITHOUT_PIXELS = 256


class Delivery:
    """Writes results to one sink.

    lossless: `put` waits for room, otherwise the oldest waiting result is dropped. What the sink refuses is counted as
    `failed.sink.<uri>`, and the next result is tried again; what it never got to see as `dropped.sink.<uri>`.
    `on_gone` is called, by the sink's thread, when the sink takes no more: its reader went away, or it failed for good.
    """

    def __init__(self, sink: Sink, tally: Tally, *, lossless: bool, on_gone: Callable[[], None]) -> None:
        self.sink = sink
        self._tally = tally
        self._lossless = lossless
        self._on_gone = on_gone
        usual = _QUEUE_WITH_PIXELS if sink.wants_pixels else _QUEUE_WITHOUT_PIXELS
        self._size: int = getattr(sink, "waiting_max", usual)
        self._waiting: deque[tuple[Result, Frame | None]] = deque()
        self._changed = threading.Condition()
        self._is_finished = False
        self._is_hurried = False
        self._is_gone = False
        self._is_failing = False
        self._is_writing = False
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

    def put(self, result: Result, frame: Frame) -> None:
        """Hand over a result; may wait when lossless, but not once hurried."""
        with self._changed:
            if self._lossless:
                self._changed.wait_for(
                    lambda: len(self._waiting) < self._size or self._is_finished or self._is_hurried or self._is_gone
                )
            elif len(self._waiting) >= self._size:
                self._waiting.popleft()
                self._tally.add(f"dropped.sink.{self.sink.uri}")
            if self._is_finished or self._is_gone:
                self._tally.add(f"dropped.sink.{self.sink.uri}")
                return
            self._waiting.append((result, frame if self.sink.wants_pixels else None))
            self._changed.notify_all()

    def hurry(self) -> None:
        """The run is to end: only the frame in work is still to come, and its `put` waits for no room."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()

    def finish(self) -> None:
        """No more results: what waits is still written. Wakes a `put` that waits for room."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def join(self, timeout_s: float | None) -> bool:
        """Wait until everything is written and the sink is closed; False when that took longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Leave a sink that does not take its results behind, and count them."""
        self._give_up(OutputError(f"output {self.sink.uri} does not take results", hint="it was left behind"))

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._write(*item)
        except Exception:
            log.exception("output %s failed and is given up", self.sink.uri)
            self._give_up(OutputError(f"output {self.sink.uri} failed"))
            self._on_gone()
        self._close()

    def _next(self) -> tuple[Result, Frame | None] | None:
        with self._changed:
            self._is_writing = False
            self._changed.wait_for(lambda: self._waiting or self._is_finished or self._is_gone)
            if self._is_gone or not self._waiting:
                return None
            self._is_writing = True
            self._changed.notify_all()
            return self._waiting.popleft()

    def _write(self, result: Result, frame: Frame | None) -> None:
        try:
            self.sink.write(result, frame)
        except OutputError as error:
            if error.reader_is_gone:
                log.info("%s", error)
                self._give_up(None)
                self._on_gone()
                return
            if self._is_gone:
                return
            self._tally.add(f"failed.sink.{self.sink.uri}")
            self._lost += 1
            self.error = error
            if not self._is_failing:
                log.warning("%s; its results are lost until it takes them again", error)
            self._is_failing = True
            return
        if self._is_gone:
            return  # It was given up meanwhile, and this result counted with the rest.
        self._tally.add(f"written.sink.{self.sink.uri}")
        if self._is_failing:
            log.warning("output %s takes results again", self.sink.uri)
            self._is_failing = False

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
        with self._changed:
            self.error = error or self.error
            self._is_gone = True
            left = len(self._waiting) + self._is_writing
            self._waiting.clear()
            self._changed.notify_all()
        self._lost += left
        self._tally.add(f"dropped.sink.{self.sink.uri}", left)
