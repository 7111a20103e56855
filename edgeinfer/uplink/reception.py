"""What a subscriber makes of what it receives: each message once, acknowledged when it was dealt with. No I/O."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta as Rule

from edgeinfer.uplink.bodies import Ack
from edgeinfer.uplink.ledger import Ledger
from edgeinfer.uplink.message import Gap
from edgeinfer.uplink.messages import BadMessage, Numbered, read_envelope, read_id, read_numbered, write_ack
from edgeinfer.uplink.publication import Publication, Received
from edgeinfer.uplink.topics import PREFIX, Place, Topics, place_of

log = logging.getLogger(__name__)

EPOCHS_MAX = 4
NODES_MAX = 10_000
ACK_AFTER_NS = 500_000_000
ACK_AFTER_MESSAGES = 100

_OF_A_SPOOL = ("results", "events", "gaps")


@dataclass(frozen=True, slots=True)
class Missing:
    """The node holds these for done, and they never came here: another consumer has them, or the broker lost them."""

    node: str
    epoch: str
    first: int
    last: int


@dataclass(slots=True)
class _Node:
    """Its ledgers by epoch, the one begun last at the end; those to be acknowledged."""

    ledgers: OrderedDict[str, Ledger] = field(default_factory=OrderedDict)
    owed: set[str] = field(default_factory=set)


class Reception:
    """The de-duplicating, acknowledging subscriber, for the nodes under `prefix`.

    `feed` gives what is new; `handled` notes that it was dealt with, and only then is it acknowledged: as one number
    for all up to it, never beyond a hole, a hundred messages or half a second at a time. Of a node the last four epochs
    are known, so that what a broker held back of an old spool is recognised, too.
    """

    def __init__(self, prefix: str = PREFIX, *, acknowledges: bool = True) -> None:
        self._prefix = prefix
        self._acknowledges = acknowledges
        self._nodes: dict[str, _Node] = {}
        self._unacknowledged = 0
        self._due_ns: int | None = None
        self._complained: set[str] = set()
        self.duplicates = 0
        self.unreadable = 0

    def feed(self, received: Received, now_ns: int) -> Sequence[Numbered | Missing | Publication]:
        """What follows from a message that came, in order. The caller publishes the last kind; the first kind it deals
        with, and then says `handled`."""
        place = place_of(received.topic, self._prefix)
        if place is None:
            return ()
        if place.kind == "status":
            return self._meet(place.node)
        if place.kind not in _OF_A_SPOOL:
            return ()
        try:
            return self._take(received, place, now_ns)
        except BadMessage as bad:
            self._complain(received.topic, bad)
            return ()

    def handled(self, numbered: Numbered, now_ns: int) -> None:
        """Whoever deals with messages has dealt with this one."""
        ledger = self._nodes[numbered.node].ledgers[numbered.epoch]
        ledger.add(*_span(numbered))
        self._owe(numbered.node, numbered.epoch, now_ns)

    def wait_s(self, now_ns: int) -> float | None:
        """In how long `is_due`; None while nothing is to be acknowledged."""
        return None if self._due_ns is None else max(0, self._due_ns - now_ns) / 1e9

    def is_due(self, now_ns: int) -> bool:
        """Whether it is time for `acknowledge`."""
        return self._due_ns is not None and (now_ns >= self._due_ns or self._unacknowledged >= ACK_AFTER_MESSAGES)

    def acknowledge(self) -> Sequence[Publication]:
        """What to publish for all that was dealt with so far. Save `state` before that, where it is saved."""
        self._unacknowledged, self._due_ns = 0, None
        publications = []
        for name, node in self._nodes.items():
            for epoch in sorted(node.owed & node.ledgers.keys()):
                if node.ledgers[epoch].upto > 0:
                    publications.append(self._ack(name, Ack(epoch, node.ledgers[epoch].upto)))
            node.owed.clear()
        return publications if self._acknowledges else ()

    def connected(self) -> Sequence[Publication]:
        """What to publish when a connection begins: to each known node, from where to go on."""
        if not self._acknowledges:
            return ()
        return [self._resume(name, node) for name, node in self._nodes.items()]

    def state(self) -> bytes:
        """All that `restore` needs, as JSON."""
        nodes = {
            name: [_SavedEpoch(epoch, ledger.upto, tuple(ledger.ahead)) for epoch, ledger in node.ledgers.items()]
            for name, node in self._nodes.items()
        }
        return msgspec.json.encode(_Saved(nodes=nodes))

    def restore(self, state: bytes) -> None:
        """Go on from what `state` gave. Raises BadMessage."""
        try:
            saved = msgspec.json.decode(state, type=_Saved)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as refused:
            raise BadMessage(f"not the state of a consumer: {refused}") from refused
        for name, epochs in saved.nodes.items():
            ledgers = OrderedDict((each.epoch, Ledger(each.upto, each.ahead)) for each in epochs[-EPOCHS_MAX:])
            self._nodes[name] = _Node(ledgers)

    def _meet(self, name: str) -> Sequence[Publication]:
        """A node that is seen for the first time is asked for all it has."""
        if name in self._nodes or not self._has_room_for(name):
            return ()
        node = self._nodes[name] = _Node()
        return (self._resume(name, node),) if self._acknowledges else ()

    def _has_room_for(self, name: str) -> bool:
        if len(self._nodes) < NODES_MAX:
            return True
        self._complain(name, BadMessage(f"more than {NODES_MAX} nodes"))
        return False

    def _take(self, received: Received, place: Place, now_ns: int) -> Sequence[Numbered | Missing | Publication]:
        """Raises BadMessage."""
        envelope = read_envelope(received.payload)
        epoch, seq = read_id(envelope)
        asked = self._meet(place.node)
        if place.node not in self._nodes:
            return ()
        ledger, missing = self._ledger(place.node, epoch, min(int(envelope.done), seq - 1))
        try:
            numbered = read_numbered(envelope, place.node, place.name)
        except BadMessage as bad:
            # It will never be readable: whoever waited for it would wait for ever.
            self._complain(received.topic, bad)
            ledger.add(seq, seq)
            self._owe(place.node, epoch, now_ns)
            return (*asked, *missing)
        if ledger.has(*_span(numbered)):
            self.duplicates += 1
            # It came again, so the acknowledgement may be lost.
            self._owe(place.node, epoch, now_ns)
            return (*asked, *missing)
        if seq > ledger.upto + 1 and not ledger.has_room:
            return (*asked, *missing)  # The node sends it again, once the hole before it is filled.
        return (*asked, *missing, numbered)

    def _ledger(self, name: str, epoch: str, done: int) -> tuple[Ledger, Sequence[Missing]]:
        """The ledger of an epoch, and what will not come any more. Of an unknown one nothing was missed: what was done
        before this consumer came is none of its business."""
        ledgers = self._nodes[name].ledgers
        known = ledgers.get(epoch)
        if known is not None:
            return known, [Missing(name, epoch, span.first, span.last) for span in known.settle(done)]
        ledgers[epoch] = Ledger(done)
        if len(ledgers) > EPOCHS_MAX:
            ledgers.popitem(last=False)
        return ledgers[epoch], ()

    def _owe(self, name: str, epoch: str, now_ns: int) -> None:
        self._nodes[name].owed.add(epoch)
        self._unacknowledged += 1
        if self._due_ns is None:
            self._due_ns = now_ns + ACK_AFTER_NS

    def _resume(self, name: str, node: _Node) -> Publication:
        if not node.ledgers:
            return self._ack(name, Ack("", 0, resume=True))
        epoch, ledger = next(reversed(node.ledgers.items()))
        return self._ack(name, Ack(epoch, ledger.upto, resume=True))

    def _ack(self, name: str, ack: Ack) -> Publication:
        return Publication(Topics(name, self._prefix).ack, write_ack(ack), content_type="application/json")

    def _complain(self, topic: str, bad: BadMessage) -> None:
        """Once for each topic: a node that writes rubbish writes much of it."""
        self.unreadable += 1
        if topic not in self._complained and len(self._complained) < NODES_MAX:
            self._complained.add(topic)
            log.warning("%s: a message is left out: %s", topic, bad)


def _span(numbered: Numbered) -> tuple[int, int]:
    """The numbers that it stands for. A gap may bear the number of a message that was here before it was dropped."""
    return (numbered.data.first if isinstance(numbered.data, Gap) else numbered.seq), numbered.seq


_Seq = Annotated[int, Rule(ge=0)]


class _SavedEpoch(msgspec.Struct, frozen=True, array_like=True):
    epoch: Annotated[str, Rule(pattern=r"^[0-9a-f]{16}\Z")]
    upto: _Seq
    ahead: tuple[tuple[_Seq, _Seq], ...]


class _Saved(msgspec.Struct, frozen=True, tag_field="schema", tag="edgeinfer.consumer/1"):
    nodes: Mapping[str, list[_SavedEpoch]]
