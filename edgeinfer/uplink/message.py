"""What the spool keeps: a message, its number once it is accepted, and the gap that dropped ones leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from edgeinfer.clock import ClockState

Channel = Literal["result", "event", "gap"]


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to be delivered. data: one JSON object in UTF-8; unix_ns: the wall time it tells of.

    pipeline: its name; "" in a gap, which may tell of several.
    """

    channel: Channel
    pipeline: str
    unix_ns: int
    clock: ClockState
    data: bytes


@dataclass(frozen=True, slots=True)
class Spooled:
    """An accepted message. seq: from 1 and increasing by 1 over all messages of an epoch."""

    seq: int
    message: Message


class Gap(msgspec.Struct, frozen=True):
    """Messages `first` to `last`, both included, were accepted and will not come. It bears the number `last` itself."""

    first: int
    last: int
    reason: str
