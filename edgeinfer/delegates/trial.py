"""A model's first run on a device: in a worker that may crash, hang or eat all memory, and held against a reference."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeinfer.bundle import ModelFile
from edgeinfer.delegates.memory import Memory
from edgeinfer.delegates.proof import (
    Outputs,
    Sample,
    compare,
    limit_by,
    made_up,
    nonsense,
    run_sample,
    usual_limit,
)
from edgeinfer.delegates.proven import Proven
from edgeinfer.errors import DeviceNotFound, EdgeInferError, RuntimeFailed
from edgeinfer.runtimes import RuntimeOptions
from edgeinfer.runtimes.isolated import Crew, Isolated

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

    golden: samples that came with the model, run besides the made-up ones. Several threads may ask; `crew` is what the
    workers join that it takes to answer.
    """

    def __init__(self, file: ModelFile, *, golden: Sequence[Sample] = (), timeout_s: float = TIMEOUT_S) -> None:
        self.golden = tuple(golden)
        self._file = file
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._outputs: list[Outputs] | None = None
        self._is_known = False
        self._limit: float | None = None
        plain = RuntimeOptions(driver={"kernels": "plain"})
        self.candidate = Candidate("litert", "cpu", plain) if file.format == "tflite" else Candidate("onnx", "cpu")

    def outputs(self, crew: Crew | None = None) -> list[Outputs] | None:
        """Raises Refused where the crew was dismissed meanwhile."""
        with self._lock:
            if not self._is_known:
                ran = self._run(self.candidate, crew)
                self._outputs = None if ran is None else ran.found
                self._is_known = True
            return self._outputs

    def limit(self, candidate: Candidate, crew: Crew | None = None) -> float:
        """How far the candidate may lie from the reference; see proof.py. Raises Refused as `outputs` does."""
        if self._file.format != "tflite" or not self._file.is_quantised or candidate.is_same(_XNNPACK):
            return usual_limit(self._file)
        with self._lock:
            if self._limit is None:
                self._limit = self._measured_limit(crew)
            return self._limit

    def renewed(self) -> Reference:
        """This one, or where it could not run the model one that tries again: memory may have been short."""
        with self._lock:
            if self._outputs is None and self._is_known:
                return Reference(self._file, golden=self.golden, timeout_s=self._timeout_s)
            return self

    def _measured_limit(self, crew: Crew | None) -> float:
        expected = self.outputs(crew)
        ran = self._run(_XNNPACK, crew)
        if expected is None or ran is None:
            return usual_limit(self._file)
        return limit_by(compare(self._file, ran.found, expected, ran.worker.outputs).error, self._file)

    def _run(self, candidate: Candidate, crew: Crew | None) -> _Ran | None:
        try:
            ran = _open_and_run(self._file, candidate, self.golden, self._timeout_s, crew=crew)
        except EdgeInferError as refused:
            if crew is not None and crew.is_dismissed:
                # What was killed says nothing of the model, and without a reference anything would pass.
                raise Refused("the proof was broken off", "device") from refused
            log.debug("%s is no reference for %s: %s", candidate.device, self._file.path, refused)
            return None
        ran.worker.close()
        return ran


def try_model(
    file: ModelFile,
    candidate: Candidate,
    reference: Reference,
    *,
    timeout_s: float = TIMEOUT_S,
    memory: Memory | None = None,
    crew: Crew | None = None,
) -> None:
    """Let a worker run the model on the candidate and judge what it gives, unless `memory` knows that it passed before.

    Takes at most `timeout_s`, and as long again for the reference; whatever the worker does, this process stays
    whole. Raises Refused.
    """
    key = trial_key(file, candidate, reference.golden)
    if memory is not None and memory.has(key):
        return
    worker = _run_and_judge(file, candidate, reference, timeout_s, memory, crew).worker
    worker.close()
    if worker.exit_signal is not None:
        # Also after an answer: what crashes while it lets go of a model would take this process along.
        if memory is not None:
            memory.forget(key)
        raise Refused(f"{candidate.device} died with it ({worker.exit_signal})", "model")


def open_proven(
    file: ModelFile,
    candidate: Candidate,
    reference: Reference,
    *,
    timeout_s: float = TIMEOUT_S,
    memory: Memory | None = None,
    crew: Crew | None = None,
    is_alone: bool = False,
) -> Proven:
    """A worker that has run the model and gave what it should, warm and ready. Raises Refused.

    What `memory` knows is not compared again, and runs one sample only; it learns what passed. The workers of the
    reference join the crew, but not the one that is given back. is_alone: no other device could take over from it.
    """
    ran = _run_and_judge(file, candidate, reference, timeout_s, memory, crew, is_to_stay=True)
    ran.worker.allow(min(run_deadline_s(ran.slowest_s, is_alone=is_alone), timeout_s))
    return Proven(ran.worker, file, ran.samples[0], ran.found[0], run_s=ran.slowest_s)


def run_deadline_s(slowest_s: float, *, is_alone: bool = False) -> float:
    """How long a run may take where the slowest that was seen took that long.

    Ten times as long is no accident of a busy machine, nor is a second more: with a tenth of a second, or more, for a
    run that second decides, so that the next device can answer within two. Half a second is always granted.

    Where no device is next, nothing answers sooner for its end: a busy machine may add ten seconds then, and two
    seconds are always granted.
    """
    if is_alone:
        return max(2.0, min(10 * slowest_s, slowest_s + 10.0))
    return max(0.5, min(10 * slowest_s, slowest_s + 1.0))


