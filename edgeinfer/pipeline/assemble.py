"""From the words of a configuration to a pipeline that is ready to start."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from edgeinfer.bundle import Bundle, Overrides, load_bundle
from edgeinfer.clock import Clock
from edgeinfer.config import PipelineConfig, clash_of_outputs
from edgeinfer.delegates import Devices
from edgeinfer.errors import ConfigError, ModelError, OutputError, SourceError, UsageError
from edgeinfer.model import Identity, Model, format_for, open_model
from edgeinfer.pipeline import Limits, Pipeline
from edgeinfer.pipeline.cascade import Cascade, Stage
from edgeinfer.pipeline.gate import GATES, KEYFRAME_S, Gate
from edgeinfer.pipeline.profile import Profile
from edgeinfer.result import IdMaker
from edgeinfer.scene.scene import Scene
from edgeinfer.scene.tracker import SCORE_FLOOR
from edgeinfer.sinks import Sink, SinkOptions, open_sink, sink_name
from edgeinfer.sources import SampleSource, Source, SourceOptions, open_any
from edgeinfer.sources.absent import AbsentSource, absent_source
from edgeinfer.sources.account import Account
from edgeinfer.sources.windows import Evenness, Windows
from edgeinfer.words import unknown

# The tasks whose classes have boxes.
_BOXING = frozenset({"detect", "pose"})


def open_pipeline(
    config: PipelineConfig,
    *,
    node: str | None = None,
    sinks: Iterable[Sink] = (),
    clock: Clock | None = None,
    devices: Devices | None = None,
    on_done: Callable[[], None] | None = None,
    patient: bool = False,
    model: str | None = None,
    keeps_events: bool = False,
) -> Pipeline:
    """Open the source, the model and then the outputs that the words name; on an error what is open is closed again.

    An output that exists is begun anew, once everything before it is open; that of a `patient` pipeline, whose runs
    follow each other, goes on where it can. `sinks` are added to those of the configuration; `node` is this machine's
    name unless said otherwise; of pipelines that are opened with the same `devices` those with the same model on the
    same device share it; `on_done` is called when it has ended. A `patient` one takes a camera or stream that cannot be
    opened for one that is lost, and begins as soon as it is there. `model` stands for the word of the configuration.
    Raises UsageError, ModelError, DeviceNotFound, SourceError, OutputError.
    """
    clock = clock or Clock()
    # A misspelt output is said before a model is loaded, and nothing is overwritten unasked.
    for word in config.output:
        sink_name(word)
    clash = clash_of_outputs([config])
    if clash is not None:
        raise OutputError(clash.partition(".")[2])
    gate = _gate(config)
    options = _source_options(config)

    account = Account()

    def open_() -> Source | SampleSource:
        return open_any(config.source, options, clock=clock)

    with ExitStack() as opened:
        raw = _patiently(open_, config.source) if patient else open_()
        opened.callback(raw.close)
        usual = open_model_of(config, model or config.model, live=raw.live, node=node, clock=clock, devices=devices)
        opened.callback(usual.close)

        def fitted(source: Source | SampleSource) -> Source:
            return _fitted(source, usual.bundle, config, account, clock)

        source = fitted(raw)
        _check_lighter(config, usual.bundle)
        _check_outputs(config, usual.bundle)
        # There are no pictures of what is heard.
        kept = keeps_events and usual.bundle.window is None
        cascade, within = _cascade(config, usual.bundle, opened, live=raw.live, clock=clock, devices=devices)
        scene = _scene(config, usual.bundle, clock, kept=kept, within=within)
        sink_options = SinkOptions(fps=source.fps, live=source.live, append=patient)
        outputs = list(sinks)
        for word in config.output:
            outputs.append(open_sink(word, sink_options))
            opened.callback(outputs[-1].close)
        wants_all = usual.bundle.window is not None or cascade is not None or any(each.wants_pixels for each in outputs)
        needed = None if wants_all else usual.picture_size
        pipeline = Pipeline(
            usual,
            _sufficing(source, needed),
            outputs,
            name=config.name,
            reopen=lambda: _sufficing(fitted(open_()), needed),
            limits=Limits(
                frames=config.frames,
                max_age_ms=config.max_age,
                rate_fps=config.rate,
                keyframe_s=KEYFRAME_S if config.keyframe is None else config.keyframe,
                patient=patient,
            ),
            gate=gate,
            cascade=cascade,
            scene=scene,
            profile=Profile(clock) if config.profile else None,
            on_done=on_done,
            clock=clock,
        )
        opened.pop_all()
        return pipeline


def _check_outputs(config: PipelineConfig, bundle: Bundle) -> None:
    """Raises UsageError where something is to be drawn or compared that is no picture."""
    if bundle.window is None:
        return
    for word in config.output:
        if sink_name(word) == "video":
            raise UsageError(
                f"output {word} draws on pictures, and {bundle.name} takes samples", hint="give a .jsonl or .csv file"
            )
    if config.gate is not None:
        raise UsageError(f"gate {config.gate} compares pictures, and {bundle.name} takes samples")


def open_fitted(config: PipelineConfig, bundle: Bundle) -> Source:
    """The source of that configuration, as the model takes it: pictures or windows. Raises SourceError, UsageError."""
    clock = Clock()
    return _fitted(open_any(config.source, clock=clock), bundle, config, Account(), clock)


def open_model_of(
    config: PipelineConfig,
    word: str,
    *,
    live: bool,
    node: str | None = None,
    clock: Clock | None = None,
    devices: Devices | None = None,
) -> Model:
    """The model, or one of the lighter ones, as that pipeline wants it; see `open_pipeline`. live: of its source."""
    return open_model(
        word,
        device=config.device,
        threads=config.threads,
        paced=live,
        isolate=config.isolate,
        overrides=overrides_of(config),
        identity=Identity(node or socket.gethostname(), config.name),
        score_floor=SCORE_FLOOR if _follows(config) else None,
        clock=clock,
        devices=devices,
    )


def _check_lighter(config: PipelineConfig, usual: Bundle) -> None:
    """Who reads the results shall find the same things in them, whichever model they are from."""
    for word in config.lighter:
        bundle = load_bundle(word, overrides_of(config), prefer=format_for(config.device))
        if (bundle.task, bundle.labels) != (usual.task, usual.labels):
            differs = "labels are not the same" if bundle.task == usual.task else f"task is {bundle.task}"
            raise ModelError(f"lighter: {word} cannot stand in for {config.model}: its {differs}")


def _follows(config: PipelineConfig) -> bool:
    return config.track or bool(config.blur) or any(rule.needs_tracks for rule in config.rule)


def _cascade(
    config: PipelineConfig,
    bundle: Bundle,
    opened: ExitStack,
    *,
    live: bool,
    clock: Clock,
    devices: Devices | None,
) -> tuple[Cascade | None, frozenset[str]]:
    """The further models, and the classes that they may box. Raises what `open_model` raises, ConfigError."""
    if not config.stages:
        return None, frozenset()
    if bundle.task != "detect":
        raise ConfigError(f"pipeline {config.name}: stages look at what is detected, and {bundle.name} does not detect")
    stages: list[Stage] = []
    for index, each in enumerate(config.stages):
        for word in each.classes:
            if bundle.labels and word not in bundle.labels:
                key = f"stages[{index}].classes"
                raise ConfigError(f"pipeline {config.name}: {key}: {unknown('class', word, bundle.labels)}")
        model = open_model(
            each.model,
            device=each.device,
            threads=each.threads,
            paced=live,
            overrides=Overrides(
                task=each.task,
                decoder=each.decoder,
                labels=Path(each.labels) if each.labels else None,
                masks=each.masks,
            ),
            clock=clock,
            devices=devices,
        )
        opened.callback(model.close)
        if model.bundle.window is not None:
            raise ConfigError(f"pipeline {config.name}: stages[{index}].model: {each.model} takes samples")
        classes = frozenset(each.classes)
        stages.append(Stage(each.name, model, classes, each.score_min, each.margin, each.crops_max))
    boxing = (stage.model for stage in stages if stage.model.bundle.task in _BOXING)
    return Cascade(stages), frozenset(label for model in boxing for label in model.labels)


def _scene(config: PipelineConfig, bundle: Bundle, clock: Clock, *, kept: bool, within: frozenset[str]) -> Scene | None:
    """What follows objects and applies rules, where that is asked for. Raises ConfigError, UsageError.

    within: classes that the stages of a cascade may box, which can be blurred as well.
    """
    if _follows(config) and bundle.task != "detect":
        raise UsageError(
            f"objects are followed where a model detects them, and {config.model} is of task {bundle.task}"
        )
    named = [(f"rule[{index}].classes", rule.classes or ()) for index, rule in enumerate(config.rule)]
    for key, words in [*named, ("blur", config.blur)]:
        for word in words:
            known = (*bundle.labels, *(sorted(within) if key == "blur" else ()))
            if bundle.labels and word not in known:
                raise ConfigError(f"pipeline {config.name}: {key}: {unknown('class', word, known)}")
    if not (_follows(config) or config.rule):
        return None
    return Scene(config.rule, track=_follows(config), new_id=IdMaker(clock.unix_ns), blur=config.blur, kept=kept)


def _fitted(
    source: Source | SampleSource, bundle: Bundle, config: PipelineConfig, account: Account, clock: Clock
) -> Source:
    """What the model takes: pictures as they come, or windows of samples. Raises UsageError where it takes the other,
    and for what is said of the other."""
    if isinstance(source, AbsentSource):
        return source
    if not isinstance(source, SampleSource):
        if bundle.window is not None:
            source.close()
            said = f"{bundle.name} takes samples, and {config.source!r} gives pictures"
            raise UsageError(said, hint="a sensor is serial:///dev/ttyUSB0, a microphone mic://, a recording log.csv")
        for name in ("missing", "missing_s", "late_s"):
            if getattr(config, name) is not None:
                raise UsageError(f"{name} is for samples, and {config.source!r} gives pictures")
        return source
    if bundle.window is None:
        source.close()
        said = f"{bundle.name} takes pictures, and {config.source!r} gives samples"
        raise UsageError(said, hint="a camera is /dev/video0, a stream rtsp://…")
    if config.gate is not None:
        raise UsageError(f"gate is for pictures, and {config.source!r} gives samples")
    evenness = Evenness(config.missing, config.missing_s, config.late_s)
    try:
        return Windows(source, bundle.window, evenness=evenness, account=account, clock=clock)
    except SourceError:
        source.close()
        raise


def _patiently(open_: Callable[[], Source | SampleSource], word: str) -> Source | SampleSource:
    try:
        return open_()
    except SourceError as error:
        return absent_source(word, error)


def _sufficing(source: Source, needed: tuple[int, int] | None) -> Source:
    """The source, told that pictures of that size are enough, where it wants to know."""
    suffice = getattr(source, "suffice", None)
    if suffice is not None and needed is not None:
        suffice(*needed)
    return source


def _gate(config: PipelineConfig) -> Gate | None:
    if config.gate is not None:
        return GATES.get(config.gate)()
    if config.keyframe is not None:
        raise UsageError("keyframe is for a gate, and none is asked for", hint="--gate motion")
    return None


def _source_options(config: PipelineConfig) -> SourceOptions:
    return SourceOptions(width=config.width, height=config.height, fps=config.fps, pixel_format=config.pixel_format)


def overrides_of(config: PipelineConfig) -> Overrides:
    """What the configuration says over the facts of the model itself."""
    return Overrides(
        task=config.task,
        decoder=config.decoder,
        labels=Path(config.labels) if config.labels else None,
        colour=config.colour,
        mean=config.mean,
        std=config.std,
        fit=config.fit,
        score_min=config.score_min,
        iou_max=config.iou_max,
        max_results=config.max_results,
        box_units=config.box_units,
        layout=config.layout,
        output_is=config.output_is,
        masks=config.masks,
        threshold=config.threshold,
        front_end=config.front_end,
        sample_rate_hz=config.sample_rate,
        stride=config.stride,
    )
