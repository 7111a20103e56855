"""What to run, in the words of the command line: one or more pipelines, from flags or from TOML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeinfer.errors import ConfigError
from edgeinfer.tomlfile import Mean, Share, Std, one_or_three, read_toml

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z",
        max_length=64,
        description="of letters, digits, '.', '_' and '-', and begin with a letter or digit",
    ),
]
Word = Annotated[str, Meta(pattern=r"^[^\x00]+\Z", max_length=4096, description="some text without NUL characters")]


Missing = Literal["hold", "linear", "nan-refuse"]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]

_BROKER = ("mqtt://", "mqtts://")


class PipelineConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One pipeline; every name is the flag of `edgeinfer run` with - written as _.

    score_min, iou_max: 0..1. max_age: milliseconds. frames: stop after so many. width, height: pixels. fps: of the
    camera. rate: inferences per second at most. gate: leaves the model out while nothing changes; keyframe: seconds
    after which it runs anyway. profile: measure each stage. mean, std: real = (pixel - mean) / std. isolate: run a CPU,
    too, in a process that can be replaced. send: which results go to the broker of `[uplink]`; send_rate: so many a
    second at most; snapshot: seconds between two pictures to it, none where not said. lighter: models that stand in,
    one after the other, where a slower rate alone does not spare the board; see `[governor]`.
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
    send: Literal["all", "changes", "events", "none"] = "all"
    send_rate: Annotated[float, Meta(ge=0.001, le=1000)] | None = None
    snapshot: Annotated[float, Meta(ge=0.1, le=86_400)] | None = None
    task: Word | None = None
    decoder: Word | None = None
    colour: Literal["rgb", "bgr", "gray"] | None = None
    fit: Literal["letterbox", "stretch", "crop"] | None = None
    layout: Literal["nhwc", "nchw"] | None = None
    output_is: Literal["probabilities", "logits"] | None = None
    box_units: Literal["normalised", "pixels"] | None = None
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
        one_or_three(self, "mean", "std")


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


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole configuration file."""

    pipeline: Annotated[tuple[PipelineConfig, ...], Meta(min_length=1, max_length=64)]
    node: Name | None = None
    uplink: UplinkConfig | None = None
    governor: GovernorConfig | None = None
    web: WebConfig | None = None


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
