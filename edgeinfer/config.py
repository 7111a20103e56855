"""What to run, in the words of the command line: one or more pipelines, from flags or from TOML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeinfer.errors import ConfigError
from edgeinfer.geometry import wrong_polygon
from edgeinfer.quantity import parse_bytes, parse_share
from edgeinfer.tomlfile import Mean, Share, Std, read_toml

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z",
        max_length=64,
        description="of letters, digits, '.', '_' and '-', and begin with a letter or digit",
    ),
]
Slot = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z", description="small letters, digits and -, such as detector"),
]
Word = Annotated[str, Meta(pattern=r"^[^\x00]+\Z", max_length=4096, description="some text without NUL characters")]


Missing = Literal["hold", "linear", "nan-refuse"]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]

_BROKER = ("mqtt://", "mqtts://")
_SLOT = "slot:"


Point = tuple[Share, Share]

_IN_ZONES = ("enter", "leave", "dwell", "occupancy")
_OF_TRACKS = ("enter", "leave", "dwell", "occupancy", "cross")
_OF_RULE = {
    "zone": _IN_ZONES,
    "line": ("cross",),
    "direction": ("cross",),
    "classes": (*_OF_TRACKS, "label"),
    "score_min": (*_OF_TRACKS, "label"),
    "anchor": _OF_TRACKS,
    "for_s": ("dwell", "occupancy", "label", "anomaly", "value"),
    "at_least": ("occupancy",),
    "value": ("value",),
    "above": ("anomaly", "value"),
    "below": ("value",),
    "clear": ("label", "anomaly", "value"),
}


class RuleConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What is to be told of a scene; see docs/events.md.

    zone, line: points x, y in 0..1 of the picture; without a zone the whole picture is one. classes: all where none is
    named. score_min: what an object must have reached once, or a class must reach. anchor: which point of a box is
    where the object is. for_s: so long it must be so, to begin and to end. at_least: so many objects. value: the name
    of a number in the result. above, below: from where on it counts; clear: where that is over, the same where not
    said. cooldown_s: after an event, so long nothing new is told by this rule.
    """

    name: Name
    kind: Literal["enter", "leave", "cross", "dwell", "occupancy", "label", "anomaly", "value"]
    zone: Annotated[tuple[Point, ...], Meta(min_length=3, max_length=100)] | None = None
    line: Annotated[tuple[Point, ...], Meta(min_length=2, max_length=100)] | None = None
    direction: Literal["both", "left-to-right", "right-to-left"] | None = None
    classes: Annotated[tuple[Word, ...], Meta(max_length=1000)] | None = None
    score_min: Share | None = None
    anchor: Literal["foot", "centre"] | None = None
    for_s: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    at_least: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    value: Word | None = None
    above: Annotated[float, Meta(ge=-1e30, le=1e30)] | None = None
    below: Annotated[float, Meta(ge=-1e30, le=1e30)] | None = None
    clear: Annotated[float, Meta(ge=-1e30, le=1e30)] | None = None
    cooldown_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0

    @property
    def needs_tracks(self) -> bool:
        return self.kind in _OF_TRACKS

    def __post_init__(self) -> None:
        for key, kinds in _OF_RULE.items():
            if getattr(self, key) is not None and self.kind not in kinds:
                raise ValueError(f"rule {self.name!r}: {key} is not for a rule of kind {self.kind!r}")
        if self.kind == "cross" and self.line is None:
            raise ValueError(f"rule {self.name!r}: line is missing")
        if self.kind in ("dwell", "label") and (self.for_s is None or (self.kind == "label" and not self.classes)):
            raise ValueError(f"rule {self.name!r}: {'for_s' if self.for_s is None else 'classes'} is missing")
        if self.kind == "value" and (self.value is None or (self.above is None) == (self.below is None)):
            raise ValueError(f"rule {self.name!r}: give value, and one of above and below")
        wrong = None if self.zone is None else wrong_polygon(self.zone)
        if wrong is None and self.line is not None and any(map(tuple.__eq__, self.line, self.line[1:])):
            wrong = "two points after each other are the same"
        if wrong is not None:
            raise ValueError(f"rule {self.name!r}: {'line' if self.zone is None else 'zone'}: {wrong}")


class StageConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A model that looks at what the pipeline's own has detected; see docs/events.md.

    classes: of the detections that are shown to it, all where none is named; score_min: what they must have, 0..1.
    margin: by which share of its sides a box is widened on each side. crops_max: of one picture, the best first.
    labels, task, decoder, masks: of this model, as of the pipeline's.
    """

    model: Word
    name: Name
    device: Word = "auto"
    threads: Annotated[int, Meta(ge=1, le=256)] | None = None
    classes: Annotated[tuple[Word, ...], Meta(max_length=1000)] = ()
    score_min: Share = 0.0
    margin: Annotated[float, Meta(ge=0, le=1)] = 0.1
    crops_max: Annotated[int, Meta(ge=1, le=64)] = 8
    labels: Word | None = None
    task: Word | None = None
    decoder: Word | None = None
    masks: bool | None = None


class PipelineConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One pipeline; every name is the flag of `edgeinfer run` with - written as _.

    score_min, iou_max: 0..1. masks: those of a segmenting model, in each result. max_age: milliseconds. frames: stop
    after so many. width, height: pixels. fps: of the camera. rate: inferences per second at most. gate: leaves the
    model out while nothing changes; keyframe: seconds after which it runs anyway. profile: measure each stage. mean,
    std: real = (x - mean) / std. isolate: run a CPU, too, in a process that can be replaced. send: which results go
    to the broker of `[uplink]`; send_rate: so many a second at most; snapshot: seconds between two pictures to it, none
    where not said. lighter: models that stand in, one after the other, where a slower rate alone does not spare the
    board; see `[governor]`. shadow: such as "5%", the share of frames that a new model of the slot sees as well before
    it is tried. threshold: from which score on something is an anomaly. front_end, sample_rate (hertz), stride
    (samples): of a model of windows. track: give each object an id that it keeps; a rule that needs it turns it on.
    rule: what is to be told of the scene. blur: classes that no output may see. stages: further models, which look at
    what this one has detected.
    """

    model: Word
    source: Word
    name: Name = "main"
    device: Word = "auto"
    isolate: bool = False
    threads: Annotated[int, Meta(ge=1, le=256)] | None = None
    score_min: Share | None = None
    iou_max: Share | None = None
    max_results: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    labels: Word | None = None
    output: tuple[Word, ...] = ()
    frames: Annotated[int, Meta(ge=1)] | None = None
    max_age: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    rate: Annotated[float, Meta(ge=0.001, le=1000)] | None = None
    gate: Word | None = None
    keyframe: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    profile: bool = False
    lighter: Annotated[tuple[Word, ...], Meta(max_length=4)] = ()
    shadow: Word | None = None
    send: Literal["all", "changes", "events", "none"] = "all"
    send_rate: Annotated[float, Meta(ge=0.001, le=1000)] | None = None
    snapshot: Annotated[float, Meta(ge=0.1, le=86_400)] | None = None
    track: bool = False
    blur: Annotated[tuple[Word, ...], Meta(max_length=1000)] = ()
    stages: Annotated[tuple[StageConfig, ...], Meta(max_length=4)] = ()
    rule: Annotated[tuple[RuleConfig, ...], Meta(max_length=100)] = ()
    task: Word | None = None
    decoder: Word | None = None
    colour: Literal["rgb", "bgr", "gray"] | None = None
    fit: Literal["letterbox", "stretch", "crop"] | None = None
    layout: Literal["nhwc", "nchw"] | None = None
    output_is: Literal["probabilities", "logits"] | None = None
    masks: bool | None = None
    box_units: Literal["normalised", "pixels"] | None = None
    threshold: Annotated[float, Meta(ge=0.0, le=1e12)] | None = None
    front_end: Literal["mfcc", "filterbank", "log-mel", "none"] | None = None
    sample_rate: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    stride: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    mean: Mean | None = None
    std: Std | None = None
    width: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    height: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    missing: Missing | dict[Word, Missing] | None = None
    missing_s: Seconds | dict[Word, Seconds] | None = None
    late_s: Seconds | None = None
    pixel_format: (
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9 ]{4}\Z", description="four letters or digits, such as MJPG")] | None
    ) = None

    def __post_init__(self) -> None:
        if self.shadow is not None:
            parse_share(self.shadow)
        for what, names in (
            ("rules", [rule.name for rule in self.rule]),
            ("stages", [stage.name for stage in self.stages]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {what} are named {name!r}")


class UplinkConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Where results are sent, and how. Every name but `url` has a default that serves.

    url: `mqtt://host[:1883]` or `mqtts://host[:8883]`, with a user name before the host where the broker wants one.
    mode: what makes a result done: the broker's acknowledgement, or a consumer's. prefix: of every topic.
    ca, cert, key: PEM files; server_name: what the broker's certificate bears and SNI asks for, where it is not the
    host; alpn: protocols offered in TLS, for brokers on port 443. user_file, password_file: one line each; without
    them systemd's credentials `mqtt-user` and `mqtt-password`.
    spool_bytes, spool_age: how much and how old the spool may grow, such as "64MB" and "7d". commit_ms, commit_rows:
    results are accepted together after so long, or so many. max_writes: to the flash, such as "50MB/day".
    window: messages under way to the broker at once. keepalive: seconds. home_assistant: announce this node to it,
    under `discovery_prefix`. commands: which may be given over MQTT; none unless said.
    """

    url: Word
    mode: Literal["broker", "consumer"] = "broker"
    prefix: Annotated[str, Meta(pattern=r"^[^\x00/#+$][^\x00#+]*\Z", max_length=256)] = "edgeinfer/v1"
    client_id: Annotated[str, Meta(pattern=r"^[^\x00]+\Z", max_length=64)] | None = None
    ca: Word | None = None
    cert: Word | None = None
    key: Word | None = None
    server_name: Word | None = None
    alpn: tuple[Word, ...] = ()
    user_file: Word | None = None
    password_file: Word | None = None
    spool_bytes: Word = "64MB"
    spool_age: Word = "7d"
    commit_ms: Annotated[float, Meta(ge=1, le=60_000)] = 100.0
    commit_rows: Annotated[int, Meta(ge=1, le=10_000)] = 50
    max_writes: Word | None = None
    window: Annotated[int, Meta(ge=1, le=10_000)] = 200
    keepalive: Annotated[int, Meta(ge=2, le=3600)] = 30
    home_assistant: bool = False
    discovery_prefix: Annotated[str, Meta(pattern=r"^[^\x00/#+$][^\x00#+]*\Z", max_length=256)] = "homeassistant"
    commands: tuple[Literal["pause", "resume", "snapshot", "threshold", "reload"], ...] = ()


class UpdatesConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Where new releases of models come from.

    url: `https://…`, `mqtt://broker/REPOSITORY` or a folder; a broker is come to as `[uplink]` says, but for its URL.
    root: the publisher's root metadata, which the trust begins with. slots: which are kept up to date, all where
    empty. groups: those that this node belongs to. every: how often is asked, such as "1h".
    """

    url: Word
    root: Word | None = None
    slots: Annotated[tuple[Slot, ...], Meta(max_length=64)] = ()
    groups: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    every: Word = "1h"


class GovernorConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """When the pipelines are slowed to spare the board.

    limit_c: for every sensor, beside the limits that the kernel and the board's profile know. margin_c: so far below a
    limit something is done. load_max: threads that run or wait, per core. memory_max: the share of the time in which
    programs wait for memory, 0..1. rate_min: frames per second that no pipeline is slowed below.
    """

    enabled: bool = True
    limit_c: Annotated[float, Meta(ge=30, le=150)] | None = None
    margin_c: Annotated[float, Meta(ge=1, le=50)] = 5.0
    load_max: Annotated[float, Meta(ge=0.5, le=1000)] = 4.0
    memory_max: Annotated[float, Meta(ge=0.01, le=1)] = 0.2
    rate_min: Annotated[float, Meta(ge=0.01, le=1000)] = 1.0


class WebConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The page, `/healthz` and `/metrics`.

    listen: `host:port`; any address but a loopback one needs a token. token_file: one line; without it systemd's
    credential `web-token`. Who brings the token may act, too. fps: pictures a second of a pipeline, while somebody
    watches. hosts: further names under which the page is asked for without a token, such as a proxy's.
    """

    listen: Word = "127.0.0.1:8080"
    token_file: Word | None = None
    fps: Annotated[float, Meta(ge=1, le=60)] = 10.0
    hosts: Annotated[tuple[Word, ...], Meta(max_length=16)] = ()


class EventsConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Pictures and films of what rules tell, in files.

    max_bytes: how much the folder may hold, such as "200MB": the oldest go. before_s, after_s: of a film.
    """

    folder: Word
    max_bytes: Word = "200MB"
    before_s: Annotated[float, Meta(ge=0, le=60)] = 3.0
    after_s: Annotated[float, Meta(ge=0, le=60)] = 3.0

    def __post_init__(self) -> None:
        try:
            parse_bytes(self.max_bytes)
        except ValueError as wrong:
            raise ValueError(f"max_bytes: {wrong}") from wrong


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole configuration file."""

    pipeline: Annotated[tuple[PipelineConfig, ...], Meta(min_length=1, max_length=64)]
    node: Name | None = None
    uplink: UplinkConfig | None = None
    governor: GovernorConfig | None = None
    web: WebConfig | None = None
    updates: UpdatesConfig | None = None
    events: EventsConfig | None = None


def slot_of(model: str) -> str | None:
    """The slot of the model store that this word of a model names, as in `slot:detector`; None where it names none."""
    return model.removeprefix(_SLOT) if model.startswith(_SLOT) else None


def read_config(path: Path) -> Config:
    """The file at `path`. Raises ConfigError: one line with the path of the key and the nearest name."""
    config = read_toml(path, Config, ConfigError)
    names: set[str] = set()
    for index, pipeline in enumerate(config.pipeline):
        if pipeline.name in names:
            raise ConfigError(f"{path}: pipeline[{index}].name: {pipeline.name!r} is taken by an earlier pipeline")
        names.add(pipeline.name)
    clash = clash_of_outputs(config.pipeline)
    if clash is not None:
        raise ConfigError(f"{path}: {clash}")
    return config


def with_broker_of_outputs(config: Config) -> Config:
    """An output `mqtt://…` is another way to say where the uplink goes. Raises ConfigError where two are named."""
    urls = {word for pipeline in config.pipeline for word in pipeline.output if word.startswith(_BROKER)}
    if not urls:
        return config
    urls |= set() if config.uplink is None else {config.uplink.url}
    if len(urls) > 1:
        raise ConfigError(f"one broker can be sent to, and here are {len(urls)}: {', '.join(sorted(urls))}")
    pipelines = tuple(
        msgspec.structs.replace(
            each,
            output=tuple(word for word in each.output if word not in urls),
            send=each.send if urls.intersection(each.output) or config.uplink is not None else "none",
        )
        for each in config.pipeline
    )
    return msgspec.structs.replace(config, pipeline=pipelines, uplink=config.uplink or UplinkConfig(url=urls.pop()))


def with_governor(config: Config) -> Config:
    """The board is cared for, unless the file says otherwise."""
    return config if config.governor is not None else msgspec.structs.replace(config, governor=GovernorConfig())


def clash_of_outputs(pipelines: Sequence[PipelineConfig]) -> str | None:
    """What would be overwritten: a file that is written twice, or a source. None where all is well."""
    # A recording may be followed by what is said of it, as in log.csv?follow=1.
    words = [pipeline.source for pipeline in pipelines]
    sources = {os.path.realpath(path) for word in words for path in (word, word.rpartition("?")[0] or word)}
    taken: set[str] = set()
    for index, pipeline in enumerate(pipelines):
        places = ["-" if word == "-" else os.path.realpath(word) for word in pipeline.output]
        for position, (word, place) in enumerate(zip(pipeline.output, places, strict=True)):
            if place in taken or place in places[:position]:
                return f"pipeline[{index}].output: {word!r} is written to already"
            if place in sources:
                return f"pipeline[{index}].output: {word!r} is a source, and would be overwritten"
        taken.update(place for place in places if place != "-")  # Lines of several pipelines may share stdout.
    return None
