"""A pipeline's results on their way to the uplink: chosen, made messages, and now and then a picture with them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from edgeinfer.clock import Clock
from edgeinfer.errors import OutputError
from edgeinfer.event import Happening
from edgeinfer.frame import Frame
from edgeinfer.result import Result
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.selection import Selection, Send, message_of_event
from edgeinfer.uplink.snapshot import Snapshots, snapshot
from edgeinfer.uplink.topics import Topics
from edgeinfer.uplink.uplink import Uplink

log = logging.getLogger(__name__)


class UplinkSink:
    """See Sink. `write` never waits: what the uplink has no room for, it drops and counts.

    snapshot_s: seconds between two pictures, None for none but those that are asked for, where `may_be_asked`.
    """

    def __init__(
        self,
        uplink: Uplink,
        topics: Topics,
        pipeline: str,
        *,
        uri: str,
        send: Send,
        send_rate: float | None = None,
        snapshot_s: float | None = None,
        may_be_asked: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.uri = uri
        self.wants_pixels = snapshot_s is not None or may_be_asked
        self._uplink = uplink
        self._topics = topics
        self._pipeline = pipeline
        self._selection = Selection(send, send_rate)
        self._snapshots = None if snapshot_s is None else Snapshots(snapshot_s)
        self._sends_events = send != "none"
        self._is_asked = False
        self._lock = threading.Lock()
        self._monotonic_ns = (clock or Clock()).monotonic_ns

    def write(self, result: Result, frame: Frame | None) -> None:
        with self._lock:
            self._accept(self._selection.take(result))
        if frame is not None and self._takes(frame):
            self._tell_picture(result, frame)

    def write_many(self, results: Sequence[Result]) -> None:
        with self._lock:
            for result in results:
                self._accept(self._selection.take(result))

    def write_events(self, events: Sequence[Happening], result: Result, frame: Frame | None) -> None:
        """What the rules of the scene tell goes with the other events."""
        if self._sends_events:
            with self._lock:
                self._accept([message_of_event(event, result) for event in events])

    def ask_for_snapshot(self) -> None:
        """Send the picture of the next result."""
        self._is_asked = True

    def look(self) -> None:
        """To be called now and then: send what was held back for its rate, once it is due."""
        with self._lock:
            self._accept(self._selection.due(self._monotonic_ns()))

    def close(self) -> None:
        with self._lock:
            self._accept(self._selection.finish())

    def _accept(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._uplink.accept(message)

    def _takes(self, frame: Frame) -> bool:
        is_due = self._snapshots is not None and self._snapshots.takes(frame)
        is_asked, self._is_asked = self._is_asked, False
        return is_due or is_asked

    def _tell_picture(self, result: Result, frame: Frame) -> None:
        try:
            self._uplink.tell(snapshot(frame, self._pipeline, self._topics, result.clock))
        except OutputError as failed:
            log.warning("no snapshot of pipeline %s: %s", self._pipeline, failed)
