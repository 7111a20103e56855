"""The proof of the device that would be next, made before it is needed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from edgeinfer.errors import DeviceNotFound
from edgeinfer.runtimes.isolated import Crew

log = logging.getLogger(__name__)

Prove = Callable[[int, Crew], None]
"""Let a rung pass its proof, in workers of the crew, and remember that it did. Raises DeviceNotFound."""

_PATIENCE_S = 1.0
_CLOSE_S = 5.0


class Standby:
    """Proves rungs in the background, so that falling to one of them is a plain opening.

    refused: the rungs that did not pass, and why.
    """

    def __init__(self, prove: Prove) -> None:
        self.refused: dict[int, str] = {}
        self._prove = prove
        self._crew = Crew()
        self._changed = threading.Condition()
        self._passed: set[int] = set()
        self._wanted: Sequence[int] = ()
        self._under_way: int | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def begin(self, indices: Sequence[int]) -> None:
        """Prove one after the other, until one has passed."""
        with self._changed:
            self._wanted = indices
            if indices and self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="device standby", daemon=True)
                self._thread.start()

    def best_first(self, indices: Sequence[int]) -> list[int]:
        """In that order, but first what has passed and last what was refused.

        Waits for what is being proved: nothing is quicker. But where there is a choice only a second, for it may hang.
        """
        with self._changed:
            patience_s = _PATIENCE_S if len(indices) > 1 else None
            self._changed.wait_for(lambda: self._under_way not in indices, patience_s)
            return sorted(indices, key=self._rank)

    def close(self) -> None:
        """Kill what is being proved."""
        with self._changed:
            self._is_closed = True
            thread = self._thread
        self._crew.dismiss()
        if thread is not None:
            thread.join(_CLOSE_S)

    def _rank(self, index: int) -> int:
        if index in self._passed:
            return 0
        if index == self._under_way:
            return 2
        return 3 if index in self.refused else 1

    def _work(self) -> None:
        while (index := self._next()) is not None:
            try:
                self._prove(index, self._crew)
            except DeviceNotFound as refused:
                log.debug("falling to rung %d would fail: %s", index, refused)
                self._note(index, str(refused))
            else:
                self._note(index, None)

    def _note(self, index: int, refusal: str | None) -> None:
        with self._changed:
            if refusal is None:
                self._passed.add(index)
            elif not self._is_closed:
                self.refused[index] = refusal

    def _next(self) -> int | None:
        """What is to be proved now; None, and the thread ends, where that is nothing."""
        with self._changed:
            untried = [index for index in self._wanted if self._rank(index) == 1]
            is_done = self._is_closed or not self._passed.isdisjoint(self._wanted)
            self._under_way = None if is_done or not untried else untried[0]
            if self._under_way is None:
                self._thread = None
            self._changed.notify_all()
            return self._under_way
