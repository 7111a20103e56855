"""`/metrics`: a node in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from edgeinfer.uplink.bodies import SlotModel, SlotStep
from edgeinfer.web.bodies import PipelineState, Trouble, UplinkState
from edgeinfer.web.histogram import BOUNDS_S, Distribution
from edgeinfer.web.observer import STAGES
from edgeinfer.web.state import Watch

_STATES = ("ok", "paused", "degraded", "down", "stopped", "failed")
_FRAMES = ("captured", "inferred", "gated", "published")
_INCIDENTS = ("source.lost", "source.reopened", "source.hung", "device.lost", "device.back")
_WHERE = ("written.sink.", "failed.sink.", "dropped.sink.", "dropped.max_age.sink.")


class Exposition:
    """What is told when asked. All names begin with `edgeinfer_`, but for the process's own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, watch: Watch) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_NodeCollector(watch))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def describe(self) -> Sequence[Metric]:
        """Nothing: asked for at registration, there is no node yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        state = self._watch.state()
        yield InfoMetricFamily(
            "edgeinfer",
            "The node, its version and its board",
            {"node": state.node, "version": state.version, "board": state.board.model},
        )
        yield GaugeMetricFamily("edgeinfer_uptime_seconds", "Since the process began", state.uptime_s)
        yield GaugeMetricFamily("edgeinfer_alive", "1 while no pipeline hangs", float(state.health.alive))
        yield GaugeMetricFamily("edgeinfer_ready", "1 once every pipeline works or says why not", state.health.ready)
        yield GaugeMetricFamily("edgeinfer_degraded_reasons", "How much is wrong", len(state.health.reasons))
        yield GaugeMetricFamily(
            "edgeinfer_slowed_down", "1 while the governor spares the board", state.care is not None
        )
        yield from _pipelines(state.pipelines, state.troubles)
        yield from self._durations(state.pipelines)
        yield from _models(state.models)
        if state.uplink is not None:
            yield from _uplink(state.uplink)
        yield _by_label(
            GaugeMetricFamily("edgeinfer_temperature_celsius", "Of the board", labels=["sensor"]),
            state.machine.temperatures_c,
        )

    def _durations(self, pipelines: Sequence[PipelineState]) -> Iterator[Metric]:
        for stage in STAGES:
            what = {"age": "Capture to result", "wait": "Capture until taken up, without preparing"}.get(
                stage, f"Of {stage}"
            )
            family = HistogramMetricFamily(f"edgeinfer_{stage}_seconds", what, labels=["pipeline"])
            for each in pipelines:
                observer = self._watch.observer(each.name)
                if observer is not None:
                    _add_distribution(family, each.name, observer.durations[stage].distribution())
            yield family


def _pipelines(pipelines: Sequence[PipelineState], troubles: Sequence[Trouble]) -> Iterator[Metric]:
    state = GaugeMetricFamily("edgeinfer_pipeline_state", "1 for the state it is in", labels=["pipeline", "state"])
    _add_states(state, {each.name: "failed" for each in troubles})
    _add_states(state, {each.name: _word_of(each) for each in pipelines})
    fps = GaugeMetricFamily("edgeinfer_fps", "Results a second, of late", labels=["pipeline"])
    since = GaugeMetricFamily("edgeinfer_last_result_age_seconds", "Since its frame was taken", labels=["pipeline"])
    model = InfoMetricFamily("edgeinfer_model", "What computes", labels=["pipeline"])
    device = GaugeMetricFamily("edgeinfer_device", "1 in use, 0 not, -1 lost", labels=["pipeline", "device"])
    score = GaugeMetricFamily("edgeinfer_score_min", "What scores below is left out", labels=["pipeline"])
    viewers = GaugeMetricFamily("edgeinfer_viewers", "Of the live picture", labels=["pipeline"])
    for each in pipelines:
        fps.add_metric([each.name], each.fps)
        if each.since_last_s is not None:
            since.add_metric([each.name], each.since_last_s)
        words = {"name": each.model.name, "version": each.model.version, "sha256": each.model.sha256}
        model.add_metric([each.name], {**words, "task": each.task})
        for name, word in each.ladder.items():
            device.add_metric([each.name, name], {"in use": 1.0, "ready": 0.0}.get(word, -1.0))
        score.add_metric([each.name], each.score_min)
        viewers.add_metric([each.name], each.viewers)
    yield from (state, fps, since, model, device, score, viewers)
    yield from _counts(pipelines)


def _word_of(pipeline: PipelineState) -> str:
    return "failed" if pipeline.error is not None else pipeline.state.partition(":")[0]


def _add_states(family: GaugeMetricFamily, present: Mapping[str, str]) -> None:
    for name, now in present.items():
        for word in _STATES:
            family.add_metric([name, word], float(word == now))


def _models(models: Sequence[SlotModel]) -> Iterator[Metric]:
    release = GaugeMetricFamily("edgeinfer_model_release", "The active one, 0 the factory's", labels=["slot"])
    candidate = GaugeMetricFamily("edgeinfer_model_candidate", "That waits, or is tried", labels=["slot"])
    state = GaugeMetricFamily("edgeinfer_model_state", "1 for the state its slot is in", labels=["slot", "state"])
    agreement = GaugeMetricFamily("edgeinfer_shadow_agreement", "With the active model, 0..1", labels=["slot"])
    for each in models:
        if each.release is not None:
            release.add_metric([each.slot], each.release)
        if each.candidate is not None:
            candidate.add_metric([each.slot], each.candidate)
        for word in get_args(SlotStep):
            state.add_metric([each.slot, word], float(word == each.state))
        if each.shadow is not None and each.shadow.agreement is not None:
            agreement.add_metric([each.slot], each.shadow.agreement)
    yield from (release, candidate, state, agreement)


def _counts(pipelines: Sequence[PipelineState]) -> Iterator[Metric]:
    frames = CounterMetricFamily("edgeinfer_frames", "Frames that came so far", labels=["pipeline", "stage"])
    dropped = CounterMetricFamily("edgeinfer_frames_dropped", "And came no further", labels=["pipeline", "reason"])
    incidents = CounterMetricFamily("edgeinfer_incidents", "Lost, back, hung", labels=["pipeline", "kind"])
    results = CounterMetricFamily("edgeinfer_results", "Of an output", labels=["pipeline", "sink", "outcome"])
    for each in pipelines:
        for stage in _FRAMES:
            frames.add_metric([each.name, stage], each.counts.get(stage, 0))
        for kind in _INCIDENTS:
            incidents.add_metric([each.name, kind.replace(".", "_")], each.counts.get(kind, 0))
        for name, count in each.counts.items():
            where = next((begin for begin in _WHERE if name.startswith(begin)), None)
            if where is not None:
                outcome = where.removesuffix(".sink.").replace(".", "_")
                results.add_metric([each.name, name.removeprefix(where), outcome], count)
            elif name.startswith("dropped."):
                dropped.add_metric([each.name, name.removeprefix("dropped.")], count)
    yield from (frames, dropped, incidents, results)


def _uplink(uplink: UplinkState) -> Iterator[Metric]:
    yield GaugeMetricFamily("edgeinfer_uplink_connected", "1 while the broker is there", float(uplink.is_connected))
    yield GaugeMetricFamily("edgeinfer_spool_messages", "That wait to be delivered", uplink.depth)
    yield GaugeMetricFamily("edgeinfer_spool_bytes", "Of the spool", uplink.bytes)
    yield GaugeMetricFamily("edgeinfer_spool_oldest_seconds", "Age of the oldest that waits", uplink.oldest_s)
    yield CounterMetricFamily("edgeinfer_uplink_accepted", "Messages", uplink.accepted)
    yield CounterMetricFamily("edgeinfer_uplink_delivered", "Messages", uplink.delivered)
    yield CounterMetricFamily("edgeinfer_uplink_reconnects", "After the first connection", uplink.reconnects)
    yield _by_label(CounterMetricFamily("edgeinfer_uplink_dropped", "Messages", labels=["reason"]), uplink.dropped)


def _by_label(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]
) -> GaugeMetricFamily | CounterMetricFamily:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def _add_distribution(family: HistogramMetricFamily, pipeline: str, distribution: Distribution) -> None:
    bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
    family.add_metric([pipeline], list(zip(bounds, distribution.cumulative, strict=True)), distribution.total_s)
