"""A word for a device, and a model -> a runtime that was seen to compute the right thing, and outlives its device."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeinfer.board import Board, recognise_board
from edgeinfer.board.cores import begun_on, big_cores, usual_threads
from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.tflite import EDGETPU_OP
from edgeinfer.delegates.failover import Failover
from edgeinfer.delegates.ladder import Rung, rungs_for
from edgeinfer.delegates.memory import Memory
from edgeinfer.delegates.plan import by_plan, fitting_plan
from edgeinfer.delegates.proof import Sample
from edgeinfer.delegates.standby import Standby
from edgeinfer.delegates.trial import TIMEOUT_S, Candidate, Reference, Refused, open_proven, try_model
from edgeinfer.errors import DeviceNotFound, ModelError, RuntimeFailed
from edgeinfer.runtimes import RUNTIMES, Runtime
from edgeinfer.runtimes.isolated import Crew

log = logging.getLogger(__name__)

_FLOAT_BYTES = 4
# Weights times input values, which of MobileNets, SSDs and YOLOs is 900 to 1800 times the multiplications: some 30
# million of these, a millisecond or two.
_LIGHT = 4e10


def open_device(
    file: ModelFile,
    word: str,
    *,
    threads: int | None = None,
    paced: bool = False,
    isolate: bool = False,
    golden: Sequence[Sample] = (),
    trial_timeout_s: float = TIMEOUT_S,
    board: Board | None = None,
) -> Runtime:
    """Open the model on the device that `word` names, after it was seen to compute there what it should.

    `auto`, `cpu`, `gpu`, `edgetpu`, `npu` take the first of a list that works, and go on with the next when one fails
    later; an exact word takes that device or fails. What can hang or crash runs in a worker process, with `isolate`
    a CPU too. `golden` are samples that came with the model. Raises DeviceNotFound where no such device is to be had,
    ModelError where it refuses the model.

    A CPU computes with `threads`, else with as many as the plan of `edgeinfer tune` says, else see `threads_for`.
    """
    board = board or recognise_board()
    rungs = _planned(rungs_for(word, file, board), file, word, threads, board)
    reference = Reference(file, golden=golden, timeout_s=trial_timeout_s)
    opener = _Opener(file, rungs, threads, paced, isolate, trial_timeout_s, reference, Memory(), big_cores(board))
    refusals: list[Refused] = []
    for index, rung in enumerate(rungs):
        try:
            runtime = opener.open(index, opener.memory)
        except Refused as refused:
            refusals.append(refused)
            continue
        refused_text = "".join(f"; {_without_path(str(refusal), file)}" for refusal in refusals)
        log.info("%s runs on %s%s", file.path.name, runtime.device, refused_text)
        if len(rungs) == 1 and not opener.is_isolated(rung):
            return runtime
        suspects = frozenset(number for number, each in enumerate(rungs) if opener.is_isolated(each))
        return Failover(
            [each.word for each in rungs],
            index,
            runtime,
            opener.reopen,
            suspects=suspects,
            standby=Standby(opener.prove_ahead),
        )
    raise _all_refused(file, refusals)


def threads_for(file: ModelFile, board: Board) -> int | None:
    """How many threads a CPU computes this model with where nobody says it; None leaves it to the runtime.

    A light model has one: to wake the others takes longer than they save, and what they spin away the decoder lacks.
    """
    return 1 if _is_light(file) else usual_threads(board)


def _is_light(file: ModelFile) -> bool:
    weights = file.size_bytes if file.is_quantised else file.size_bytes // _FLOAT_BYTES
    return weights * max((math.prod(spec.shape) for spec in file.inputs), default=0) < _LIGHT


def open_rung(file: ModelFile, rung: Rung, *, golden: Sequence[Sample] = (), timeout_s: float = TIMEOUT_S) -> Runtime:
    """The model on exactly this device with exactly these settings, proven. Raises Refused."""
    memory, reference = Memory(), Reference(file, golden=golden, timeout_s=timeout_s)
    cores = big_cores(recognise_board())
    return _Opener(file, (rung,), None, False, False, timeout_s, reference, memory, cores).open(0, memory)


def _planned(
    rungs: tuple[Rung, ...], file: ModelFile, word: str, threads: int | None, board: Board
) -> tuple[Rung, ...]:
    """The rungs by the plan, if there is one; each CPU with as many threads as are usual here, where none are said."""
    plan = None if rungs[0].runtime == "fake" else fitting_plan(file, board)
    if plan is not None:
        planned = by_plan(rungs, plan, word=word, threads=threads)
        if planned != rungs:
            log.info("by the plan of %s, ranked by %s: %s first", plan.made_at, plan.ranked_by, planned[0].describe())
        rungs = planned
    usual = threads_for(file, board)
    return tuple(replace(rung, threads=usual) if rung.is_cpu and rung.threads is None else rung for rung in rungs)


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens rungs of one ladder, in this process or in a worker of their own.

    cores: those that the runtime's threads shall stay on, where there is one for each; none where all are alike.
    """

    file: ModelFile
    rungs: tuple[Rung, ...]
    threads: int | None
    paced: bool
    isolate: bool
    timeout_s: float
    reference: Reference
    memory: Memory
    cores: frozenset[int]

    def is_isolated(self, rung: Rung) -> bool:
        return rung.is_isolated or self.isolate

    def open(self, index: int, memory: Memory | None) -> Runtime:
        """Raises Refused. Without a memory the rung proves itself afresh."""
        candidate = self.rungs[index].candidate(self.threads, paced=self.paced)
        threads = candidate.options.threads
        # Threads stay where they are begun; more of them than big cores would wait for each other there.
        with begun_on(self.cores if threads is not None and threads <= len(self.cores) else frozenset()):
            return self._open(self.rungs[index], candidate, memory)

    def _open(self, rung: Rung, candidate: Candidate, memory: Memory | None) -> Runtime:
        reference = self.reference.renewed()
        # Once another device computes, the reference must not slow it down.
        crew = Crew() if memory is None else None
        timeout_s = self.timeout_s
        if self.is_isolated(rung):
            return open_proven(
                self.file,
                candidate,
                reference,
                timeout_s=timeout_s,
                memory=memory,
                crew=crew,
                is_alone=len(self.rungs) == 1,
            )
        if rung.runtime != "fake":
            try_model(self.file, candidate, reference, timeout_s=timeout_s, memory=memory, crew=crew)
        try:
            return RUNTIMES.get(rung.runtime, error=DeviceNotFound)(self.file, rung.unit, candidate.options)
        except (ModelError, RuntimeFailed) as refused:
            raise Refused(str(refused), "model") from refused
        except DeviceNotFound as missing:
            raise Refused(str(missing), "device") from missing

    def reopen(self, index: int, *, afresh: bool) -> Runtime:
        """A rung for a device that was lost: to fall to, or, `afresh`, to take back. Raises DeviceNotFound."""
        try:
            return self.open(index, None if afresh else self.memory)
        except Refused as refused:
            raise DeviceNotFound(_without_path(str(refused), self.file)) from refused

    def prove_ahead(self, index: int, crew: Crew) -> None:
        """Let a rung pass its proof, so that it is remembered and its opening is quick. Raises DeviceNotFound."""
        rung = self.rungs[index]
        candidate = rung.candidate(self.threads, paced=self.paced)
        reference = self.reference.renewed()
        try:
            try_model(self.file, candidate, reference, timeout_s=self.timeout_s, memory=self.memory, crew=crew)
        except Refused as refused:
            raise DeviceNotFound(_without_path(str(refused), self.file)) from refused


def _without_path(reason: str, file: ModelFile) -> str:
    return reason.replace(f" {file.path.absolute()}", " it").replace(f" {file.path}", " it")


def _all_refused(file: ModelFile, refusals: list[Refused]) -> ModelError | DeviceNotFound:
    """One error with every reason: it is the model's fault as soon as one device that is there refused it."""
    reasons = "; ".join(dict.fromkeys(_without_path(str(refusal), file) for refusal in refusals))
    is_model = any(refusal.blame == "model" for refusal in refusals)
    which = ", which is compiled for the Edge TPU" if EDGETPU_OP in file.custom_ops else ""
    return (ModelError if is_model else DeviceNotFound)(f"cannot run {file.path}{which}: {reasons}")
