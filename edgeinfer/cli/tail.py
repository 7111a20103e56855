"""`edgeinfer tail`: what a fleet sends to a broker, a line for each result as it comes."""

from __future__ import annotations

import argparse
import logging
import sys
from time import monotonic_ns

import msgspec

from edgeinfer.cli.arguments import add_mqtt_arguments, stated_mqtt_flags, whole
from edgeinfer.cli.terminal import configure_logging, plain, show, summary
from edgeinfer.errors import OutputError, UsageError
from edgeinfer.event import Happening
from edgeinfer.result import Result
from edgeinfer.uplink.bodies import SlotModel, Status
from edgeinfer.uplink.messages import (
    BadMessage,
    Numbered,
    read_envelope,
    read_meta,
    read_metrics,
    read_model,
    read_status,
)
from edgeinfer.uplink.publication import Connected, Link, Lost, Received, Unheard
from edgeinfer.uplink.reception import Reception
from edgeinfer.uplink.subscriber import open_subscriber, subscriber_config
from edgeinfer.uplink.topics import Kind, Place, filters, place_of

log = logging.getLogger(__name__)

_TURN_S = 1.0
_GOODBYE_S = 1.0
_KINDS: dict[str, tuple[Kind, ...]] = {
    "results": ("results", "gaps"),
    "events": ("events", "gaps"),
    "status": ("status", "model"),
    "all": ("results", "events", "gaps", "status", "model", "meta", "metrics"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="mqtt://host[:1883]/ or mqtts://host[:8883]/, with a user name before the host")
    add("--node", metavar="N", help="of this node only")
    add("--pipeline", metavar="P", help="of this pipeline only")
    add("--results", action="store_true", help="results (this is what there is without a word)")
    add("--events", action="store_true", help="events: what appeared, went, or changed in number or class")
    add("--status", action="store_true", help="whether nodes are online, and which models they run")
    add("--all", action="store_true", help="all of these, what the nodes are, and their metrics")
    add("--json", action="store_true", help="print the messages themselves, one JSON object a line")
    add("--count", metavar="N", type=whole, help="stop after so many lines")
    add_mqtt_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=True, debug=arguments.debug)
    if arguments.count is not None and arguments.count < 1:
        raise UsageError("--count must be at least 1")
    config = subscriber_config(arguments.url, **stated_mqtt_flags(arguments))
    wanted = [word for word in _KINDS if getattr(arguments, word)] or ["results"]
    kinds = tuple(dict.fromkeys(kind for word in wanted for kind in _KINDS[word]))
    tail = _Tail(
        filters(kinds, node=arguments.node, name=arguments.pipeline, prefix=config.prefix),
        config.prefix,
        as_json=arguments.json,
        count=arguments.count,
    )
    link = open_subscriber(config)
    try:
        tail.follow(link)
    finally:
        link.close(_GOODBYE_S)
    return 0


