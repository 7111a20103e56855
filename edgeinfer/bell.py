"""How one thread sleeps until another has something for it."""

from __future__ import annotations

import threading


class Bell:
    """Rung by any thread, heard by one: `wait` returns at once where it was rung since the last wait.

    What has changed lies beside it, under a lock of its own, and is looked at again after each wait. A lock of C in
    place of `threading.Condition`, whose `wait` and `notify` are many lines of Python: after a pause these are in no
    cache.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        if self._silence.locked():
            try:  # noqa: SIM105 - suppress is a class of Python, with three calls
                self._silence.release()
            except RuntimeError:
                pass  # Somebody else rang it just now.

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it was rung, within so many seconds where those are given."""
        return self._silence.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0.0))
