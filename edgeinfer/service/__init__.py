"""A node that runs for years: ready when it is, watched, reloaded, and ended by signals."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from edgeinfer.clock import Clock
from edgeinfer.errors import EdgeInferError
from edgeinfer.node import Node
from edgeinfer.pipeline import Pipeline
from edgeinfer.service.memory import give_back, unmap_code
from edgeinfer.service.notify import Notifier
from edgeinfer.service.restarts import Restarts
from edgeinfer.service.status import Status
from edgeinfer.service.watch import Watch

log = logging.getLogger(__name__)

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

_LOOK_S = 1.0
_STATUS_S = 5.0
_STEADY_S = 600.0
_GIVE_BACK_S = 10.0
_UNMAP_S = 600.0
# For a first result; whoever has none by then is ready, too, and says so.
_FIRST_RESULT_S = 20.0
# Opening models and devices anew happens in the loop, and may take that long.
_TURN_MAX_S = 300.0
# A hang is said after this part of the watchdog's time, which leaves the rest to begin anew.
_PATIENCE = 0.6
_SIGNS_PER_PERIOD = 4
_PATIENCE_UNWATCHED_S = 30.0
_SPARE_START_S = 60.0

Wait = Callable[[float], "int | None"]
"""Sleeps that many seconds at most; the signal that came, None for none."""


def wait_for_signal(seconds: float) -> int | None:
    """Signals have to be blocked; see `SIGNALS`."""
    came = signal.sigtimedwait(SIGNALS, seconds)
    return None if came is None else came.si_signo


class Service:
    """Runs a node until it is told to stop, or all its pipelines have come to their ends.

    `open_node` may raise what Node does. SIGHUP reads the configuration again: a bad one is refused and the old one
    runs on. What cannot be opened is tried again for as long as it takes.
    """

    def __init__(
        self,
        open_node: Callable[[], Node],
        notifier: Notifier,
        *,
        restarts: Restarts | None = None,
        wait: Wait = wait_for_signal,
        clock: Clock | None = None,
    ) -> None:
        self._open_node = open_node
        self._notifier = notifier
        self._restarts = restarts or Restarts(None)
        self._wait = wait
        self._clock = clock or Clock()
        self._status = Status(self._clock)
        self._is_ready = False
        self._status_due_s = 0.0
        self._give_back_due_s = 0.0
        self._unmap_due_s = 0.0
        self._begun_s = self._now_s()

    def run(self) -> None:
        """Raises what `open_node` does."""
        if self._waits_before_start():
            return
        self._notifier.tell(status="opening models and sources")
        with ExitStack() as opened:
            node = self._open_node()
            opened.callback(node.close)
            self._begun_s = self._now_s()
            node.start()
            for pipeline in node.pipelines:
                if not pipeline.outputs:
                    log.info("pipeline %s has no output: what it finds goes nowhere", pipeline.name)
            heart = Heart(node, self._notifier, self._clock)
            opened.callback(heart.close)
            heart.start()
            while self._look(node, heart):
                pass
            self._notifier.tell("STOPPING=1", status="stopping")
            self._end(node)
        self._restarts.end()

    def _waits_before_start(self) -> bool:
        """After too many ends in a row, wait; whether a signal ended that."""
        delay_s = self._restarts.begin()
        if not delay_s:
            return False
        log.error("ended too often: waiting %.0f s before the next start", delay_s)
        self._notifier.tell(
            f"EXTEND_TIMEOUT_USEC={round((delay_s + _SPARE_START_S) * 1e6)}",
            status=f"ended too often: waits {delay_s:.0f} s before it begins anew",
        )
        end_s = self._now_s() + delay_s
        while (left_s := end_s - self._now_s()) > 0:
            if self._wait(left_s) in (signal.SIGTERM, signal.SIGINT):
                return True
        return False

    def _look(self, node: Node, heart: Heart) -> bool:
        """What is done once a second; whether to go on."""
        came = self._wait(_LOOK_S)
        heart.turn()
        if came == signal.SIGHUP:
            self._reload(node)
        elif came is not None:
            return False
        for pipeline in node.apply_reload():
            log.info("pipeline %s ended for the new configuration", pipeline.name)
        node.mend()
        self._say(node)
        self._keep_small()
        if self._now_s() - self._begun_s >= _STEADY_S:
            self._restarts.steady()
        is_over = not node.troubles and all(each.wait(0) for each in node.pipelines)
        if is_over:
            log.info("all pipelines have come to their ends")
        return not is_over

    def _say(self, node: Node) -> None:
        now_s = self._now_s()
        if not self._is_ready:
            if now_s - self._begun_s < _FIRST_RESULT_S and not all(map(_is_settled, node.pipelines)):
                return
            self._is_ready = True
            line = self._status.line(node)
            self._notifier.tell("READY=1", status=line)
            log.info("ready: %s", line)
            self._status_due_s = now_s + _STATUS_S
        elif now_s >= self._status_due_s:
            self._status_due_s = now_s + _STATUS_S
            self._notifier.tell(status=self._status.line(node))

    def _keep_small(self) -> None:
        now_s = self._now_s()
        if now_s >= self._give_back_due_s:
            self._give_back_due_s = now_s + _GIVE_BACK_S
            give_back()
        if self._is_ready and now_s >= self._unmap_due_s:
            self._unmap_due_s = now_s + _UNMAP_S
            unmap_code()

    def _reload(self, node: Node) -> None:
        self._notifier.tell(
            "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", status="reading the configuration again"
        )
        try:
            node.reload()
        except EdgeInferError as refused:
            log.error("the new configuration is refused, the old one runs on: %s", refused)
            self._notifier.tell("READY=1", status=f"new configuration refused: {refused}")
            # To be seen for longer than the next line of the status.
            self._status_due_s = self._now_s() + 12 * _STATUS_S
            return
        for pipeline in node.apply_reload():
            log.info("pipeline %s ended for the new configuration", pipeline.name)
        self._notifier.tell("READY=1", status=self._status.line(node))

    def _end(self, node: Node) -> None:
        node.end()
        for pipeline in node.pipelines:
            report = pipeline.report()
            done = f"{report.frames} {pipeline.counted_in}"
            log.info("pipeline %s: %s, %d results", pipeline.name, done, report.results)
        node.close_uplink()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9


class Heart:
    """A thread that gives systemd signs of life, for as long as there is work done or nothing to do; see Watch.

    When something hangs it asks at once to be ended and begun anew. `turn` says that the service's own loop goes on.
    """

    def __init__(self, node: Node, notifier: Notifier, clock: Clock) -> None:
        self._node = node
        self._notifier = notifier
        self._clock = clock
        watchdog_s = notifier.watchdog_s
        patience_s = _PATIENCE_UNWATCHED_S if watchdog_s is None else watchdog_s * _PATIENCE
        self._every_s = _LOOK_S if watchdog_s is None else min(_LOOK_S, watchdog_s / _SIGNS_PER_PERIOD)
        self._watch = Watch(patience_s, clock)
        self._turned_ns = clock.monotonic_ns()
        self._hangs: str | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def turn(self) -> None:
        self._turned_ns = self._clock.monotonic_ns()

    def beat(self) -> None:
        """Look, and say it."""
        hangs = self._watch.hangs(self._node.pipelines)
        turn_s = (self._clock.monotonic_ns() - self._turned_ns) / 1e9
        if hangs is None and turn_s > _TURN_MAX_S:
            hangs = f"the service's loop hangs for {turn_s:.0f} s"
        if hangs is None:
            self._notifier.tell("WATCHDOG=1")
        elif self._hangs is None:
            log.critical("%s; asking to be started anew", hangs)
            self._notifier.tell("WATCHDOG=trigger", status=hangs)
        self._hangs = hangs

    def close(self) -> None:
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closed.wait(self._every_s):
                self.beat()
        except Exception:
            # No sign of life is given any more, so that systemd starts us anew.
            log.exception("the watchdog's thread failed")


def _is_settled(pipeline: Pipeline) -> bool:
    """Whether it has given a result, or says why there is none."""
    return pipeline.tally["published"] > 0 or pipeline.state != "ok" or bool(pipeline.report().dropped)
