"""What a node tells over its uplink beside results: what it is, how it is, and its numbers."""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from edgeinfer import __version__
from edgeinfer.board import recognise_board
from edgeinfer.clock import Clock, ClockWatch, unix_ns_of
from edgeinfer.config import PipelineConfig, UplinkConfig
from edgeinfer.errors import ConfigError, EdgeInferError
from edgeinfer.event import Happening
from edgeinfer.metrics import Tally
from edgeinfer.node.portrait import Portrait
from edgeinfer.paths import state_folder
from edgeinfer.pipeline import Pipeline
from edgeinfer.updates.store import Entry
from edgeinfer.uplink.assemble import open_uplink
from edgeinfer.uplink.bodies import Meta, SlotModel
from edgeinfer.uplink.commands import Commands, Controls
from edgeinfer.uplink.home_assistant import HomeAssistant
from edgeinfer.uplink.message import Message
from edgeinfer.uplink.messages import Composer
from edgeinfer.uplink.publication import Publication, Received
from edgeinfer.uplink.sink import UplinkSink
from edgeinfer.uplink.topics import Topics, level

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_METRICS_EVERY = 10
# So long the broker has to give back what it keeps of an earlier run, before that is replaced.
_PREVIOUS_NS = 3_000_000_000
_SESSION_BITS = 53  # JSON's numbers hold as many.


class Told(Controls, Protocol):
    """The node that is told of."""

    @property
    def pipelines(self) -> Sequence[Pipeline]: ...

    @property
    def troubles(self) -> Mapping[str, str]: ...

    @property
    def models(self) -> Sequence[SlotModel]: ...


class Broadcast:
    """The uplink of a node, the sinks that feed it, and a thread that looks once a second for what there is to tell.

    Raises ConfigError for what `[uplink]` says, `url_error` for its URL.
    """

    def __init__(
        self,
        config: UplinkConfig,
        name: str,
        node: Told,
        *,
        clock: Clock,
        url_error: type[EdgeInferError] = ConfigError,
    ) -> None:
        self.tally = Tally()
        self._config = config
        self._node_name = name
        self._node = node
        self._clock = clock
        self._topics = Topics(name, config.prefix)
        self._sinks: dict[str, UplinkSink] = {}
        self._commands = Commands(self._topics, node, config.commands, clock=clock)
        self._discovery: _Discovery | None = None
        if config.home_assistant:
            self._discovery = _Discovery(HomeAssistant(self._topics, config.discovery_prefix))
        self._portrait = Portrait(__version__, recognise_board(), config, clock)
        # Of its own, for what it numbers is not in the spool; at random, so that no two runs give the same ids.
        self._composer = Composer(self._topics, "", lambda: 0, session=secrets.randbits(_SESSION_BITS), clock=clock)
        self.uplink = open_uplink(
            config,
            self._topics,
            state_folder() / "uplink" / level(name),
            filters=(*self._commands.filters, *(() if self._discovery is None else self._discovery.filters)),
            on_command=self._hear,
            url_error=url_error,
            clock=clock,
            tally=self.tally,
        )
        self._meta: Meta | None = None
        self._models: dict[str, SlotModel] = {}
        self._watch = ClockWatch(clock)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broadcast", daemon=True)

    def sink_for(self, config: PipelineConfig) -> UplinkSink:
        """What takes the results of that pipeline to the uplink."""
        self._portrait.know(config)
        sink = self._sinks[config.name] = UplinkSink(
            self.uplink,
            self._topics,
            config.name,
            uri=self._config.url,
            send=config.send,
            send_rate=config.send_rate,
            snapshot_s=config.snapshot,
            may_be_asked="snapshot" in self._config.commands,
            clock=self._clock,
        )
        return sink

    def ask_for_snapshots(self, pipelines: Sequence[str]) -> None:
        for name in pipelines:
            self._sinks[name].ask_for_snapshot()

    def start(self) -> None:
        self.uplink.start()
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Accept what there is, send what can be sent within that time."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.uplink.close(timeout_s)

    def look(self, number: int) -> None:
        """What is done once a second; `number` counts."""
        for sink in tuple(self._sinks.values()):
            sink.look()
        pipelines = self._node.pipelines
        self.uplink.set_condition(_condition(pipelines, self._node.troubles))
        self._tell_identity(pipelines)
        self._tell_models()
        if number % _METRICS_EVERY == 1:
            self.uplink.tell(self._composer.metrics(self._portrait.metrics(pipelines, self.uplink.counters())))

    def tell_step(self, slot: str, entry: Entry, pipelines: Sequence[str]) -> None:
        """Something was done with the model of a slot: an event of each pipeline that names it. By any thread."""
        for name in pipelines:
            event = Happening(
                node=self._node_name,
                pipeline=name,
                occurred_at=entry.at,
                kind="model",
                label=slot,
                step=entry.what,
                release=entry.release,
                who=entry.who,
                reason=entry.why,
            )
            data = msgspec.json.encode(event)
            self.uplink.accept(Message("event", name, unix_ns_of(entry.at), self._watch.state(), data))

    def _tell_models(self) -> None:
        for each in self._node.models:
            if self._models.get(each.slot) != each:
                self._models[each.slot] = each
                self.uplink.tell(self._composer.model(each))

    def _run(self) -> None:
        number = 0
        try:
            while not self._closed.wait(_LOOK_S):
                number += 1
                self.look(number)
        except Exception:
            log.exception("the node's metrics are given up; results are still sent")

    def _tell_identity(self, pipelines: Sequence[Pipeline]) -> None:
        """Where something of it has changed."""
        meta = self._portrait.meta(pipelines)
        if meta != self._meta:
            self._meta = meta
            self.uplink.tell(self._composer.meta(meta))
        if self._discovery is not None and self._discovery.is_due(meta, self._clock.monotonic_ns()):
            self.uplink.tell(self._discovery.announcement(meta))

    def _hear(self, received: Received) -> Publication | None:
        """By the uplink's thread."""
        if self._discovery is not None and self._discovery.hear(received, self._clock.monotonic_ns()):
            return None
        return self._commands.handle(received)