def trial_key(file: ModelFile, candidate: Candidate, golden: Sequence[Sample] = ()) -> Mapping[str, Any]:
    """All that decides whether a trial would pass again, but for the versions, which `Memory` adds."""
    return {
        "sha256": file.sha256,
        # Somebody may have settled sizes that the file leaves free.
        "shapes": [list(spec.shape) for spec in file.inputs],
        "runtime": candidate.runtime,
        "unit": candidate.unit,
        "driver": dict(candidate.options.driver),
        "library": _library_state(candidate.unit),
        "golden": [sample.sha256 for sample in golden],
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


@dataclass(frozen=True, slots=True)
class _Ran:
    """An open worker, and what it gave for each sample. slowest_s: of its runs, but for the first, which warms up."""

    worker: Isolated
    samples: tuple[Sample, ...]
    found: list[Outputs]
    slowest_s: float


def _run_and_judge(
    file: ModelFile,
    candidate: Candidate,
    reference: Reference,
    timeout_s: float,
    memory: Memory | None,
    crew: Crew | None,
    *,
    is_to_stay: bool = False,
) -> _Ran:
    key = trial_key(file, candidate, reference.golden)
    is_known = memory is not None and memory.has(key)
    try:
        ran = _open_and_run(
            file, candidate, reference.golden, timeout_s, crew=crew, samples_max=1 if is_known else None
        )
    except DeviceNotFound as missing:
        raise Refused(str(missing), "model" if isinstance(missing, RuntimeFailed) else "device") from missing
    except EdgeInferError as refused:
        raise Refused(str(refused), "model") from refused
    try:
        if not candidate.is_same(reference.candidate):
            _refuse_nonsense(candidate, reference, ran, crew)
        if not is_known:
            _refuse_unlike_reference(file, candidate, reference, ran, crew)
        _refuse_unlike_golden(file, candidate, reference, ran, crew)
    except BaseException:
        ran.worker.close()
        raise
    if memory is not None and not is_known:
        memory.add(key)
    return ran


def _refuse_nonsense(candidate: Candidate, reference: Reference, ran: _Ran, crew: Crew | None) -> None:
    """What a model gives by itself, such as the logarithm of 0, is no device's fault."""
    for index, outputs in enumerate(ran.found):
        rubbish = nonsense(outputs, ran.worker.outputs)
        if rubbish is None:
            continue
        expected = reference.outputs(crew)
        if expected is None or nonsense(expected[index], ran.worker.outputs) is None:
            raise Refused(f"{candidate.device} computes nonsense: {rubbish}", "device")


def _refuse_unlike_reference(
    file: ModelFile, candidate: Candidate, reference: Reference, ran: _Ran, crew: Crew | None
) -> None:
    needs_none = candidate.is_foreign or candidate.is_same(reference.candidate)
    expected = None if needs_none else reference.outputs(crew)
    if expected is None:
        return
    proof = compare(file, ran.found, expected, ran.worker.outputs, reference.limit(candidate, crew))
    if proof.reason is not None:
        raise Refused(f"{candidate.device} computes something else than the reference: {proof.reason}", "device")
    log.debug("%s is off by %.2g of %g allowed", candidate.device, proof.error, proof.limit)


def _refuse_unlike_golden(
    file: ModelFile, candidate: Candidate, reference: Reference, ran: _Ran, crew: Crew | None
) -> None:
    """The limit is the usual one: nobody knows on which device the outputs were made."""
    for sample, outputs in zip(ran.samples, ran.found, strict=True):
        if sample.outputs is None or candidate.is_foreign:
            continue
        proof = compare(file, [outputs], [sample.outputs], ran.worker.outputs)
        if proof.reason is None:
            continue
        # What computes as the reference does and still gives something else has been told something else.
        is_right = candidate.is_same(reference.candidate) or reference.outputs(crew) is not None
        reason = f"{candidate.device} computes something else than {sample.name}.outputs says: {proof.reason}"
        raise Refused(reason, "model" if is_right else "device")


def _open_and_run(
    file: ModelFile,
    candidate: Candidate,
    golden: Sequence[Sample],
    timeout_s: float,
    *,
    crew: Crew | None,
    samples_max: int | None = None,
) -> _Ran:
    """Run the samples, those of the model before the made-up ones, and the first of them once more."""
    deadline_s = time.monotonic() + timeout_s
    worker = Isolated(
        file,
        candidate.runtime,
        candidate.unit,
        candidate.options,
        deadline_s=timeout_s,
        open_timeout_s=timeout_s,
        crew=crew,
    )
    try:
        samples = (*golden, *made_up(worker.inputs))[:samples_max]
        found, took_s = [], []
        for sample in (*samples, samples[0]):
            begun_s = time.monotonic()
            worker.allow(deadline_s - begun_s)
            found.append(run_sample(worker, sample))
            took_s.append(time.monotonic() - begun_s)
        return _Ran(worker, samples, found[:-1], max(took_s[1:]))
    except BaseException:
        worker.close()
        raise
