"""What a pipeline sends: which of its results, and the events that it makes of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import msgspec

from edgeinfer.clock import unix_ns_of
from edgeinfer.event import EventKind, Happening
from edgeinfer.result import Result
from edgeinfer.uplink.message import Message

Send = Literal["all", "changes", "events", "none"]

# With `changes`: after so long an unchanged result is sent, too, so that a subscriber sees that the pipeline lives.
KEEP_ALIVE_NS = 60_000_000_000
# So long a change must stand before it is an event: a detector flickers at its threshold.
STEADY_NS = 500_000_000

_encode = msgspec.json.Encoder().encode


class Selection:
    """The messages of one pipeline; called by one thread, with its results in their order.

    send: `all` results; `changes`: those in which something is found that was not in the last one sent, or the other
    way round; `events` only; or `none`. All but `none` send events, too. send_rate: so many results a second at most;
    the newest of those that came too soon is sent when its time comes, so that the last state is never lost.

    Times are those of the results (`monotonic_ns`, when the frame was captured), so that the same results give the
    same messages.
    """

    def __init__(self, send: Send, send_rate: float | None = None) -> None:
        self._send = send
        self._pace = _Pace(send_rate) if send_rate is not None else None
        self._events = Events()
        self._held: Result | None = None
        self._sent: tuple[Hashable, int] | None = None

    def take(self, result: Result) -> list[Message]:
        """What to send now that this result is there."""
        if self._send == "none":
            return []
        events = [message_of_event(event, result) for event in self._events.take(result)]
        if self._send == "events":
            return events
        return [*self._results(result), *events]

    def due(self, now_ns: int) -> list[Message]:
        """What was held back and may be sent now; to be asked now and then. now_ns: monotonic."""
        if self._held is None or (self._pace is not None and self._pace.wait_ns(now_ns) > 0):
            return []
        return [self._out(self._held, now_ns)]

    def wait_s(self, now_ns: int) -> float | None:
        """In how long `due` has something; None where nothing is held back."""
        return None if self._held is None or self._pace is None else self._pace.wait_ns(now_ns) / 1e9

    def finish(self) -> list[Message]:
        """At the end of the pipeline: what was held back, so that the last state is told."""
        return [] if self._held is None else [self._out(self._held, self._held.monotonic_ns)]

    def _results(self, result: Result) -> list[Message]:
        now_ns = result.monotonic_ns
        if not self._is_news(result):
            self._held = None
            return []
        if self._pace is not None and self._pace.wait_ns(now_ns) > 0:
            self._held = result
            return []
        return [self._out(result, now_ns)]

    def _is_news(self, result: Result) -> bool:
        if self._send == "all" or self._sent is None:
            return True
        state, sent_ns = self._sent
        return state_of(result) != state or result.monotonic_ns - sent_ns >= KEEP_ALIVE_NS

    def _out(self, result: Result, now_ns: int) -> Message:
        self._held = None
        if self._send == "changes":
            self._sent = (state_of(result), result.monotonic_ns)
        if self._pace is not None:
            self._pace.take(now_ns)
        return message_of_result(result)


def state_of(result: Result) -> Hashable:
    """What a change is a change of; places and scores do not count.

    Of detections: which tracks there are, and of those without a track how many of each label; so of segments, and of a
    body. Of classes: the best. Of an anomaly: whether it is one. Numbers differ each time: they are no change.
    """
    if result.anomaly is not None:
        return result.anomaly.is_anomaly
    if result.classes is not None:
        return result.classes[0].label if result.classes else None
    tracks = frozenset((found.track_id, found.label) for found in result.detections or () if found.track_id is not None)
    return tracks, frozenset(_counts(result, tracked=False).items())


def message_of_result(result: Result) -> Message:
    return Message("result", result.pipeline, unix_ns_of(result.captured_at), result.clock, result.to_json())


def message_of_event(event: Happening, result: Result) -> Message:
    """An event that came true with that result."""
    return Message("event", event.pipeline, unix_ns_of(event.occurred_at), result.clock, event.to_json())


class _Pace:
    """Due times at even distances: who is late by less than a period does not delay the next."""

    def __init__(self, per_second: float) -> None:
        self._period_ns = round(1e9 / per_second)
        self._due_ns: int | None = None

    def wait_ns(self, now_ns: int) -> int:
        return 0 if self._due_ns is None else max(0, self._due_ns - now_ns)

    def take(self, now_ns: int) -> None:
        due_ns = now_ns if self._due_ns is None else self._due_ns
        self._due_ns = (due_ns if now_ns - due_ns < self._period_ns else now_ns) + self._period_ns


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A value that may come true, and the result in which it was first seen."""

    value: int | str
    first: Result


class Events:
    """Events of one pipeline: a count by label, or a best class, that is another one and has stood for half a second.

    It must have been seen in two results at least; a reused one says nothing new.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._class: str | None = None
        self._candidates: dict[str, _Candidate] = {}

    @property
    def is_undecided(self) -> bool:
        """Whether something was seen that will be an event if it stands; any thread may ask."""
        return bool(self._candidates)

    def take(self, result: Result) -> list[Happening]:
        if result.reused:
            return []
        if result.classes is not None:
            best = result.classes[0].label if result.classes else ""
            return self._take_class(result, best)
        counts = _counts(result)
        if counts == self._counts and not self._candidates:
            return []
        return [
            event
            for label in sorted({*self._counts, *self._candidates, *counts})
            for event in self._take_count(result, label, counts.get(label, 0))
        ]

    def _take_class(self, result: Result, best: str) -> list[Happening]:
        previous = self._class or ""
        first = self._steady(result, "", best, previous)
        if first is None:
            return []
        self._class = best
        return [_happening("class", best, first, previous=previous)]

    def _take_count(self, result: Result, label: str, count: int) -> list[Happening]:
        before = self._counts.get(label, 0)
        first = self._steady(result, label, count, before)
        if first is None:
            return []
        if count:
            self._counts[label] = count
        else:
            self._counts.pop(label, None)
        kind: EventKind = "gone" if not count else "count" if before else "appeared"
        return [_happening(kind, label, first, count=count, before=before)]

    def _steady(self, result: Result, key: str, value: int | str, told: int | str) -> Result | None:
        """The result in which `value` was first seen, once it has stood for long enough; None before, and where it is
        what was told already."""
        if value == told:
            self._candidates.pop(key, None)
            return None
        candidate = self._candidates.get(key)
        if candidate is None or candidate.value != value:
            self._candidates[key] = _Candidate(value, result)
            return None
        if result.monotonic_ns - candidate.first.monotonic_ns < STEADY_NS:
            return None
        del self._candidates[key]
        return candidate.first


def _happening(
    kind: EventKind,
    label: str,
    first: Result,
    *,
    count: int | None = None,
    before: int | None = None,
    previous: str | None = None,
) -> Happening:
    return Happening(
        node=first.node,
        pipeline=first.pipeline,
        occurred_at=first.captured_at,
        kind=kind,
        label=label,
        count=count,
        before=before,
        previous=previous,
        result=first.id,
        seq=first.seq,
    )


def _counts(result: Result, *, tracked: bool = True) -> dict[str, int]:
    """How many there are of each label."""
    counts: dict[str, int] = {}
    for found in result.detections or ():
        if tracked or found.track_id is None:
            counts[found.label] = counts.get(found.label, 0) + 1
    for segment in result.segments or ():
        counts[segment.label] = counts.get(segment.label, 0) + 1
    if result.keypoints:
        counts["body"] = 1
    return counts
