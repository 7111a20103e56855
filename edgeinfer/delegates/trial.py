"""A model's first run on a device: in a worker that may crash, hang or eat all memory, and held against a reference."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.memory import Memory
from edgeinfer.delegates.proof import Outputs, compare, limit_by, nonsense, run_samples, usual_limit
from edgeinfer.errors import DeviceNotFound, EdgeInferError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.isolated import Isolated

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0

Blame = Literal["model", "device"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model: a driver, what follows the colon, and the driver's options.

    is_foreign: another package's runtime, which need not compute what the file says, and so has no reference.
    """

    runtime: str
    unit: str
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    is_foreign: bool = False

    @property
    def device(self) -> str:
        return f"{self.runtime}:{self.unit}" if self.unit else self.runtime

    def is_same(self, other: Candidate) -> bool:
        """Whether both compute with the same kernels; threads and pace change nothing in what comes out."""
        mine, theirs = self.options.driver, other.options.driver
        return (self.runtime, self.unit, dict(mine)) == (other.runtime, other.unit, dict(theirs))


class Refused(Exception):
    """A device does not take the model. blame: whether the model or the device is at fault."""

    def __init__(self, reason: str, blame: Blame) -> None:
        super().__init__(reason)
        self.blame: Blame = blame


_XNNPACK = Candidate("litert", "cpu")


class Reference:
    """What the reference kernels give for the samples; computed at most once, when first asked for.

    For TFLite these are the interpreter's built-in kernels without any delegate, for ONNX the runtime's own on the
    CPU. None where they cannot run the model: then a device is only held to give finite numbers.

    How far a device may lie from it depends on the model, since rounding errors add up in some and not in others: what
    XNNPACK, which is right, makes of it is the measure for all others.
    """

    def __init__(self, file: ModelFile, *, timeout_s: float = TIMEOUT_S) -> None:
        self._file = file
        self._timeout_s = timeout_s
        self._outputs: list[Outputs] | None = None
        self._is_known = False
        self._limit: float | None = None
        plain = RuntimeOptions(driver={"kernels": "plain"})
        self.candidate = Candidate("litert", "cpu", plain) if file.format == "tflite" else Candidate("onnx", "cpu")

    def outputs(self) -> list[Outputs] | None:
        if not self._is_known:
            self._is_known = True
            try:
                worker, self._outputs, _ = _open_and_run(self._file, self.candidate, self._timeout_s)
                worker.close()
            except EdgeInferError as refused:
                log.debug("no reference for %s: %s", self._file.path, refused)
        return self._outputs

    def limit(self, candidate: Candidate) -> float:
        """How far the candidate may lie from the reference; see proof.py."""
        if self._file.format != "tflite" or not self._file.is_quantised or candidate.is_same(_XNNPACK):
            return usual_limit(self._file)
        if self._limit is None:
            self._limit = self._measured_limit()
        return self._limit

    def _measured_limit(self) -> float:
        expected = self.outputs()
        try:
            worker, found, _ = _open_and_run(self._file, _XNNPACK, self._timeout_s)
        except EdgeInferError as refused:
            log.debug("no second opinion on %s: %s", self._file.path, refused)
            return usual_limit(self._file)
        worker.close()
        if expected is None:
            return usual_limit(self._file)
        return limit_by(compare(self._file, found, expected, worker.outputs).error, self._file)


def try_model(
    file: ModelFile,
    candidate: Candidate,
    reference: Reference,
    *,
    timeout_s: float = TIMEOUT_S,
    memory: Memory | None = None,
) -> None:
    """Let a worker run the model on the candidate and judge what it gives, unless `memory` knows that it passed before.

    Takes at most `timeout_s`, and as long again for the reference; whatever the worker does, this process stays
    whole. Raises Refused.
    """
    if memory is not None and memory.has(trial_key(file, candidate)):
        return
    worker = open_proven(file, candidate, reference, timeout_s=timeout_s, memory=memory)
    worker.close()
    if worker.exit_signal is not None:
        # Also after an answer: what crashes while it lets go of a model would take this process along.
        if memory is not None:
            memory.forget(trial_key(file, candidate))
        raise Refused(f"{candidate.device} died with it ({worker.exit_signal})", "model")


