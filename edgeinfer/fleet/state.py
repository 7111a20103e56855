"""What nodes say of their models on `model/<slot>`, gathered from a broker for a moment."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from urllib.parse import unquote

import msgspec

from edgeinfer.config import UplinkConfig
from edgeinfer.errors import UsageError
from edgeinfer.uplink.publication import Connected, Lost, Received, Unheard
from edgeinfer.uplink.subscriber import open_subscriber
from edgeinfer.uplink.topics import checked_prefix

_TURN_S = 0.1
_CONNECTS_WITHIN_S = 10.0
_GOODBYE_S = 1.0
_WORDS_MAX = 12


@dataclass(frozen=True, slots=True)
class NodeModel:
    """What a node says of a slot, as pairs of name and value in its own words."""

    node: str
    slot: str
    words: tuple[tuple[str, str], ...]


def models_of_nodes(config: UplinkConfig, *, seconds: float = 1.0) -> tuple[NodeModel, ...]:
    """By node and slot: all that is retained comes at once, so a moment is enough. Raises UsageError."""
    link = open_subscriber(config)
    found: dict[str, NodeModel] = {}
    until_s, is_up = monotonic() + _CONNECTS_WITHIN_S, False
    try:
        while monotonic() < until_s:
            for event in link.turn(_TURN_S):
                if isinstance(event, Connected):
                    link.subscribe((f"{checked_prefix(config.prefix)}/+/model/+",))
                    until_s, is_up = monotonic() + seconds, True
                elif isinstance(event, Received):
                    said = _read(event, config.prefix)
                    if said is not None:
                        found[event.topic] = said
                elif isinstance(event, Lost):
                    raise UsageError(event.reason)
                elif isinstance(event, Unheard):
                    raise UsageError(f"the broker refuses a subscription to {event.topic}", hint="ask for other rights")
    finally:
        link.close(_GOODBYE_S)
    if not is_up:
        raise UsageError(f"{config.url} does not answer")
    return tuple(sorted(found.values(), key=lambda each: (each.node, each.slot)))


def _read(received: Received, prefix: str) -> NodeModel | None:
    """None for what cannot be understood."""
    try:
        said = msgspec.json.decode(received.payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    levels = received.topic.removeprefix(f"{prefix}/").split("/")
    if not isinstance(said, dict) or len(levels) != 3:
        return None
    plain = [(str(name), str(value)) for name, value in said.items() if isinstance(value, (str, int, float))]
    return NodeModel(unquote(levels[0]), unquote(levels[2]), tuple(plain[:_WORDS_MAX]))
