"""The models of a node's slots: a new release is tried in the running pipelines, and kept or undone."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from edgeinfer.clock import Clock
from edgeinfer.config import PipelineConfig, slot_of
from edgeinfer.delegates import is_exclusive
from edgeinfer.errors import DeviceNotFound, EdgeInferError, ModelError, OutputError, RuntimeFailed, SourceError
from edgeinfer.frame import Input
from edgeinfer.model import Answer, Model
from edgeinfer.node.judge import ENOUGH_ANSWERS, Measure, Meter, fault_of, is_enough, is_excused, slowest_ms
from edgeinfer.node.shadow import Shadow, in_words
from edgeinfer.pipeline import Pipeline
from edgeinfer.quantity import parse_share
from edgeinfer.updates.store import Entry, Installed, Store, checked_slot
from edgeinfer.uplink.bodies import ShadowReport, SlotModel

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_CLOSE_S = 10.0
_HOLD_S = 5.0
_WARM_RUNS = 3
_HANGS_S = 10.0
_HANGS_TIMES = 20
# A moment in which somebody else needs the board is no reason: it has to do worse so many times in a row, and so long.
_STRIKES = 3
_WORSE_S = 8.0
_LOUD = frozenset({"rejected", "rolled_back", "fell_back"})

Tell = Callable[[str, Entry], None]
"""Told of each step of a slot."""


class Exchanged(Protocol):
    """The node whose models are exchanged."""

    @property
    def pipelines(self) -> Sequence[Pipeline]: ...

    @property
    def care(self) -> str | None: ...

    def config_of(self, pipeline: str) -> PipelineConfig | None:
        """The words of that pipeline; None where a reload has just taken it away."""
        ...

    def open_model(self, pipeline: str, word: str) -> Model:
        """A model as that pipeline wants it. Raises EdgeInferError."""
        ...


class _OtherDevice(DeviceNotFound):
    """It came out on another device than the model that it shall replace."""


@dataclass(slots=True)
class _Trial:
    """A release that is being tried. meters: of the pipelines that it runs in, or shall run in.

    begun_ns: since when it answers, None while it is still in the shadow. before: of the model that it replaced,
    others_before what other programs took of the cores then, and devices what it ran on, by pipeline. judged: how often
    each pipeline was; strikes: how often it did worse of late, and worse_since_ns since when. excused: those pipelines
    of which nothing is said, since other programs need the cores.
    """

    installed: Installed
    meters: Sequence[Meter]
    shadow: Shadow | None = None
    begun_ns: int | None = None
    before: Mapping[str, Measure] = field(default_factory=dict)
    others_before: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)
    judged: Counter[str] = field(default_factory=Counter)
    strikes: Counter[str] = field(default_factory=Counter)
    worse_since_ns: dict[str, int] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)
    report: ShadowReport | None = None


class Models:
    """A thread that looks at the store every two seconds.

    A release that waits is tried once the pipelines of its slot have given some answers, which it is held against: it
    is opened and run beside the active one, then answers from the next frame on. Before anything of it is loaded, the
    attempt is counted; so one that takes the process along comes to its end, too. It is undone where its device is lost
    or becomes another, where a run hangs or a pipeline fails, and where three times in a row it was slower or more
    frames were dropped, unless other programs took the cores meanwhile; after its time it is kept. Whether there is a
    broker is not asked.
    """

    def __init__(self, store: Store, node: Exchanged, *, tell: Tell, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._tell = tell
        self._clock = clock
        self._lock = threading.RLock()
        self._meters: dict[str, Meter] = {}
        self._trials: dict[str, _Trial] = {}
        self._firsts: dict[str, Installed] = {}
        self._helpless: set[str] = set()
        self._in_use: dict[str, str] = {}
        self._telling = threading.Lock()
        self._told: dict[str, Entry | None] = {}
        self._states: Mapping[str, SlotModel] = {}
        self._is_failing = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    @property
    def states(self) -> Sequence[SlotModel]:
        """Of the slots that pipelines name, as they were when last looked at."""
        return tuple(self._states.values())

    def word_of(self, slot: str) -> str:
        """The bundle of the active release, every file of it hashed just now; else of the previous, else the factory's.

        Where none is whole or works, what waits for a trial. Raises ModelError where there is nothing.
        """
        try:
            return self._word_of(checked_slot(slot))
        except (OSError, sqlite3.Error) as failed:
            raise ModelError(f"the model store {self._store.folder} cannot be used: {failed}") from failed

    def word_in_use(self, slot: str) -> str:
        """What answers now, which in a trial is the candidate. Raises ModelError."""
        trial = self._trials.get(slot)
        if trial is None or trial.begun_ns is None:
            return self.word_of(slot)
        return str(self._store.bundle_of(trial.installed))

    def fails(self, slot: str) -> None:
        """A pipeline of that slot does not run, with its active model."""
        if slot not in self._trials:
            self._helpless.add(slot)

    def _word_of(self, slot: str) -> str:
        self._remember(slot)
        is_helpless = slot in self._helpless
        self._helpless.discard(slot)
        installed = None if is_helpless and self._store.staged(slot) is not None else self._store.active(slot)
        while installed is not None:
            try:
                word = str(self._store.bundle_of(installed))
            except ModelError as damaged:
                installed = self._store.fall_back(slot, installed, damaged.message)
                self._say_news(slot)
            else:
                self._in_use[slot] = installed.sha256
                return word
        # There is nothing to hold it against, and nothing to lose.
        waiting = self._store.begin_trial(slot)
        whole = None if waiting is None else self._whole(waiting)
        self._say_news(slot)
        if waiting is None or whole is None:
            raise ModelError(f"slot {slot} holds no model that can be used")
        self._firsts[slot] = waiting
        return whole

    def start(self) -> None:
        self._thread.start()

    def close(self, left: Sequence[Pipeline] = ()) -> None:
        """End in good order: a trial that is not over is begun anew at the next start. left: pipelines that hang."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)
        if not self._lock.acquire(timeout=_CLOSE_S):
            log.error("a model is still being opened, and left: that attempt counts")
            return
        try:
            for slot, trial in tuple(self._trials.items()):
                self._end_trial(slot, trial, left)
            self._trials.clear()
            self._store.close()
        except (OSError, sqlite3.Error) as failed:
            log.error("the model store cannot be used: %s", failed)
        finally:
            self._lock.release()

    def look(self) -> None:
        """What is done every two seconds."""
        with self._lock:
            users = self._users()
            for slot, pipelines in users.items():
                self._remember(slot)
                self._attend(slot, pipelines)
                self._say_news(slot)
            self._states = {slot: self._state(slot, pipelines) for slot, pipelines in users.items()}

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                try:
                    self.look()
                    self._is_failing = False
                except (OSError, sqlite3.Error) as failed:
                    if not self._is_failing:
                        log.error("the model store cannot be used; models stay as they are: %s", failed)
                    self._is_failing = True
                self._closed.wait(_LOOK_S)
        except Exception:
            log.exception("model updates are given up; models stay as they are")

    def _users(self) -> Mapping[str, Sequence[Pipeline]]:
        """By slot, the pipelines that name it and run; each of them has a meter."""
        users: dict[str, list[Pipeline]] = {}
        for pipeline in self._node.pipelines:
            config = self._node.config_of(pipeline.name)
            slot = None if config is None else slot_of(config.model)
            if slot is None:
                continue
            users.setdefault(slot, []).append(pipeline)
            known = self._meters.get(pipeline.name)
            if known is None or known.pipeline is not pipeline:
                meter = self._meters[pipeline.name] = Meter(pipeline)
                pipeline.watch(meter.look)
        return users

    def _attend(self, slot: str, pipelines: Sequence[Pipeline]) -> None:
        trial = self._trials.get(slot) or self._first(slot, pipelines)
        if trial is None:
            if self._is_other(slot):
                self._follow(slot, pipelines)
            elif self._is_due(slot, pipelines):
                self._begin(slot, pipelines)
        elif self._is_taken_back(slot, trial):
            self._take_back(slot, trial)
        elif trial.shadow is not None:
            self._look_at_shadow(slot, trial, trial.shadow)
        else:
            self._judge(slot, trial)

    def _first(self, slot: str, pipelines: Sequence[Pipeline]) -> _Trial | None:
        """The trial of what was opened because there was nothing else."""
        installed = self._firsts.pop(slot, None)
        if installed is None:
            return None
        meters = [self._meters[each.name] for each in pipelines]
        trial = self._trials[slot] = _Trial(installed, meters, begun_ns=self._clock.monotonic_ns())
        return trial

    def _is_taken_back(self, slot: str, trial: _Trial) -> bool:
        """Whether somebody has undone it by hand."""
        staged = self._store.staged(slot)
        return staged is None or staged.sha256 != trial.installed.sha256

    def _take_back(self, slot: str, trial: _Trial) -> None:
        self._trials.pop(slot, None)
        self._close_shadow(trial)
        if trial.begun_ns is not None:
            self._bring_back(slot, trial.meters)

    def _is_other(self, slot: str) -> bool:
        """Whether somebody has made another model the active one by hand, since its pipelines took theirs."""
        active = self._store.active(slot)
        return active is not None and active.sha256 != self._in_use.get(slot, active.sha256)

    def _follow(self, slot: str, pipelines: Sequence[Pipeline]) -> None:
        """Not a trial: who did it by hand wants it so. Where it cannot be opened, that is said once."""
        active = self._store.active(slot)
        self._bring_back(slot, [self._meters[each.name] for each in pipelines])
        if active is not None:
            self._in_use[slot] = active.sha256

    def _is_due(self, slot: str, pipelines: Sequence[Pipeline]) -> bool:
        """Whether something waits, all pipelines compute, and there is something to hold it against."""
        if self._store.staged(slot) is None or self._node.care is not None:
            return False
        measures = [self._meters[each.name].measure() for each in pipelines]
        return all(each.state == "ok" for each in pipelines) and all(
            each.answers >= ENOUGH_ANSWERS for each in measures
        )

    def _begin(self, slot: str, pipelines: Sequence[Pipeline]) -> None:
        with self._cushion(pipelines):
            self._begin_trial(slot, pipelines)

    def _begin_trial(self, slot: str, pipelines: Sequence[Pipeline]) -> None:
        installed = self._store.begin_trial(slot)
        self._say_news(slot)
        if installed is None:
            return
        word = self._whole(installed)
        if word is None:
            return
        meters = [self._meters[each.name] for each in pipelines]
        trial = _Trial(installed, meters)
        shadow = self._open_shadow(slot, meters[0], word)
        if shadow is None:
            self._switch(slot, trial, word)
            return
        trial.shadow = shadow
        self._trials[slot] = trial

    def _whole(self, installed: Installed) -> str | None:
        try:
            return str(self._store.bundle_of(installed))
        except ModelError as damaged:
            self._store.reject(installed.slot, damaged.message)
            return None

    # In the shadow.

    def _open_shadow(self, slot: str, meter: Meter, word: str) -> Shadow | None:
        """None where it is not asked for, or cannot be: then the trial shows what is wrong."""
        pipeline = meter.pipeline
        config = self._node.config_of(pipeline.name)
        if config is None or config.shadow is None:
            return None
        if is_exclusive(pipeline.device):
            log.warning("slot %s: no shadow on %s, which only one model can have", slot, pipeline.device)
            return None
        try:
            model = self._opened(pipeline, word, device=pipeline.device)
        except EdgeInferError as refused:
            log.warning("slot %s: no shadow: %s", slot, refused)
            return None
        shadow = Shadow(model, parse_share(config.shadow), clock=self._clock)
        pipeline.watch(_both(meter.look, shadow.look))
        log.info(
            "slot %s: the candidate sees %s of the %s of %s", slot, config.shadow, pipeline.counted_in, pipeline.name
        )
        return shadow

    def _look_at_shadow(self, slot: str, trial: _Trial, shadow: Shadow) -> None:
        trial.report = shadow.report()
        if self._is_void(trial):
            self._leave(slot, trial)
            return
        if not shadow.is_over:
            return
        self._close_shadow(trial)
        self._store.note(slot, "shadow", in_words(trial.report))
        self._say_news(slot)
        before = trial.meters[0].measure()
        limit_ms = slowest_ms(before, trial.installed.p95_ms)
        fault = shadow.fault
        if fault is None and limit_ms is not None and trial.report.p95_ms > limit_ms:
            fault = f"in the shadow its p95 was {trial.report.p95_ms:.1f} ms, at most {limit_ms:.1f} ms are allowed"
        word = None if fault is not None else self._whole(trial.installed)
        if word is None:
            del self._trials[slot]
            if fault is not None:
                self._store.reject(slot, fault)
            return
        self._switch(slot, trial, word)

    def _close_shadow(self, trial: _Trial) -> None:
        shadow, trial.shadow = trial.shadow, None
        if shadow is not None:
            trial.meters[0].pipeline.watch(trial.meters[0].look)
            shadow.close()

    # The switch.

    def _switch(self, slot: str, trial: _Trial, word: str) -> None:
        pipelines = [meter.pipeline for meter in trial.meters]
        before = {meter.pipeline.name: meter.measure() for meter in trial.meters}
        others_before = {meter.pipeline.name: meter.others() for meter in trial.meters}
        devices = {each.name: each.device for each in pipelines}
        try:
            is_switched = self._exchange(pipelines, word, devices, back=partial(self.word_of, slot))
        except EdgeInferError as refused:
            self._trials.pop(slot, None)
            self._store.reject(slot, str(refused))
            return
        if not is_switched:
            self._leave(slot, trial)
            return
        for meter in trial.meters:
            meter.begin()
        trial.before, trial.begun_ns = before, self._clock.monotonic_ns()
        trial.others_before, trial.devices = others_before, devices
        self._trials[slot] = trial
        log.warning("slot %s: release %d is on trial for %g s", slot, trial.installed.release, trial.installed.trial_s)

    def _exchange(
        self, pipelines: Sequence[Pipeline], word: str, devices: Mapping[str, str], *, back: Callable[[], str]
    ) -> bool:
        """Let that model answer from the next frame on, in all of them or in none; whether it does.

        devices: by pipeline, what it has to run on, where that matters. False where a frame in work took too long.
        Raises EdgeInferError where it cannot be opened or run; then the former, whose word `back` gives, goes on.
        """
        if not any(is_exclusive(each.device) for each in pipelines):
            try:
                with self._cushion(pipelines):
                    models = self._open_all(pipelines, word, devices)
            except RuntimeFailed:
                raise
            except DeviceNotFound as busy:
                log.info("cannot be opened beside the active model: %s", busy)
            else:
                for pipeline, model in zip(pipelines, models, strict=True):
                    pipeline.exchange(model)
                return True
        return self._exchange_held(pipelines, word, devices, back)

    @contextmanager
    def _cushion(self, pipelines: Sequence[Pipeline]) -> Iterator[None]:
        """What is done within takes the cores now and then, however long: meanwhile, and for a while after, frames of
        those that keep up may wait."""
        steady = [each for each in pipelines if self._meters[each.name].keeps_up()]
        for each in steady:
            each.cushion(lasting=True)
        try:
            yield
        finally:
            for each in steady:
                each.cushion()

    def _exchange_held(
        self, pipelines: Sequence[Pipeline], word: str, devices: Mapping[str, str], back: Callable[[], str]
    ) -> bool:
        """On a device that only one can have: while frames wait, the former lets go of it first."""
        held = [each for each in pipelines if each.hold(_HOLD_S)]
        try:
            if len(held) < len(pipelines):
                return False
            for each in held:
                each.let_go()
            refused: EdgeInferError | None = None
            try:
                models = self._open_all(held, word, devices)
            except EdgeInferError as failed:
                refused = failed
                models = self._open_all(held, back(), {})
            for pipeline, model in zip(held, models, strict=True):
                pipeline.exchange(model)
            if refused is not None:
                raise refused
            return True
        finally:
            for each in held:
                each.release()

    def _open_all(self, pipelines: Sequence[Pipeline], word: str, devices: Mapping[str, str]) -> Sequence[Model]:
        models: list[Model] = []
        try:
            for pipeline in pipelines:
                models.append(self._opened(pipeline, word, device=devices.get(pipeline.name)))
        except BaseException:
            for each in models:
                each.close()
            raise
        return models

    def _opened(self, pipeline: Pipeline, word: str, *, device: str | None) -> Model:
        """Opened, and run so that the first frame does not wait. Raises EdgeInferError."""
        model = self._node.open_model(pipeline.name, word)
        try:
            usual = pipeline.facts.bundle
            if model.bundle.task != usual.task:
                raise ModelError(f"its task is {model.bundle.task}, and that of the active model {usual.task}")
            if device is not None and model.device != device:
                raise _OtherDevice(f"it runs on {model.device}, and the active model on {device}")
            width, height = model.picture_size
            for _ in range(_WARM_RUNS):
                model(np.zeros((height, width, 3), np.uint8))
        except BaseException:
            model.close()
            raise
        return model

    # The trial.

    def _judge(self, slot: str, trial: _Trial) -> None:
        fault = self._fault(trial)
        is_spared = self._node.care is not None
        if is_spared:
            # Slower, and perhaps a lighter model: neither says anything of the candidate.
            for meter in trial.meters:
                meter.begin()
        elif fault is None:
            fault = self._worse(trial)
        if fault is not None:
            self._undo(slot, trial, fault)
            return
        if self._is_void(trial):
            self._leave(slot, trial)
            return
        assert trial.begun_ns is not None
        is_over = (self._clock.monotonic_ns() - trial.begun_ns) / 1e9 >= trial.installed.trial_s
        names = [meter.pipeline.name for meter in trial.meters]
        if is_over and not is_spared and all(trial.judged[name] and not trial.strikes[name] for name in names):
            del self._trials[slot]
            self._store.commit(slot, f"did well for {trial.installed.trial_s:g} s")
            self._in_use[slot] = trial.installed.sha256
            for meter in trial.meters:
                meter.begin()

    def _fault(self, trial: _Trial, left: Sequence[Pipeline] = ()) -> str | None:
        for meter in trial.meters:
            pipeline, name = meter.pipeline, meter.pipeline.name
            error = pipeline.report().error
            before = trial.before.get(name)
            if error is not None and not isinstance(error, (SourceError, OutputError)):
                return f"pipeline {name} failed: {error}"
            if pipeline in left:
                return f"pipeline {name}: an inference hung until the end"
            if (hangs_s := self._hangs_s(pipeline, before)) is not None:
                return f"pipeline {name}: an inference hangs for {hangs_s:.0f} s"
            if lost := meter.measure().lost:
                return f"pipeline {name}: its device was lost {lost} times"
            expected = trial.devices.get(name)
            if expected is not None and pipeline.device != expected:
                return f"pipeline {name}: it fell from {expected} to {pipeline.device}"
        return None

    def _worse(self, trial: _Trial) -> str | None:
        """Where it did worse than the model before it in each of the last while."""
        for meter in trial.meters:
            name, now = meter.pipeline.name, meter.measure()
            if not is_enough(now):
                continue
            worse = fault_of(now, trial.before.get(name), trial.installed.p95_ms)
            is_pressed = worse is not None and is_excused(meter.others(), trial.others_before.get(name, 0.0))
            meter.begin()
            self._say_excused(trial, name, worse if is_pressed else None)
            trial.judged[name] += not is_pressed
            if worse is None or is_pressed:
                trial.strikes[name] = 0
                trial.worse_since_ns.pop(name, None)
                continue
            trial.strikes[name] += 1
            now_ns = self._clock.monotonic_ns()
            worse_s = (now_ns - trial.worse_since_ns.setdefault(name, now_ns)) / 1e9
            if trial.strikes[name] >= _STRIKES and worse_s >= _WORSE_S:
                return f"pipeline {name}: {worse}"
        return None

    def _say_excused(self, trial: _Trial, name: str, worse: str | None) -> None:
        if worse is None:
            trial.excused.discard(name)
        elif name not in trial.excused:
            trial.excused.add(name)
            log.info("pipeline %s: %s, but other programs take the cores: that says nothing of the model", name, worse)

    def _hangs_s(self, pipeline: Pipeline, before: Measure | None) -> float | None:
        work = pipeline.work()
        if work is None or not work.is_inference:
            return None
        for_s = (self._clock.monotonic_ns() - work.since_ns) / 1e9
        patience_s = max(_HANGS_S, 0.0 if before is None else before.p95_ms / 1e3 * _HANGS_TIMES)
        return for_s if for_s > patience_s else None

    def _undo(self, slot: str, trial: _Trial, fault: str) -> None:
        """In the store first: whatever happens next, the next start takes the former."""
        self._trials.pop(slot, None)
        self._store.roll_back(slot, fault)
        self._say_news(slot)
        self._bring_back(slot, trial.meters)

    def _bring_back(self, slot: str, meters: Sequence[Meter]) -> None:
        """Let the active model answer from the next frame on, in all of these pipelines that run."""
        running = [meter.pipeline for meter in meters if not meter.pipeline.wait(0)]
        if not running:
            return
        try:
            back = partial(self.word_of, slot)
            if not self._exchange(running, back(), {}, back=back):
                log.error("slot %s: a frame in work keeps its model; the next start has the active one", slot)
        except EdgeInferError as failed:
            log.error("slot %s: the active model cannot be opened: %s", slot, failed)
        for meter in meters:
            meter.begin()

    def _is_void(self, trial: _Trial) -> bool:
        """Whether a pipeline has ended, or was begun anew by a reload: then it no longer runs in all of them."""
        running = self._node.pipelines
        return any(meter.pipeline.wait(0) or meter.pipeline not in running for meter in trial.meters)

    def _leave(self, slot: str, trial: _Trial) -> None:
        """As if it had not been begun. Where it still answers, the active one comes back."""
        self._trials.pop(slot, None)
        self._close_shadow(trial)
        self._store.leave_trial(slot)
        if trial.begun_ns is not None:
            self._bring_back(slot, trial.meters)

    def _end_trial(self, slot: str, trial: _Trial, left: Sequence[Pipeline]) -> None:
        self._close_shadow(trial)
        fault = self._fault(trial, left) if trial.begun_ns is not None else None
        if fault is None:
            self._store.leave_trial(slot)
        else:
            self._store.roll_back(slot, fault)
        self._say_news(slot)

    # What is told.

    def _remember(self, slot: str) -> None:
        """What is in the history so far is old news."""
        if slot not in self._told:
            history = self._store.history(slot)
            self._told[slot] = history[-1] if history else None

    def _say_news(self, slot: str) -> None:
        with self._telling:
            history, last = self._store.history(slot), self._told.get(slot)
            news = history[history.index(last) + 1 :] if last in history else history
            if history:
                self._told[slot] = history[-1]
        for entry in news:
            why = "" if entry.why is None else f": {entry.why}"
            tell = log.error if entry.what in _LOUD else log.info
            tell("slot %s: %s, release %s, by %s%s", slot, entry.what, entry.release, entry.who, why)
            self._tell(slot, entry)

    def _state(self, slot: str, pipelines: Sequence[Pipeline]) -> SlotModel:
        known, trial = self._store.state(slot), self._trials.get(slot)
        running = next((each for each in pipelines if not each.wait(0)), None)
        is_shadow = trial is not None and trial.shadow is not None
        return SlotModel(
            slot=slot,
            state="shadow" if is_shadow else known.step,
            since=known.since or None,
            reason=known.reason,
            release=known.active,
            model=None if running is None else running.facts.model,
            previous=known.previous,
            candidate=known.candidate,
            attempts=known.attempts if known.candidate is not None else None,
            floor=known.floor,
            pipelines=tuple(each.name for each in pipelines),
            shadow=None if trial is None else trial.report,
        )


def _both(one: Callable[[Input, Answer], None], other: Callable[[Input, Answer], None]) -> Callable[..., None]:
    def look(frame: Input, answer: Answer) -> None:
        one(frame, answer)
        other(frame, answer)

    return look