class _Tail:
    """Prints what comes, each message once; says on stderr when the broker is lost and when it is back."""

    def __init__(self, topics: tuple[str, ...], prefix: str, *, as_json: bool, count: int | None) -> None:
        self._topics = topics
        self._prefix = prefix
        self._as_json = as_json
        self._left = count
        self._reception = Reception(prefix, acknowledges=False)
        self._is_lost = False

    def follow(self, link: Link) -> None:
        """Until enough was printed."""
        while self._left != 0:
            for event in link.turn(_TURN_S):
                if isinstance(event, Received):
                    self._print(event)
                elif isinstance(event, Connected):
                    self._connected(link)
                elif isinstance(event, Lost):
                    self._lost(event)
                elif isinstance(event, Unheard):
                    raise UsageError(f"the broker refuses a subscription to {event.topic}", hint="ask for other rights")
                if self._left == 0:
                    return

    def _connected(self, link: Link) -> None:
        if self._is_lost:
            log.warning("connected again; what was sent meanwhile may be missing")
        self._is_lost = False
        link.subscribe(self._topics)

    def _lost(self, lost: Lost) -> None:
        if not self._is_lost:
            log.warning("%s; trying again until it works", lost.reason)
        self._is_lost = True

    def _print(self, received: Received) -> None:
        place = place_of(received.topic, self._prefix)
        if place is None:
            return
        try:
            line = self._of_node(received, place) or self._of_spool(received)
            if line is None:
                return
            _write(received.payload if self._as_json else line)
        except BadMessage as bad:
            log.warning("%s: %s", received.topic, bad)
            return
        if self._left is not None:
            self._left -= 1

    def _of_node(self, received: Received, place: Place) -> str | None:
        if place.kind == "status":
            time = read_envelope(received.payload).time
            return _line(time, place.node, "", _status_words(read_status(received.payload)))
        if place.kind == "meta":
            meta = read_meta(received.payload)
            words = (
                f"edgeinfer {meta.edgeinfer} on {meta.board.model}: {', '.join(each.name for each in meta.pipelines)}"
            )
            return _line(read_envelope(received.payload).time, place.node, "", words)
        if place.kind == "model":
            return _line(
                read_envelope(received.payload).time, place.node, "", _model_words(read_model(received.payload))
            )
        if place.kind == "metrics":
            metrics = read_metrics(received.payload)
            rates = ", ".join(f"{name} {each.fps:.1f} fps" for name, each in metrics.pipelines.items())
            words = f"{rates}; {metrics.uplink.spool_depth} waiting"
            return _line(read_envelope(received.payload).time, place.node, "", words)
        return None

    def _of_spool(self, received: Received) -> str | None:
        """A line for a message that was not here yet."""
        for each in self._reception.feed(received, monotonic_ns()):
            if isinstance(each, Numbered):
                self._reception.handled(each, monotonic_ns())
                again = " (replay)" if each.replay else ""
                return _line(each.time, each.node, each.pipeline, _words(each) + again)
        return None


def _line(time: str | None, node: str, pipeline: str, words: str) -> str:
    """A will bears no time."""
    shown = "-" if time is None else f"{time[:10]} {time[11:23]}"
    return f"{shown:<23}  {node}{f' {pipeline}' if pipeline else ''}  {words}"


def _words(numbered: Numbered) -> str:
    data = numbered.data
    if isinstance(data, Result):
        reused = " (reused)" if data.reused else ""
        return f"{summary(data)}{reused}  {data.device}  {data.timing_ms.age:.0f} ms old"
    if isinstance(data, Happening):
        return event_words(data)
    return f"messages {data.first} to {data.last} were dropped: {data.reason}"


def event_words(event: Happening) -> str:
    """What happened, in a few words."""
    if event.kind == "model":
        why = f": {event.reason}" if event.reason else ""
        return f"model {event.label} {event.step}, release {event.release}, by {event.who}{why}"
    if event.rule is not None:
        who = event.label if event.track is None else f"{event.label} #{event.track}"
        over = " over" if event.end is not None and event.end != event.start else ""
        return f"{event.rule}: {event.kind} {who}".rstrip() + over
    if event.kind == "class":
        return f"{event.label or 'nothing'}, was {event.previous or 'nothing'}"
    if event.kind == "count":
        return f"{event.label}: {event.count}, was {event.before}"
    return f"{event.count} {event.label} appeared" if event.kind == "appeared" else f"{event.label} gone"


def _model_words(model: SlotModel) -> str:
    candidate = "" if model.candidate is None else f", candidate {model.candidate}"
    why = f": {model.reason}" if model.reason else ""
    return f"slot {model.slot}: {model.state}, release {model.release}{candidate}{why}"


def _status_words(status: Status) -> str:
    since = f" since {status.since}" if status.since else ""
    return f"{status.state}{f': {status.reason}' if status.reason else ''}{since} (session {status.session})"


def _write(line: str | bytes) -> None:
    """Raises BadMessage, OutputError."""
    if isinstance(line, str):
        show(plain(line))
        return
    try:
        whole_line = msgspec.json.format(line, indent=-1)
    except msgspec.DecodeError as broken:
        raise BadMessage(f"not JSON: {broken}") from broken
    try:
        sys.stdout.buffer.write(whole_line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as failed:
        raise OutputError(f"cannot write to stdout: {failed.strerror}") from failed