class _Discovery:
    """When Home Assistant is told of the node: at first, when there is something new, and when it was started."""

    def __init__(self, home: HomeAssistant) -> None:
        self._home = home
        self._previous = b""
        self._announced: tuple[Meta, bytes] | None = None
        self._first_ns: int | None = None
        self._again_ns: int | None = None

    @property
    def filters(self) -> tuple[str, ...]:
        return self._home.filters

    def hear(self, received: Received, now_ns: int) -> bool:
        """Whether that was for us."""
        if received.topic == self._home.topic:
            if received.retain:
                self._previous = received.payload
            return True
        delay_s = self._home.birth_delay_s(received, random.random)
        if delay_s is not None:
            self._again_ns = now_ns + round(delay_s * 1e9)
        return received.topic == self._home.birth_topic

    def is_due(self, meta: Meta, now_ns: int) -> bool:
        if self._first_ns is None:
            self._first_ns = now_ns + _PREVIOUS_NS
        if now_ns < self._first_ns:
            return False
        if self._again_ns is not None and now_ns >= self._again_ns:
            self._again_ns = None
            return True
        return self._announced != (meta, self._previous)

    def announcement(self, meta: Meta) -> Publication:
        self._announced = (meta, self._previous)
        return self._home.announcement(meta, self._previous)


def _condition(pipelines: Sequence[Pipeline], troubles: Mapping[str, str]) -> str | None:
    """What is wrong with a pipeline; None where all is well. One that has come to its end is no trouble."""
    states = [(pipeline.name, pipeline.state) for pipeline in pipelines]
    wrong = [(name, state) for name, state in states if state.startswith(("degraded", "down"))]
    wrong += [(name, f"does not run: {reason}") for name, reason in troubles.items()]
    return "; ".join(f"{name} {state}" for name, state in wrong) or None
