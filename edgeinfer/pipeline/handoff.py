"""How frames pass from the thread that captures to the thread that infers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from edgeinfer.bell import Bell
from edgeinfer.errors import EdgeInferError
from edgeinfer.frame import Input

# Of a delay: so many frames are taken for each place that it loses.
_TAKEN_PER_PLACE = 4


class Finished(Exception):
    """There are no more frames."""


class Handoff(Protocol):
    """One writer, one reader. After `finish`, `get` gives what is left and then ends."""

    def put(self, frame: Input) -> None:
        """Hand over a frame; may wait, returns at once after `abandon`."""
        ...

    def get(self, timeout_s: float | None = None) -> Input | None:
        """The next frame; None when none came in time. Raises Finished at the end, or the error it ended with."""
        ...

    def finish(self, error: EdgeInferError | None = None) -> None:
        """No more frames will be put."""
        ...

    def abandon(self) -> None:
        """Nobody will get any more: wake everyone."""
        ...


class BoundedQueue:
    """For files: every frame in order; the writer waits when `size` frames are waiting.

    prepare: called with a frame that finds another one waiting; there is time for that then.
    """

    def __init__(self, size: int = 2, *, prepare: Callable[[Input], None] | None = None) -> None:
        self._prepare = prepare
        # Queues of C: who waits for a frame, or for room, is woken without a line of Python in between.
        self._ready: SimpleQueue[Input | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(size):
            self._room.put(None)
        self._is_abandoned = False
        self._is_ending = False
        self._error: EdgeInferError | None = None

    def put(self, frame: Input) -> None:
        if self._prepare is not None and self.has_more():
            self._prepare(frame)
        self._room.get()
        if self._is_abandoned:
            self._room.put(None)  # Nor shall the next one wait.
        else:
            self._ready.put(frame)

    def get(self, timeout_s: float | None = None) -> Input | None:
        try:
            frame = self._ready.get(timeout=timeout_s)
        except Empty:
            return None
        if frame is not None and not self._is_abandoned:
            self._room.put(None)
            return frame
        self._ready.put(None)  # Whoever asks again gets the same answer.
        if self._error is not None and not self._is_abandoned:
            raise self._error
        raise Finished

    def has_more(self) -> bool:
        """Whether the next `get` has a frame without waiting, and the end is not near."""
        return not self._is_ending and not self._ready.empty()

    def finish(self, error: EdgeInferError | None = None) -> None:
        self._error = error
        self._is_ending = True
        self._ready.put(None)

    def abandon(self) -> None:
        self._is_abandoned = self._is_ending = True
        self._ready.put(None)
        self._room.put(None)


class Mailbox:
    """For live sources: one slot, the newest frame wins.

    The one it replaces is told to `on_drop` with the reason: `superseded`, or `rate` where it was held back.
    While nobody can take them up for a moment, `delay` lets frames wait in order instead.
    """

    def __init__(self, on_drop: Callable[[str], None]) -> None:
        self._on_drop = on_drop
        self._frames: deque[Input] = deque()
        self._room = 1
        self._room_bytes = 0
        self._is_lasting = False
        self._taken = 0
        self._lock = threading.Lock()
        self._came = Bell()
        self._ended = Bell()
        self._is_held = False
        self._is_finished = False
        self._is_abandoned = False
        self._error: EdgeInferError | None = None

    def put(self, frame: Input) -> None:
        with self._lock:
            if self._frames:
                self._make_room(frame.size_bytes)
            if not self._is_abandoned:
                self._frames.append(frame)
                self._came.ring()

    def get(self, timeout_s: float | None = None) -> Input | None:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                if self._is_abandoned:
                    raise Finished
                if self._frames:
                    if self._room > 1 and not self._is_lasting:
                        self._lose_patience()
                    return self._frames.popleft()
                if self._is_finished:
                    raise self._error or Finished
            left_s = None if until_s is None else until_s - time.monotonic()
            if (left_s is not None and left_s <= 0) or not self._came.wait(left_s):
                return None

    def delay(self, frames: int, bytes_max: int, *, lasting: bool = False) -> None:
        """From now on so many frames may wait, of so many bytes in all; beyond that the oldest gives way.

        With every fourth that is taken there is room for one less, so that who is a third faster than the source loses
        none, and who is not is back to the newest soon. lasting: it begins to end with the next delay only.
        """
        with self._lock:
            self._room, self._room_bytes, self._taken = frames, bytes_max, 0
            self._is_lasting = lasting

    def hold(self, seconds: float) -> None:
        """Wait that long, or until the end; frames that come meanwhile wake nobody, and the newest stays."""
        with self._lock:
            self._is_held = True
            self._room = 1  # What is slowed down cannot make up for a delay.
            has_ended = self._is_finished or self._is_abandoned
        if not has_ended:
            self._ended.wait(seconds)
        with self._lock:
            if self._is_finished:
                self._make_room(0)  # The last one was not due.
            self._is_held = False

    def finish(self, error: EdgeInferError | None = None) -> None:
        with self._lock:
            self._is_finished = True
            self._error = error
            self._wake_all()

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            self._frames.clear()
            self._wake_all()

    def _wake_all(self) -> None:
        self._came.ring()
        self._ended.ring()

    def _make_room(self, size_bytes: int) -> None:
        while self._frames and not self._fits(size_bytes):
            self._frames.popleft()
            self._on_drop("rate" if self._is_held else "superseded")

    def _fits(self, size_bytes: int) -> bool:
        if self._room == 1 or len(self._frames) >= self._room:
            return False
        return size_bytes + sum(frame.size_bytes for frame in self._frames) <= self._room_bytes

    def _lose_patience(self) -> None:
        self._taken += 1
        if self._taken % _TAKEN_PER_PLACE == 0:
            self._room -= 1
