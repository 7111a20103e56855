"""The pipelines of one process, and what they share: devices, and the uplink."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from edgeinfer.board import Watch, recognise_board
from edgeinfer.clock import Clock
from edgeinfer.config import Config, GovernorConfig, PipelineConfig, slot_of, with_broker_of_outputs
from edgeinfer.delegates import Devices
from edgeinfer.errors import DeviceNotFound, EdgeInferError, ModelError, UsageError
from edgeinfer.model import Model
from edgeinfer.node.trials import Trials
from edgeinfer.pipeline import Pipeline
from edgeinfer.pipeline.assemble import open_model_of, open_pipeline
from edgeinfer.sinks import Sink
from edgeinfer.words import unknown

if TYPE_CHECKING:
    from edgeinfer.node.broadcast import Broadcast
    from edgeinfer.node.care import Care
    from edgeinfer.node.models import Models
    from edgeinfer.updates.store import Entry
    from edgeinfer.uplink.bodies import SlotModel
    from edgeinfer.uplink.uplink import Uplink

log = logging.getLogger(__name__)

__all__ = ["Node"]

_UPLINK_S = 5.0
_FRAME_WITHIN_S = 0.8


class Node:
    """Opens all that a configuration names, or nothing. `start`, `wait` until something happened, `close`.

    `sinks_for` gives sinks beside those that a pipeline's configuration names. `reread` gives the configuration anew
    where it can be: then a reload may be asked for, and is carried out by `reload`. A `patient` node takes a missing
    camera for a lost one, and opens what else it can: `troubles` has the rest, which `mend` tries again, as it does
    what ended with an error.

    Raises UsageError, ConfigError, ModelError, DeviceNotFound, SourceError, OutputError; of several pipelines it says
    which.
    """

    def __init__(
        self,
        config: Config,
        *,
        sinks_for: Callable[[PipelineConfig], Iterable[Sink]] = lambda config: (),
        reread: Callable[[], Config] | None = None,
        patient: bool = False,
        clock: Clock | None = None,
    ) -> None:
        config = with_broker_of_outputs(config)
        self.name = config.node or socket.gethostname()
        self._config = config
        self._sinks_for = sinks_for
        self._reread = reread
        self._clock = clock or Clock()
        self._is_patient = patient
        self._trials = Trials(self._clock)
        self._devices = Devices()
        self._happened = threading.Event()
        self._wanted: Config | None = None
        self._models: Models | None = None
        self._is_started = False
        self._left: Sequence[Pipeline] = ()
        self._pipelines: dict[str, Pipeline] = {}
        self._broadcast: Broadcast | None = None
        if config.uplink is not None:
            # Whoever sends nothing loads no MQTT client and no database.
            from edgeinfer.node.broadcast import Broadcast

            self._broadcast = Broadcast(config.uplink, self.name, self, clock=self._clock)
        self._care = self._open_care(config.governor)
        with ExitStack() as opened:
            opened.callback(self.close)
            self._open_all()
            opened.pop_all()

    @property
    def pipelines(self) -> Sequence[Pipeline]:
        """In the order of the configuration; one that has ended stays until a reload."""
        return tuple(self._pipelines.values())

    @property
    def uplink(self) -> Uplink | None:
        """To ask how it is; None where nothing is sent."""
        return None if self._broadcast is None else self._broadcast.uplink

    @property
    def care(self) -> str | None:
        """Why the pipelines are slowed down to spare the board; None where they are not."""
        return None if self._care is None else self._care.state

    @property
    def troubles(self) -> Mapping[str, str]:
        """Why pipelines of a patient node do not run, by their names."""
        return self._trials.reasons

    @property
    def models(self) -> Sequence[SlotModel]:
        """Where the slots stand that its pipelines name."""
        return () if self._models is None else self._models.states

    def start(self) -> None:
        self._is_started = True
        for pipeline in self._pipelines.values():
            pipeline.start()
            self._trials.begin(pipeline.name)
        if self._broadcast is not None:
            self._broadcast.start()
        if self._care is not None:
            self._care.start()
        if self._models is not None:
            self._models.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until a pipeline has ended or a reload is asked for; whether it was so, within that time."""
        happened = self._happened.wait(timeout_s)
        self._happened.clear()
        return happened

    def stop(self) -> None:
        """End all pipelines soon; see Pipeline."""
        for pipeline in self._pipelines.values():
            pipeline.stop()

    def end(self) -> Sequence[Pipeline]:
        """End all pipelines within some seconds; those are given whose frame in work took too long, and is left."""
        self.stop()
        deadline_s = time.monotonic() + _FRAME_WITHIN_S
        left = []
        for pipeline in self.pipelines:
            if not pipeline.wait(max(0.0, deadline_s - time.monotonic())):
                pipeline.leave_frame()
                log.warning("pipeline %s: the frame in work took too long and is left", pipeline.name)
                left.append(pipeline)
        self._left = left
        return left

    def close(self) -> None:
        """End everything. What the uplink has not sent by then stays in its spool."""
        with ExitStack() as all_of_it:  # Whatever one of them raises, the others are closed.
            if self._broadcast is not None:
                all_of_it.callback(self.close_uplink)  # Last: it takes what the pipelines still give.
            for pipeline in self._pipelines.values():
                all_of_it.callback(pipeline.close)
            if self._care is not None:
                all_of_it.callback(self._care.close)
            if self._models is not None:
                all_of_it.callback(self._models.close, self._left)

    def close_uplink(self) -> None:
        """Accept what there is, and send what can be sent within some seconds. Governor and updates end here, too."""
        if self._models is not None:
            self._models.close(self._left)
        if self._care is not None:
            self._care.close()
        if self._broadcast is not None:
            self._broadcast.close(_UPLINK_S)

    # What can be commanded; see Controls. By any thread.

    def pause(self, pipeline: str | None) -> None:
        for each in self._chosen(pipeline):
            each.pause()

    def resume(self, pipeline: str | None) -> None:
        for each in self._chosen(pipeline):
            each.resume()

    def snapshot(self, pipeline: str | None) -> None:
        names = [each.name for each in self._chosen(pipeline)]
        if self._broadcast is not None:
            self._broadcast.ask_for_snapshots(names)

    def set_score_min(self, pipeline: str, score_min: float) -> None:
        for each in self._chosen(pipeline):
            each.set_score_min(score_min)

    # What the governor asks for; see Spared.

    def lighter(self, pipeline: str) -> Sequence[str]:
        return () if (config := self.config_of(pipeline)) is None else config.lighter

    def change_model(self, pipeline: str, number: int) -> None:
        config, (running,) = self.config_of(pipeline), self._chosen(pipeline)
        if config is None:
            return  # A reload has just taken it away.
        word = (config.model, *config.lighter)[number]
        slot = slot_of(word)
        if slot is not None and self._models is not None:
            word = self._models.word_in_use(slot)
        running.exchange(self.open_model(pipeline, word))

    # What updates need; see Exchanged.

    def open_model(self, pipeline: str, word: str) -> Model:
        config, (running,) = self.config_of(pipeline), self._chosen(pipeline)
        if config is None:
            raise UsageError(f"pipeline {pipeline} is wanted no more")
        return open_model_of(
            config, word, live=running.is_live, node=self.name, clock=self._clock, devices=self._devices
        )

    def config_of(self, pipeline: str) -> PipelineConfig | None:
        return next((each for each in self._config.pipeline if each.name == pipeline), None)

    def reload(self) -> None:
        """Read the configuration anew; what it changes is changed by whoever waits, soon. Raises ConfigError."""
        if self._reread is None:
            raise UsageError("there is no configuration file to read again", hint="start with --config FILE")
        wanted = with_broker_of_outputs(self._reread())
        if _read_once(wanted) != _read_once(self._config):
            raise UsageError(
                "[uplink], [governor], [web], [events] and node are read at the start only", hint="start edgeinfer anew"
            )
        self._wanted = wanted
        self._happened.set()

    def apply_reload(self) -> Sequence[Pipeline]:
        """Carry out the last reload that was asked for: only what it changes ends, and begins anew.

        The pipelines that ended are given. Where one cannot be opened as it is wanted now, that is said, and it goes
        on as it was.
        """
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return ()
        former = {each.name: each for each in self._config.pipeline}
        names = {each.name for each in wanted.pipeline}
        ended = [self._end(name) for name in [*self._pipelines] if name not in names]
        for name in [name for name in self._trials.reasons if name not in names]:
            self._trials.forget(name)
        running = []
        for each in wanted.pipeline:
            if former.get(each.name) == each:
                running.append(each)
                continue
            if each.name in self._pipelines:
                ended.append(self._end(each.name))
            running += [] if (begun := self._begin(each, former.get(each.name))) is None else [begun]
        self._config = msgspec.structs.replace(self._config, pipeline=tuple(running))
        self._pipelines = {each.name: self._pipelines[each.name] for each in running if each.name in self._pipelines}
        log.info("the configuration was read again")
        return ended

    def mend(self) -> None:
        """Try again what does not run, where it is due. Of a patient node, by whoever waits."""
        for pipeline in self.pipelines:
            ended_with = pipeline.report().error if pipeline.wait(0) else None
            failed = self.config_of(pipeline.name)
            if ended_with is not None and failed is not None:
                self._fail(failed, ended_with)
                self._end(pipeline.name)
        for config in self._trials.due:
            try:
                self._launch(config)
            except EdgeInferError as error:
                self._fail(config, error)

    def _fail(self, config: PipelineConfig, error: EdgeInferError) -> None:
        self._trials.fail(config, error)
        slot = slot_of(config.model)
        if self._models is not None and slot is not None and isinstance(error, (ModelError, DeviceNotFound)):
            self._models.fails(slot)

    def _open_all(self) -> None:
        refused: list[tuple[PipelineConfig, EdgeInferError]] = []
        for each in self._config.pipeline:
            try:
                self._pipelines[each.name] = self._open(each)
            except EdgeInferError as error:
                refused.append((each, error))
                if not self._is_patient:
                    break
        # With nothing at all to run there is nothing to wait for, either.
        if refused and not (self._is_patient and self._pipelines):
            config, reason = refused[0]
            if len(self._config.pipeline) > 1:
                reason.message = f"pipeline {config.name}: {reason.message}"
            raise reason
        for config, reason in refused:
            self._fail(config, reason)

    def _begin(self, config: PipelineConfig, former: PipelineConfig | None) -> PipelineConfig | None:
        """Open and start a pipeline, else as it was; what runs now, or is tried again."""
        self._trials.forget(config.name)
        wanted = [config] if former is None else [config, former]
        for each in wanted:
            try:
                self._launch(each)
            except EdgeInferError as error:
                if self._is_patient and each is wanted[-1]:
                    self._trials.fail(each, error)
                    return each
                log.error("pipeline %s cannot be opened: %s", each.name, error.message)
                continue
            return each
        return None

    def _launch(self, config: PipelineConfig) -> None:
        pipeline = self._open(config)
        self._pipelines[config.name] = pipeline
        pipeline.start()
        self._trials.begin(config.name)

    def _end(self, name: str) -> Pipeline:
        pipeline = self._pipelines.pop(name)
        pipeline.close()
        return pipeline

    def _open(self, config: PipelineConfig) -> Pipeline:
        more: list[Sink] = [] if self._broadcast is None else [self._broadcast.sink_for(config)]
        if self._config.events is not None and config.rule:
            from edgeinfer.scene.files import EventFiles  # Loads OpenCV.

            more.append(EventFiles(self._config.events))
        return open_pipeline(
            config,
            keeps_events=self._config.events is not None,
            node=self.name,
            sinks=[*self._sinks_for(config), *more],
            clock=self._clock,
            devices=self._devices,
            on_done=self._happened.set,
            patient=self._is_patient,
            model=self._word(config.model),
        )

    def _word(self, word: str) -> str:
        """What a slot holds now; any other word as it is."""
        slot = slot_of(word)
        if slot is None:
            return word
        if self._models is None:
            self._models = self._open_models()
        return self._models.word_of(slot)

    def _open_models(self) -> Models:
        from edgeinfer.node.models import Models
        from edgeinfer.updates.store import open_store

        models = Models(open_store(clock=self._clock), self, tell=self._tell_step, clock=self._clock)
        if self._is_started:
            models.start()
        return models

    def _tell_step(self, slot: str, entry: Entry) -> None:
        if self._broadcast is not None:
            names = [each.name for each in self._config.pipeline if slot_of(each.model) == slot]
            self._broadcast.tell_step(slot, entry, names)

    def _open_care(self, config: GovernorConfig | None) -> Care | None:
        if config is None or not config.enabled:
            return None
        from edgeinfer.node.care import Care

        watch = Watch(recognise_board(), limit_c=config.limit_c)
        return Care(config, watch.look, self, clock=self._clock)

    def _chosen(self, name: str | None) -> Sequence[Pipeline]:
        if name is None:
            return self.pipelines
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            raise UsageError(unknown("pipeline", name, self._pipelines))
        return (pipeline,)


def _read_once(config: Config) -> tuple[object, ...]:
    """What no reload changes."""
    return (config.uplink, config.governor, config.web, config.events, config.node)
