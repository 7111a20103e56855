"""One runtime out of several: computes on the best device that works, and outlives the death of any of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from edgeinfer.delegates.proof import nonsense
from edgeinfer.errors import DeviceNotFound, RuntimeFailed
from edgeinfer.runtimes import Runtime
from edgeinfer.tensor import Array

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0
_CLOSE_S = 5.0


class OpenRung(Protocol):
    def __call__(self, index: int, *, afresh: bool) -> Runtime:
        """Open a rung; `afresh`: after it has passed its proof once more. Raises DeviceNotFound."""
        ...


class Failover:
    """See Runtime. The rungs are numbered from the best, 0; `runtime` is open on rung `index`.

    At every run the outputs of a rung among `suspects` are looked through for NaN.

    When a run fails, or gives NaN, the same input is run on the next rung, so that no frame is lost: its result
    is late by the opening of that rung, and says its device. The lost rung is opened again in the background, at
    doubling intervals up to a minute, and taken back between two frames once it passes its proof.

    `wait` sleeps that many seconds or until closed, and says whether it was closed; a test passes its own.
    """

    def __init__(
        self,
        devices: Sequence[str],
        index: int,
        runtime: Runtime,
        open_rung: OpenRung,
        *,
        suspects: frozenset[int] = frozenset(),
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._devices = tuple(devices)
        self._index = index
        self._runtime = runtime
        self._open_rung = open_rung
        self._suspects = suspects
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._lock = threading.Lock()
        self._lost: dict[int, str] = {}
        self._returned: tuple[int, Runtime] | None = None
        self._rescuer: threading.Thread | None = None
        self._is_down = False
        self.inputs = runtime.inputs
        self.outputs = runtime.outputs

    @property
    def device(self) -> str:
        return self._runtime.device

    @property
    def state(self) -> str:
        """`ok`; `degraded: …` while a better device is lost; `down: …` while none works."""
        with self._lock:
            reasons = "; ".join(f"{self._devices[index]} {reason}" for index, reason in sorted(self._lost.items()))
            if self._is_down:
                return f"down: {reasons}"
            return f"degraded: {reasons}" if self._lost else "ok"

    def input(self, index: int = 0) -> Array:
        if index == 0:
            self._take_back()
        return self._runtime.input(index)

    def run(self) -> tuple[Array, ...]:
        if self._is_down:
            # The last device may answer again, but nothing says that it is right.
            raise RuntimeFailed(f"no device is left: {self.state}")
        try:
            outputs = self._runtime.run()
        except RuntimeFailed as failed:
            return self._run_elsewhere(str(failed))
        rubbish = nonsense(outputs, self._runtime.outputs) if self._index in self._suspects else None
        return outputs if rubbish is None else self._run_elsewhere(f"computes nonsense: {rubbish}")

    def close(self) -> None:
        self._closed.set()
        returned, rescuer = self._take_returned(), self._rescuer
        if returned is not None:
            returned[1].close()
        self._runtime.close()
        if rescuer is not None:
            rescuer.join(_CLOSE_S)

    def _run_elsewhere(self, reason: str) -> tuple[Array, ...]:
        saved = [np.array(self._runtime.input(index)) for index in range(len(self.inputs))]
        lost = self._devices[self._index]
        reason = reason.removeprefix(f"{lost} ")
        self._lose(self._index, reason)
        for index, open_rung in self._remaining():
            try:
                outputs, runtime = self._rerun(index, open_rung, saved)
            except DeviceNotFound as refused:
                self._lose(index, str(refused))
                continue
            self._find(index)
            self._switch(index, runtime)
            log.warning("%s is lost, %s takes over: %s", lost, runtime.device, reason)
            return outputs
        self._is_down = True
        log.error("%s is lost, and no device is left: %s", lost, reason)
        raise RuntimeFailed(f"no device is left: {self.state}")

    def _remaining(self) -> Iterator[tuple[int, Callable[[], Runtime]]]:
        """What has just come back, the rungs below the present one, then those that were refused from the start."""
        present = self._index
        returned = self._take_returned()
        if returned is not None:
            yield returned[0], lambda: returned[1]
        for index in (*range(present + 1, len(self._devices)), *range(present)):
            if index not in self._lost:
                yield index, partial(self._open_rung, index, afresh=False)

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

    def _switch(self, index: int, runtime: Runtime) -> None:
        previous, self._runtime, self._index = self._runtime, runtime, index
        self._is_down = False
        previous.close()

    def _lose(self, index: int, reason: str) -> None:
        with self._lock:
            self._lost[index] = reason.removeprefix(f"{self._devices[index]} ")
            if self._rescuer is None:
                self._rescuer = threading.Thread(target=self._rescue, name="device rescue", daemon=True)
                self._rescuer.start()

    def _rescue(self) -> None:
        """Open the best lost rung again, until it is there or this is closed."""
        delay_s = _FIRST_DELAY_S
        while not self._wait(delay_s):
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)
            with self._lock:
                best = self._returned[0] if self._returned is not None else len(self._devices)
                wanted = sorted(index for index in self._lost if index < best)
            for index in wanted:
                if self._offer(index):
                    break
            with self._lock:
                if not self._lost or (self._returned is not None and self._returned[0] == min(self._lost)):
                    self._rescuer = None
                    return

    def _offer(self, index: int) -> bool:
        try:
            runtime = self._open_rung(index, afresh=True)
        except DeviceNotFound as still_lost:
            log.debug("%s is still lost: %s", self._devices[index], still_lost)
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
        self._find(index)
        self._switch(index, runtime)
        log.warning("%s is back", runtime.device)

    def _take_returned(self) -> tuple[int, Runtime] | None:
        with self._lock:
            returned, self._returned = self._returned, None
        return returned

    def _find(self, index: int) -> None:
        """A rung that works is not lost, and while it does nobody cares for those below it."""
        with self._lock:
            if index in self._lost:
                for lost in [each for each in self._lost if each >= index]:
                    del self._lost[lost]
