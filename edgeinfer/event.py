"""What happened: one event of a pipeline, typed, and one JSON line when written."""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = "edgeinfer.event/1"

EventKind = Literal[
    "appeared",
    "gone",
    "count",
    "class",
    "enter",
    "leave",
    "cross",
    "dwell",
    "occupancy",
    "label",
    "anomaly",
    "value",
    "model",
]

_encode = msgspec.json.Encoder().encode


class Happening(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An event: what a pipeline sees now and did not before, or what was done with its model.

    kind: `appeared` (count was 0), `gone` (count is 0), `count` (more or fewer), `class` (another class is the best),
    `model` (a step of an update); all others are of a rule, and have `schema`, `id`, `rule` and `start`.
    label: of the objects, or the class, "" for none, or the slot; before: the count, previous: the class until then.
    result: id of the result in which it was seen first; seq: its frame. Of kind model instead step: what was done;
    release: with which one; who: did it; reason: why.

    start, end: RFC 3339. What lasts (`dwell`, `occupancy`, `label`, `anomaly`, `value`) is told when it begins, without
    an end, and once more under the same id when it is over, with the last result of a run at the latest. position_s: of
    a file, the place in it where this was told. track: of the object. direction: of `cross`, seen from the first point
    of the line to the last. score: 0..1. value: what `anomaly` and `value` judge, when this was told. snapshot, clip:
    names of files in the folder of events, written within some seconds.
    """

    schema: str | None = None
    id: str | None = None
    node: str
    pipeline: str
    occurred_at: str
    kind: EventKind
    rule: str | None = None
    start: str | None = None
    end: str | None = None
    position_s: float | None = None
    label: str
    track: int | None = None
    direction: Literal["left-to-right", "right-to-left"] | None = None
    score: float | None = None
    value: float | None = None
    count: int | None = None
    before: int | None = None
    previous: str | None = None
    result: str | None = None
    seq: int | None = None
    step: str | None = None
    release: int | None = None
    who: str | None = None
    reason: str | None = None
    snapshot: str | None = None
    clip: str | None = None

    def to_json(self) -> bytes:
        """One line of UTF-8 JSON, without the line feed."""
        return _encode(self)
