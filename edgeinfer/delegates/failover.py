"""One runtime out of several: computes on the best device that works, and outlives the death of any of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Protocol

import numpy as np

from edgeinfer.delegates.proof import nonsense
from edgeinfer.delegates.proven import Proven
from edgeinfer.delegates.standby import Standby
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.runtimes import Runtime
from edgeinfer.tensor import Array

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0
_STEADY_S = 60.0
_CHECK_EVERY_S = 10.0
_RUNS_PER_CHECK = 50
_CLOSE_S = 5.0

Count = Callable[[str], None]


class OpenRung(Protocol):
    def __call__(self, index: int, *, afresh: bool) -> Runtime:
        """Open a rung; `afresh`: after it has passed its proof once more. Raises DeviceNotFound."""
        ...


@dataclass(frozen=True, slots=True)
class _Loss:
    """Why a rung was lost, and when it is to be opened again."""

    reason: str
    due_s: float


class Failover:
    """See Runtime. The rungs are numbered from the best, 0; `runtime` is open on rung `index`.

    The outputs of a rung among `suspects` are looked through for NaN at every run, and where it is a Proven it runs
    the sample of its proof again, every ten seconds and at most a fiftieth of the time.

    When a run fails, gives NaN, or the sample has other outputs than at the proof, the same input is run on the next
    rung, so that no frame is lost: its result is late by the opening of that rung, and says its device. So that this
    is quick, `standby` proves the next rung while a suspect computes. The lost rung is opened again in the
    background, at doubling intervals up to a minute, and taken back between two frames once it passes its proof.
    The intervals grow on when it is lost again, until it has worked for a minute.

    `wait` sleeps that many seconds or until closed, and says whether it was closed; `now_s` is a monotonic clock; a
    test passes its own.
    """

    def __init__(
        self,
        devices: Sequence[str],
        index: int,
        runtime: Runtime,
        open_rung: OpenRung,
        *,
        suspects: frozenset[int] = frozenset(),
        standby: Standby | None = None,
        wait: Callable[[float], bool] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = tuple(devices)
        self._open_rung = open_rung
        self._suspects = suspects
        self._standby = standby
        self._closed = threading.Event()
        self._stirred = threading.Event()
        self._wait = wait or self._sleep
        self._now_s = now_s
        self._counters: tuple[Count, ...] = ()
        self._lock = threading.Lock()
        self._lost: dict[int, _Loss] = {}
        self._delays_s: dict[int, float] = {}
        self._returned: tuple[int, Runtime] | None = None
        self._closings: list[threading.Thread] = []
        self._rescuer: threading.Thread | None = None
        self._is_down = False
        self._check_due_s = inf
        self._take(index, runtime)
        self.inputs = runtime.inputs
        self.outputs = runtime.outputs

    @property
    def device(self) -> str:
        return self._runtime.device

    @property
    def state(self) -> str:
        """`ok`; `degraded: …` while a better device is lost; `down: …` while none works."""
        with self._lock:
            reasons = "; ".join(f"{self._devices[index]} {loss.reason}" for index, loss in sorted(self._lost.items()))
            if self._is_down:
                return f"down: {reasons}"
            return f"degraded: {reasons}" if self._lost else "ok"

    @property
    def ladder(self) -> Mapping[str, str]:
        """Each rung from the best: `in use`, `ready` where it was not needed yet, or `lost: …`."""
        with self._lock:
            lost = {self._devices[index]: f"lost: {loss.reason}" for index, loss in self._lost.items()}
        present = None if self._is_down else self._devices[self._index]
        return {device: "in use" if device == present else lost.get(device, "ready") for device in self._devices}

    def input(self, index: int = 0) -> Array:
        if index == 0:
            self._take_back()
        return self._runtime.input(index)

    def count_with(self, count: Count) -> None:
        """From now on tell `count`, too, of each `device.lost` and `device.back`."""
        self._counters = (*self._counters, count)

    def run(self) -> tuple[Array, ...]:
        if self._is_down:
            # The last device may answer again, but nothing says that it is right.
            raise RuntimeFailed(f"no device is left: {self.state}")
        try:
            self._recheck()
            outputs = self._runtime.run()
        except RuntimeFailed as failed:
            return self._run_elsewhere(str(failed))
        rubbish = nonsense(outputs, self._runtime.outputs) if self._index in self._suspects else None
        return outputs if rubbish is None else self._run_elsewhere(f"computes nonsense: {rubbish}")

    def close(self) -> None:
        self._closed.set()
        self._stirred.set()
        if self._standby is not None:
            self._standby.close()
        returned, rescuer = self._take_returned(), self._rescuer
        if returned is not None:
            returned[1].close()
        self._runtime.close()
        for thread in (*self._closings, *([rescuer] if rescuer is not None else [])):
            thread.join(_CLOSE_S)

    def _recheck(self) -> None:
        """Now and then, ask a device that may go wrong in silence for what is known. Raises RuntimeFailed."""
        begun_s = self._now_s()
        if begun_s < self._check_due_s or not isinstance(self._runtime, Proven):
            return
        difference = self._runtime.recheck()
        if difference is not None:
            raise RuntimeFailed(f"{self.device} computes something else than at its proof: {difference}")
        ended_s = self._now_s()
        self._check_due_s = ended_s + _check_every_s(ended_s - begun_s)

    def _run_elsewhere(self, reason: str) -> tuple[Array, ...]:
        saved = [np.array(self._runtime.input(index)) for index in range(len(self.inputs))]
        lost = self._devices[self._index]
        reason = reason.removeprefix(f"{lost} ")
        if self._now_s() - self._taken_s >= _STEADY_S:
            self._delays_s.pop(self._index, None)
        self._lose(self._index, reason)
        self._tell("device.lost")
        for index, open_rung in self._remaining():
            try:
                outputs, runtime = self._rerun(index, open_rung, saved)
            except DeviceNotFound as refused:
                self._lose(index, str(refused))
                continue
            self._lose_passed_over(index)
            if self._find(index):
                self._tell("device.back")
            self._close_aside(self._runtime)
            self._take(index, runtime)
            log.warning("%s is lost, %s takes over: %s", lost, runtime.device, reason)
            return outputs
        self._is_down = True
        self._hurry()
        log.error("%s is lost, and no device is left: %s", lost, reason)
        raise RuntimeFailed(f"no device is left: {self.state}")

    def _remaining(self) -> Iterator[tuple[int, Callable[[], Runtime]]]:
        """What has just come back, the rungs below the present one, then those that were refused from the start."""
        present = self._index
        returned = self._take_returned()
        if returned is not None:
            yield returned[0], lambda: returned[1]
        for index in self._next_best(present):
            if index not in self._lost:
                yield index, partial(self._open_rung, index, afresh=False)

    def _next_best(self, present: int) -> Sequence[int]:
        order = (*range(present + 1, len(self._devices)), *range(present))
        return order if self._standby is None else self._standby.best_first(order)

    def _rerun(
        self, index: int, open_rung: Callable[[], Runtime], saved: Sequence[Array]
    ) -> tuple[tuple[Array, ...], Runtime]:
        runtime = open_rung()
        try:
            for place, tensor in enumerate(saved):
                runtime.input(place)[...] = tensor
            outputs = runtime.run()
            rubbish = nonsense(outputs, runtime.outputs) if index in self._suspects else None
            if rubbish is not None:
                raise RuntimeFailed(f"{runtime.device} computes nonsense: {rubbish}")
        except BaseException:
            runtime.close()
            raise
        return outputs, runtime

    def _take(self, index: int, runtime: Runtime) -> None:
        self._index, self._runtime = index, runtime
        self._is_down = False
        self._taken_s = self._now_s()
        self._check_due_s = inf
        if index not in self._suspects:
            return
        if isinstance(runtime, Proven):
            self._check_due_s = self._taken_s + _check_every_s(runtime.run_s)
        if self._standby is not None:
            self._standby.begin(range(index + 1, len(self._devices)))

    def _close_aside(self, runtime: Runtime) -> None:
        """What hangs while it lets go of a device must not keep the frame that the next one has computed."""
        closing = threading.Thread(target=runtime.close, name="device closing", daemon=True)
        self._closings = [*(each for each in self._closings if each.is_alive()), closing]
        closing.start()

    def _lose(self, index: int, reason: str) -> None:
        with self._lock:
            self._lost[index] = _Loss(reason.removeprefix(f"{self._devices[index]} "), self._next_try_s(index))
            self._call_rescuer()

    def _call_rescuer(self) -> None:
        if self._rescuer is None:
            self._rescuer = threading.Thread(target=self._rescue, name="device rescue", daemon=True)
            self._rescuer.start()
        self._stirred.set()

    def _lose_passed_over(self, index: int) -> None:
        """Rungs that are better than that one and were refused beforehand are worth another try as well."""
        for refused, reason in dict(self._standby.refused if self._standby is not None else {}).items():
            if self._index < refused < index and refused not in self._lost:
                self._lose(refused, reason)

    def _next_try_s(self, index: int) -> float:
        """When to open a lost rung again, each time twice as long from now."""
        delay_s = min(self._delays_s.get(index, _FIRST_DELAY_S / 2) * 2, _LONGEST_DELAY_S)
        self._delays_s[index] = delay_s
        return self._now_s() + delay_s

    def _hurry(self) -> None:
        """While nothing computes, one that comes and goes is better than none."""
        with self._lock:
            self._delays_s.clear()
            self._lost = {index: replace(loss, due_s=self._next_try_s(index)) for index, loss in self._lost.items()}
            self._call_rescuer()

    def _rescue(self) -> None:
        """Open lost rungs again, the best first, until the best is there or this is closed."""
        while not self._closed.is_set():
            with self._lock:
                wanted = self._wanted()
                if not wanted:
                    self._rescuer = None
                    return
                due_s = min(self._lost[index].due_s for index in wanted)
            if self._wait(max(0.0, due_s - self._now_s())):
                return
            with self._lock:
                due = [index for index in self._wanted() if self._lost[index].due_s <= self._now_s()]
            for index in due:
                if self._offer(index):
                    break

    def _wanted(self) -> list[int]:
        """The lost rungs that are better than what waits to be taken back, the best first."""
        best = self._returned[0] if self._returned is not None else len(self._devices)
        return sorted(index for index in self._lost if index < best)

    def _sleep(self, seconds: float) -> bool:
        """Until then, until another rung is lost, or until closed; whether it was closed."""
        self._stirred.wait(seconds)
        self._stirred.clear()
        return self._closed.is_set()

    def _tell(self, event: str) -> None:
        for count in self._counters:
            count(event)

    def _offer(self, index: int) -> bool:
        try:
            runtime = self._open_rung(index, afresh=True)
        except DeviceNotFound as still_lost:
            device = self._devices[index]
            log.debug("%s is still lost: %s", device, str(still_lost).removeprefix(f"{device} "))
            with self._lock:
                if index in self._lost:
                    self._lost[index] = replace(self._lost[index], due_s=self._next_try_s(index))
            return False
        with self._lock:
            previous, self._returned = self._returned, (index, runtime)
            is_closed = self._closed.is_set()
        if previous is not None:
            previous[1].close()
        if is_closed:
            runtime.close()
        return True

    def _take_back(self) -> None:
        """Between two frames: go on with a device that has come back."""
        if self._returned is None:
            return
        returned = self._take_returned()
        if returned is None:
            return
        index, runtime = returned
        previous = self._runtime
        self._find(index)
        self._take(index, runtime)
        previous.close()
        self._tell("device.back")
        log.warning("%s is back", runtime.device)

    def _take_returned(self) -> tuple[int, Runtime] | None:
        with self._lock:
            returned, self._returned = self._returned, None
        return returned

    def _find(self, index: int) -> bool:
        """A rung that works is not lost, and while it does nobody cares for those below it; whether it was lost."""
        with self._lock:
            if index not in self._lost:
                return False
            for lost in [each for each in self._lost if each >= index]:
                del self._lost[lost]
            return True


def _check_every_s(check_s: float) -> float:
    """So that a model of seconds spends no more than 2 % of its time on checks."""
    return max(_CHECK_EVERY_S, _RUNS_PER_CHECK * check_s)
