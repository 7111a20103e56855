"""All that the page, `edgeinfer top`, `/healthz` and `/metrics` tell of a node, as it is now."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeinfer import __version__
from edgeinfer.board import Board, recognise_board, temperatures_c
from edgeinfer.clock import Clock, rfc3339
from edgeinfer.config import PipelineConfig, WebConfig
from edgeinfer.pipeline import Pipeline
from edgeinfer.result import Result
from edgeinfer.uplink.bodies import BoardInfo, SlotModel
from edgeinfer.uplink.commands import Controls
from edgeinfer.web.bodies import MachineState, PipelineState, Seen, State, Trouble, UplinkState
from edgeinfer.web.health import Health, Pulse, Vital, health_of
from edgeinfer.web.history import Second
from edgeinfer.web.journal import EventJournal, LogTail
from edgeinfer.web.observer import Observer

if TYPE_CHECKING:
    # With it come the MQTT client and the database, of which a node that sends nothing loads neither.
    from edgeinfer.uplink.uplink import Uplink

_SEEN_MAX = 8
# Each of these says that a frame was taken up.
_TAKEN_UP = ("inferred", "gated", "dropped.max_age", "dropped.device", "dropped.paused")


class Told(Controls, Protocol):
    """The node that is told of, and commanded."""

    name: str

    @property
    def pipelines(self) -> Sequence[Pipeline]: ...

    @property
    def troubles(self) -> Mapping[str, str]: ...

    @property
    def uplink(self) -> Uplink | None: ...

    @property
    def care(self) -> str | None: ...

    @property
    def models(self) -> Sequence[SlotModel]: ...


class Watch:
    """Looks at a node. `sink_for` is asked by whoever opens its pipelines, all else after `begin`."""

    def __init__(self, config: WebConfig, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.events = EventJournal()
        self.log = LogTail(self.clock.unix_ns)
        self._fps = config.fps
        self._lock = threading.Lock()
        self._observers: dict[str, Observer] = {}
        self._pulses: dict[str, Pulse] = {}
        self._board = recognise_board()
        self._begun_ns = self.clock.monotonic_ns()
        self._node: Told | None = None
        self._usage = _Usage()

    def sink_for(self, config: PipelineConfig) -> Observer:
        """The observer of that pipeline: the same one, where a pipeline of that name begins anew."""
        with self._lock:
            self._pulses[config.name] = Pulse(config.rate)
            if config.name not in self._observers:
                self._observers[config.name] = Observer(
                    config.name, fps=self._fps, on_event=self.events.add, clock=self.clock
                )
            return self._observers[config.name]

    def begin(self, node: Told) -> None:
        self._node = node

    @property
    def node(self) -> Told:
        assert self._node is not None, "a node is told of once it is there"
        return self._node

    @property
    def board(self) -> Board:
        return self._board

    def observer(self, name: str) -> Observer | None:
        """Of a pipeline that there is now."""
        return self._observers.get(name) if any(each.name == name for each in self.node.pipelines) else None

    def look(self) -> None:
        """About once a second: who hangs, and what the process uses."""
        now_s = self.clock.monotonic_ns() / 1e9
        self._usage.look(now_s)
        for pipeline in self.node.pipelines:
            counts, state = pipeline.tally.snapshot(), pipeline.state
            self._pulses[pipeline.name].look(
                captured=counts.get("captured", 0),
                taken_up=sum(counts.get(name, 0) for name in _TAKEN_UP),
                may_rest=state in ("paused", "stopped") or "source lost" in state,
                now_s=now_s,
            )

    def health(self) -> Health:
        uplink = self.node.uplink
        vitals = [self._vital(each) for each in self.node.pipelines]
        vitals += [_vital_of_trouble(*each) for each in self.node.troubles.items()]
        return health_of(vitals, None if uplink is None else uplink.state)

    def state(self, *, may_act: bool = False, may_sign_in: bool = False) -> State:
        """may_act, may_sign_in: whoever asks."""
        now_ns = self.clock.monotonic_ns()
        return State(
            node=self.node.name,
            version=__version__,
            at=rfc3339(self.clock.unix_ns()),
            uptime_s=round((now_ns - self._begun_ns) / 1e9, 1),
            may_act=may_act,
            may_sign_in=may_sign_in,
            health=self.health(),
            board=_board_info(self._board),
            machine=self.machine(),
            pipelines=tuple(self.pipeline(each) for each in self.node.pipelines),
            uplink=self.uplink(),
            models=tuple(self.node.models),
            last_event=self.events.last,
            last_line=self.log.last,
            troubles=tuple(Trouble(*each) for each in self.node.troubles.items()),
            care=self.node.care,
        )

    def history(self, after: int) -> Mapping[str, Sequence[Second]]:
        """By pipeline, the seconds after that one."""
        return {
            each.name: observer.history.after(after)
            for each in self.node.pipelines
            if (observer := self.observer(each.name)) is not None
        }

    def pipeline(self, pipeline: Pipeline) -> PipelineState:
        observer, facts, report = self._observers[pipeline.name], pipeline.facts, pipeline.report()
        last, latest = observer.history.last(), pipeline.latest
        since_ns = None if latest is None else self.clock.monotonic_ns() - latest.monotonic_ns
        return PipelineState(
            name=pipeline.name,
            state=pipeline.state,
            error=None if report.error is None else str(report.error),
            source=facts.source,
            task=facts.bundle.task,
            device=facts.device,
            ladder=pipeline.ladder,
            model=facts.model,
            score_min=facts.bundle.decode.score_min,
            fps=round(observer.history.fps(), 1),
            age_ms=None if last is None else last.age_ms,
            infer_ms=None if last is None else last.infer_ms,
            since_last_s=None if since_ns is None else round(since_ns / 1e9, 2),
            seen=tuple(_seen(latest)),
            counts=report.counts,
            viewers=observer.screen.viewers,
        )

    def uplink(self) -> UplinkState | None:
        uplink = self.node.uplink
        if uplink is None:
            return None
        counters = uplink.counters()
        oldest_ns = counters.oldest_unix_ns
        return UplinkState(
            state=uplink.state,
            is_connected=counters.protocol is not None,
            accepted=counters.accepted,
            delivered=counters.delivered,
            depth=counters.depth,
            bytes=counters.bytes,
            oldest_s=0.0 if oldest_ns is None else round(max(0, self.clock.unix_ns() - oldest_ns) / 1e9, 1),
            dropped=counters.dropped,
            reconnects=counters.reconnects,
        )

    def machine(self) -> MachineState:
        return MachineState(
            cpu_percent=self._usage.cpu_percent,
            memory_bytes=_memory_bytes(),
            memory_available_bytes=_memory_available_bytes(),
            load=round(os.getloadavg()[0], 2),
            temperatures_c=temperatures_c(self._board),
        )

    def _vital(self, pipeline: Pipeline) -> Vital:
        error = pipeline.report().error
        return Vital(
            name=pipeline.name,
            state=pipeline.state,
            error=None if error is None else str(error),
            has_begun=pipeline.latest is not None,
            stalled_s=self._pulses[pipeline.name].stalled_s,
        )


def _vital_of_trouble(name: str, reason: str) -> Vital:
    return Vital(name=name, state="failed", error=reason, has_begun=False, stalled_s=0.0)


class _Usage:
    """How much of a core this process takes, smoothed over some seconds."""

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._used_s = 0.0
        self.cpu_percent = 0.0

    def look(self, now_s: float) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        used_s = used.ru_utime + used.ru_stime
        if self._at_s is not None and now_s > self._at_s:
            percent = 100 * (used_s - self._used_s) / (now_s - self._at_s)
            self.cpu_percent = round(0.7 * self.cpu_percent + 0.3 * percent if self.cpu_percent else percent, 1)
        self._at_s, self._used_s = now_s, used_s


def _seen(result: Result | None) -> Iterable[Seen]:
    if result is None:
        return []
    if result.classes is not None:
        return [Seen(found.label, score=round(found.score, 2)) for found in result.classes[:3]]
    if result.keypoints is not None:
        return [Seen("body", count=1)] if result.keypoints else []
    counts: dict[str, int] = {}
    for label in [*(each.label for each in result.detections or ()), *(each.label for each in result.segments or ())]:
        counts[label] = counts.get(label, 0) + 1
    most = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return [Seen(label, count=count) for label, count in most[:_SEEN_MAX]]


def _board_info(board: Board) -> BoardInfo:
    return BoardInfo(
        model=board.model,
        profile=board.profile.name,
        architecture=board.architecture,
        cpu=board.cpu,
        cores=board.cores,
        memory_bytes=board.memory_bytes,
    )


def _memory_bytes() -> int:
    """Resident, of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _memory_available_bytes() -> int | None:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
