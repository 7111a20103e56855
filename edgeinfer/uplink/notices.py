"""What is told at once or not at all: status, meta, metrics, snapshots; never spooled, the newest of each topic."""

from __future__ import annotations

import threading

from edgeinfer.metrics import Tally
from edgeinfer.uplink.publication import Publication

DROPPED = "dropped.uplink.notice"

_TOPICS_MAX = 256
_BYTES_MAX = 8 << 20


class Notices:
    """Publications that wait for the connection, one of each topic.

    What is retained is remembered, and told again on each connection. All else is dropped while there is none: it would
    be old when it came. More than 256 topics or 8 MiB are not taken, and counted.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._lock = threading.Lock()
        self._waiting: dict[str, Publication] = {}
        self._retained: dict[str, Publication] = {}
        self._is_connected = False

    def put(self, publication: Publication) -> bool:
        """From any thread. Whether there is something to send now."""
        with self._lock:
            if not self._has_room_for(publication):
                self._tally.add(DROPPED)
                return False
            if publication.retain:
                self._retained[publication.topic] = publication
            if self._is_connected:
                self._waiting.pop(publication.topic, None)
                self._waiting[publication.topic] = publication
            return self._is_connected

    def take(self) -> Publication | None:
        """The one that waits longest; None where none does."""
        with self._lock:
            topic = next(iter(self._waiting), None)
            return None if topic is None else self._waiting.pop(topic)

    def connected(self) -> None:
        with self._lock:
            self._is_connected = True
            self._waiting = dict(self._retained)

    def lost(self) -> None:
        with self._lock:
            self._is_connected = False
            self._waiting.clear()

    def _has_room_for(self, publication: Publication) -> bool:
        # Those that wait and are retained are counted twice; the limit is not that exact.
        held = [*self._waiting.values(), *self._retained.values()]
        others = [each for each in held if each.topic != publication.topic]
        size = sum(len(each.payload) for each in others) + len(publication.payload)
        return len(others) < 2 * _TOPICS_MAX and size <= _BYTES_MAX
