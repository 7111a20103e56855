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

    lossless: `put` waits for room, otherwise the oldest waiting result is dropped and counted as
    `dropped.sink.<uri>`. A result that the sink refuses is counted as `failed.sink.<uri>`; the next one is tried again.
    `on_gone` is called when a reader of the sink went away, which ends its work.
    """

    def __init__(self, sink: Sink, tally: Tally, *, lossless: bool, on_gone: Callable[[], None]) -> None:
        self.sink = sink
        self._tally = tally
        self._lossless = lossless
        self._on_gone = on_gone
        self._size = _QUEUE_WITH_PIXELS if sink.wants_pixels else _QUEUE_WITHOUT_PIXELS
        self._waiting: deque[tuple[Result, Frame | None]] = deque()
        self._changed = threading.Condition()
        self._is_finished = False
        self._is_gone = False
        self._is_failing = False
        self.error: OutputError | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.uri}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, result: Result, frame: Frame) -> None:
        with self._changed:
            if self._lossless:
                self._changed.wait_for(lambda: len(self._waiting) < self._size or self._is_finished or self._is_gone)
            elif len(self._waiting) >= self._size:
                self._waiting.popleft()
                self._tally.add(f"dropped.sink.{self.sink.uri}")
            if self._is_finished or self._is_gone:
                self._tally.add(f"dropped.sink.{self.sink.uri}")
                return
            self._waiting.append((result, frame if self.sink.wants_pixels else None))
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
        with self._changed:
            left = len(self._waiting)
        self._tally.add(f"dropped.sink.{self.sink.uri}", left)
        log.error("output %s does not take results, %d were not written", self.sink.uri, left)
        self._give_up(OutputError(f"output {self.sink.uri} does not take results, {left} were not written"))

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._write(*item)
        except Exception:
            log.exception("output %s failed and is given up", self.sink.uri)
            self._give_up(OutputError(f"output {self.sink.uri} failed"))
        self._close()

    def _next(self) -> tuple[Result, Frame | None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_finished or self._is_gone)
            if self._is_gone or not self._waiting:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    def _write(self, result: Result, frame: Frame | None) -> None:
        try:
            self.sink.write(result, frame)
        except OutputError as error:
            self._tally.add(f"failed.sink.{self.sink.uri}")
            if error.reader_is_gone:
                self._give_up(None)
                self._on_gone()
                return
            self.error = error
            if not self._is_failing:
                log.warning("%s; its results are lost until it takes them again", error)
            self._is_failing = True
            return
        self._tally.add(f"written.sink.{self.sink.uri}")
        if self._is_failing:
            log.warning("output %s takes results again", self.sink.uri)
            self._is_failing = False

    def _close(self) -> None:
        try:
            self.sink.close()
        except OutputError as error:
            self.error = error
        except Exception:
            log.exception("closing output %s failed", self.sink.uri)
            self.error = OutputError(f"closing output {self.sink.uri} failed")

    def _give_up(self, error: OutputError | None) -> None:
        with self._changed:
            self.error = error or self.error
            self._is_gone = True
            self._waiting.clear()
            self._changed.notify_all()
