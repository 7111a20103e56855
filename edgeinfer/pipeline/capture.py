"""The thread that reads a source, and opens it again when it went away."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
from collections.abc import Callable

from edgeinfer.clock import Clock
from edgeinfer.errors import EdgeInferError, SourceError
from edgeinfer.frame import Frame, Input
from edgeinfer.metrics import Tally
from edgeinfer.pipeline.handoff import Handoff
from edgeinfer.sources import Source

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_MOST_HUNG_READS = 4


class Backoff:
    """Delays that double up to 30 s, each a little random, so that many nodes do not knock at once."""

    def __init__(self) -> None:
        self._delay_s = _FIRST_DELAY_S

    def next_s(self) -> float:
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, _LONGEST_DELAY_S)
        return delay_s * random.uniform(0.8, 1.2)

    def reset(self) -> None:
        self._delay_s = _FIRST_DELAY_S


class Capture:
    """Reads `source` in a thread of its own and hands each frame over.

    A live source that is lost is opened again by `reopen`, for as long as it takes; whatever else ends a source
    ends the frames. Before its first frame a source is lost only where that is asked for by `patient`, and wrong
    otherwise. `wait` sleeps that many seconds or until stopped, and says whether it was stopped; a test passes its own.
    Frames are numbered here, so that the count goes on across a reopening, and pictures after one are another stretch.
    """

    def __init__(
        self,
        source: Source,
        reopen: Callable[[], Source],
        handoff: Handoff,
        tally: Tally,
        *,
        patient: bool = False,
        wait: Callable[[float], bool] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._is_patient = patient
        self._opening_since_ns: int | None = None
        self._source = source
        self._reopen = reopen
        self._handoff = handoff
        self._tally = tally
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._seq = 0
        self._reopened = 0
        self._turn = 0
        self._hung_reads = 0
        self._turn_lock = threading.Lock()
        self._backoff = Backoff()
        self._is_lost = False
        self._reason = ""
        self._thread: threading.Thread | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the source is away at this moment."""
        return self._is_lost

    @property
    def trouble(self) -> str | None:
        """What is wrong with the source at this moment; None where nothing is."""
        if not self._is_lost:
            return None
        return "source lost" if self._seq else f"no source yet: {self._reason}"

    @property
    def opening_since_ns(self) -> int | None:
        """Since when the source is being opened again; None while it is not."""
        return self._opening_since_ns

    @property
    def looked_ns(self) -> int:
        """When the source last had an answer of what it reads from; 0 for one that does not say. See Source."""
        return int(getattr(self._source, "looked_ns", 0))

    def start(self) -> None:
        self._start_thread()

    def stop(self) -> None:
        """End reading soon; a read that hangs is left behind in its daemon thread."""
        self._stopped.set()
        self._handoff.abandon()

    def join(self, timeout_s: float) -> None:
        """Give the thread that long to close its source; then close it from here, to wake a read that waits."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self._source.close()

    def replace_hung_read(self) -> None:
        """Leave a read that never returned behind, and open the source afresh in a new thread."""
        self._hung_reads += 1
        self._tally.add("source.hung")
        if self._hung_reads > _MOST_HUNG_READS:
            self._handoff.finish(
                SourceError(f"{self._source.uri} hangs", hint=f"{_MOST_HUNG_READS} reads in a row never returned")
            )
            return
        log.warning("%s hangs, opening it again", self._source.uri)
        self._reason = "it gives nothing"
        self._is_lost = True
        # Lets go of the device as soon as the read does return; a camera that is held cannot be opened again.
        self._source.close()
        self._start_thread(lost=True)

    def _start_thread(self, *, lost: bool = False) -> None:
        with self._turn_lock:
            self._turn += 1
            turn = self._turn
        self._thread = threading.Thread(
            target=self._run, args=(turn,), kwargs={"lost": lost}, name="capture", daemon=True
        )
        self._thread.start()

    def _is_mine(self, turn: int) -> bool:
        return turn == self._turn and not self._stopped.is_set()

    def _run(self, turn: int, *, lost: bool) -> None:
        try:
            self._read_all(turn, self._open_again(turn) if lost else self._source)
        except EdgeInferError as error:
            if self._is_mine(turn):
                self._handoff.finish(error)
        except Exception as bug:
            log.exception("reading %s failed", self._source.uri)
            if self._is_mine(turn):
                self._handoff.finish(EdgeInferError(f"reading {self._source.uri} failed: {bug!r}"))

    def _read_all(self, turn: int, source: Source) -> None:
        try:
            while self._is_mine(turn):
                try:
                    frame = source.read()
                except SourceError as error:
                    # Before the first frame, a source that cannot deliver is a wrong source.
                    is_wrong = self._seq == 0 and not self._is_patient
                    if not source.live or is_wrong or not self._is_mine(turn):
                        raise
                    source.close()
                    self._say_lost(source.uri, error)
                    source = self._open_again(turn)
                    continue
                if not self._is_mine(turn):
                    return
                if frame is None:
                    self._handoff.finish()
                    return
                self._pass_on(frame, source.uri)
        finally:
            source.close()

    def _pass_on(self, frame: Input, uri: str) -> None:
        # Counted first: no frame may be inferred that was not captured.
        self._tally.add("captured")
        seq, self._seq = self._seq, self._seq + 1
        self._say_returned(uri)
        if self._reopened and isinstance(frame, Frame):
            # On each frame and not on the first alone, which may be dropped on its way. A window knows what it follows.
            frame = dataclasses.replace(frame, seq=seq, stretch=self._reopened)
        elif frame.seq != seq:
            # The source's own number, but for one that was opened again and counts from 0.
            frame = dataclasses.replace(frame, seq=seq)
        self._handoff.put(frame)

    def _open_again(self, turn: int) -> Source:
        while self._is_mine(turn):
            if self._wait(self._backoff.next_s()):
                break
            self._opening_since_ns = self._clock.monotonic_ns()
            try:
                source = self._reopen()
            except SourceError as still_away:
                log.debug("still away: %s", still_away)
                self._reason = still_away.message
                continue
            finally:
                self._opening_since_ns = None
            self._source = source
            self._reopened += 1
            self._tally.add("source.reopened")
            return source
        raise SourceError(f"{self._source.uri} was given up")

    def _say_lost(self, uri: str, error: SourceError) -> None:
        # Once when it goes away; a camera that flaps does so without a line per try.
        if not self._is_lost:
            log.warning("lost %s, opening it again until it is back: %s", uri, error)
            self._tally.add("source.lost")
        self._reason = error.message
        self._is_lost = True

    def _say_returned(self, uri: str) -> None:
        if self._is_lost:
            log.warning("%s is back", uri)
            self._is_lost = False
        self._backoff.reset()
        self._hung_reads = 0