def open_proven(
    file: ModelFile,
    candidate: Candidate,
    reference: Reference,
    *,
    timeout_s: float = TIMEOUT_S,
    memory: Memory | None = None,
) -> Isolated:
    """A worker that has run the model and gave what it should, warm and ready. Raises Refused.

    What `memory` knows is not compared again; it learns what passed.
    """
    try:
        worker, found, slowest_s = _open_and_run(file, candidate, timeout_s)
    except DeviceNotFound as missing:
        raise Refused(str(missing), "model" if isinstance(missing, RuntimeFailed) else "device") from missing
    except EdgeInferError as refused:
        raise Refused(str(refused), "model") from refused
    try:
        _judge(file, candidate, reference, worker, found, memory)
    except BaseException:
        worker.close()
        raise
    worker.allow(run_deadline_s(slowest_s))
    return worker


def run_deadline_s(slowest_s: float) -> float:
    """How long a run may take: ten times the slowest that was seen, and half a second at least."""
    return max(0.5, 10 * slowest_s)


def trial_key(file: ModelFile, candidate: Candidate) -> Mapping[str, Any]:
    """All that decides whether a trial would pass again, but for the versions, which `Memory` adds."""
    return {
        "sha256": file.sha256,
        # Somebody may have settled sizes that the file leaves free.
        "shapes": [list(spec.shape) for spec in file.inputs],
        "runtime": candidate.runtime,
        "unit": candidate.unit,
        "driver": dict(candidate.options.driver),
        "library": _library_state(candidate.unit),
    }


def _library_state(unit: str) -> list[int] | None:
    """What changes when somebody installs another version of an external delegate's library."""
    if not unit.startswith("delegate="):
        return None
    try:
        status = Path(unit.removeprefix("delegate=").partition(",")[0]).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _judge(
    file: ModelFile,
    candidate: Candidate,
    reference: Reference,
    worker: Isolated,
    found: list[Outputs],
    memory: Memory | None,
) -> None:
    if not candidate.is_same(reference.candidate):
        _refuse_nonsense(candidate, reference, worker, found)
    key = trial_key(file, candidate)
    if memory is not None and memory.has(key):
        return
    needs_none = candidate.is_foreign or candidate.is_same(reference.candidate)
    expected = None if needs_none else reference.outputs()
    if expected is not None:
        proof = compare(file, found, expected, worker.outputs, reference.limit(candidate))
        if proof.reason is not None:
            raise Refused(f"{candidate.device} computes something else than the reference: {proof.reason}", "device")
        log.debug("%s is off by %.2g of %g allowed", candidate.device, proof.error, proof.limit)
    if memory is not None:
        memory.add(key)


def _refuse_nonsense(candidate: Candidate, reference: Reference, worker: Isolated, found: list[Outputs]) -> None:
    """What a model gives by itself, such as the logarithm of 0, is no device's fault."""
    for index, outputs in enumerate(found):
        rubbish = nonsense(outputs, worker.outputs)
        if rubbish is None:
            continue
        expected = reference.outputs()
        if expected is None or nonsense(expected[index], worker.outputs) is None:
            raise Refused(f"{candidate.device} computes nonsense: {rubbish}", "device")


def _open_and_run(file: ModelFile, candidate: Candidate, timeout_s: float) -> tuple[Isolated, list[Outputs], float]:
    """A worker, its outputs for the samples, and how long the slowest run but the first took."""
    deadline_s = time.monotonic() + timeout_s
    worker = Isolated(
        file, candidate.runtime, candidate.unit, candidate.options, deadline_s=timeout_s, open_timeout_s=timeout_s
    )
    try:
        found = []
        worker.allow(deadline_s - time.monotonic())
        for outputs in run_samples(worker):
            found.append(outputs)
            worker.allow(deadline_s - time.monotonic())
        begun_s = time.monotonic()
        worker.run()
        return worker, found, time.monotonic() - begun_s
    except BaseException:
        worker.close()
        raise
