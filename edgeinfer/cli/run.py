"""`edgeinfer run`: the main job."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeinfer.cli.arguments import (
    add_model_arguments,
    add_mqtt_arguments,
    flag_of,
    for_channels,
    mqtt_flag_of,
    number,
    stated_flags,
    stated_mqtt_flags,
    web_flag_of,
    whole,
)
from edgeinfer.cli.page import node_with, page_of
from edgeinfer.cli.terminal import LiveLine, closing_line, configure_logging, profile_table
from edgeinfer.cli.threads import watch_threads
from edgeinfer.config import (
    Config,
    PipelineConfig,
    UplinkConfig,
    WebConfig,
    read_config,
    with_broker_of_outputs,
    with_governor,
)
from edgeinfer.errors import UsageError
from edgeinfer.node import Node
from edgeinfer.pipeline import Pipeline
from edgeinfer.tomlfile import convert

if TYPE_CHECKING:
    from edgeinfer.web.web import Web

log = logging.getLogger(__name__)

_DRAW_EVERY_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXIT_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="M", help="a .tflite or .onnx file, a bundle folder, the name of a bundle, or slot:NAME")
    add(
        "--source",
        metavar="S",
        help="/dev/video0, camera://0, rtsp://…, a video, image, folder or glob, synthetic://…; of samples"
        " serial:///dev/ttyUSB0, mic://, a .wav, .csv or .jsonl, sqlite://…, mqtt://…/topic, - (lines on stdin)",
    )
    add("--device", metavar="D", help="auto (default), cpu, gpu, edgetpu, npu, or one that 'edgeinfer devices' names")
    add("--threads", metavar="N", type=whole, help="threads of the runtime")
    add("--isolate", action="store_true", default=None, help="run a CPU too in a process that can be replaced")
    add("--score-min", metavar="X", type=number, help="leave out what scores below, 0..1")
    add("--labels", metavar="FILE", help="names of the classes, one a line")
    add("--masks", action="store_true", default=None, help="of a segmenting model: its masks too, also drawn")
    add(
        "--output",
        "-o",
        metavar="O",
        action="append",
        help="- (JSON lines), file.jsonl, file.csv, file.mp4; repeatable",
    )
    add("--mqtt", metavar="URL", help="send results to this broker: mqtt://host[:1883] or mqtts://host[:8883]")
    add("--send", metavar="W", help="which results go to the broker: all (default), changes, events, none")
    add("--send-rate", metavar="N", type=number, help="of these so many a second at most")
    add("--snapshot", metavar="S", type=number, help="and a picture every so many seconds")
    add("--web", metavar="HOST:PORT", help="a page with live pictures, /healthz and /metrics; 8080 is 127.0.0.1:8080")
    add("--web-token-file", metavar="FILE", help="who brings its line may act, and look in from another machine")
    add("--frames", metavar="N", type=whole, help="stop after so many frames, or windows of samples")
    add("--config", metavar="FILE", type=Path, help="pipelines in TOML, in the same words; flags go over it")
    add("--rate", metavar="FPS", type=number, help="infer so many frames a second at most, of a file by its own time")
    add("--gate", metavar="G", help="motion: leave the model out while nothing moves; such results are marked reused")
    add(
        "--keyframe",
        metavar="S",
        type=number,
        help="with --gate: run the model after so many seconds anyway (2)",
    )
    add("--shadow", metavar="5%%", help="of a slot: a new model sees that share of the frames before it is tried")
    add("--track", action="store_true", default=None, help="give each object an id that it keeps from frame to frame")
    add("--max-age", metavar="MS", type=number, help="of a camera or stream, drop what is older; a file has no age")
    add("--governor", action="store_true", help="slow down before the board gets too hot, or is too busy")
    add("--profile", action="store_true", default=None, help="at the end, a table of where the time went, on stderr")
    add("--quiet", action="store_true", help="no live line, no closing line, only warnings")
    add_model_arguments(parser)
    add_mqtt_arguments(parser)
    sensor = parser.add_argument_group("samples of a sensor")
    sensor.add_argument(
        "--missing",
        metavar="HOW",
        type=for_channels(str),
        help="where one is missing: hold, linear or nan-refuse, or for each channel: temp=hold,vib=linear",
    )
    sensor.add_argument(
        "--missing-s",
        metavar="S",
        type=for_channels(number),
        help="for so many seconds at most, or for each channel: temp=60,vib=0.1",
    )
    sensor.add_argument("--late-s", metavar="S", type=number, help="how far behind the newest one may come")
    camera = parser.add_argument_group("what a camera is asked for")
    camera.add_argument("--width", metavar="PX", type=whole, help="of the picture")
    camera.add_argument("--height", metavar="PX", type=whole, help="of the picture")
    camera.add_argument("--fps", metavar="X", type=number, help="pictures per second")
    camera.add_argument("--pixel-format", metavar="FOURCC", help="such as MJPG or YUYV")


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=arguments.quiet, debug=arguments.debug)
    try:
        Path.cwd()
    except OSError as gone:
        raise UsageError("the current folder is gone", hint="cd to one that is there") from gone
    is_one_left = watch_threads()
    reread = None if arguments.config is None else partial(_configuration, arguments)
    with page_of(config := _configuration(arguments)) as page:
        run = _Run(node_with(page)(config, reread=reread), page, quiet=arguments.quiet)
        try:
            run.start()
            run.wait()
        except KeyboardInterrupt:
            run.interrupt()
    if is_one_left():
        _leave(run.exit_code)
    return run.exit_code


def _configuration(arguments: argparse.Namespace) -> Config:
    flags = stated_flags(arguments)
    if arguments.config is None:
        for needed in ("model", "source"):
            if needed not in flags:
                raise UsageError(f"--{needed} is missing", hint="edgeinfer run --help")
        config = Config(pipeline=(convert(flags, PipelineConfig, UsageError, name=flag_of),))
    else:
        config = read_config(arguments.config)
        if len(config.pipeline) > 1 and flags.keys() & {"model", "source", "output"}:
            raise UsageError("--model, --source and --output do not go with a --config of several pipelines")
        config = msgspec.structs.replace(config, pipeline=tuple(_overlay(each, flags) for each in config.pipeline))
    config = with_broker_of_outputs(_with_web(_with_uplink(config, arguments), arguments))
    if arguments.governor:
        config = with_governor(config)
    if config.uplink is not None or config.web is not None:
        return config  # That is an output.
    return msgspec.structs.replace(config, pipeline=tuple(map(_with_output, config.pipeline)))


def _with_uplink(config: Config, arguments: argparse.Namespace) -> Config:
    """The broker of `--mqtt`, with the words of the flags over those of the file."""
    stated = stated_mqtt_flags(arguments)
    if arguments.mqtt is not None:
        stated["url"] = arguments.mqtt
    if not stated:
        return config
    known = {} if config.uplink is None else msgspec.to_builtins(config.uplink)
    if not known and "url" not in stated:
        raise UsageError("--mqtt-… is for a broker, and none is named", hint="--mqtt mqtt://host")
    words = {name: value for name, value in {**known, **stated}.items() if value is not None}
    uplink = convert(words, UplinkConfig, UsageError, name=mqtt_flag_of)
    if arguments.mqtt is not None:
        from edgeinfer.uplink.address import read_address  # Loads what TLS needs.

        read_address(uplink, url_error=UsageError)
    return msgspec.structs.replace(config, uplink=uplink)


def _with_web(config: Config, arguments: argparse.Namespace) -> Config:
    """The page of `--web`, with the words of the flags over those of the file."""
    flags = {"listen": arguments.web, "token_file": arguments.web_token_file}
    stated = {name: word for name, word in flags.items() if word is not None}
    if not stated:
        return config
    if config.web is None and arguments.web is None:
        raise UsageError("--web-token-file is for a page, and none is asked for", hint="--web 8080")
    known = {} if config.web is None else msgspec.to_builtins(config.web)
    words = {name: word for name, word in {**known, **stated}.items() if word is not None}
    return msgspec.structs.replace(config, web=convert(words, WebConfig, UsageError, name=web_flag_of))


def _overlay(pipeline: PipelineConfig, flags: dict[str, Any]) -> PipelineConfig:
    """The configured words, those of the flags first."""
    stated = {**msgspec.to_builtins(pipeline), **flags}
    return convert(
        {name: value for name, value in stated.items() if value is not None},
        PipelineConfig,
        UsageError,
        name=flag_of,
    )


def _with_output(pipeline: PipelineConfig) -> PipelineConfig:
    """Where no output is said: JSON lines into a pipe; on a terminal the live line says what there is to see."""
    if pipeline.output or sys.stdout.isatty():
        return pipeline
    return msgspec.structs.replace(pipeline, output=("-",))


class _Run:
    """All pipelines of one command; each is reported when it ends, and the first error is the exit code."""

    def __init__(self, node: Node, page: Web | None, *, quiet: bool) -> None:
        self.exit_code = 0
        self._node = node
        self._page = page
        self._running = list(node.pipelines)
        self._quiet = quiet
        self._line = LiveLine(lambda: node.pipelines, quiet=quiet or _prints_results(node.pipelines))

    def start(self) -> None:
        """Start all, or none."""
        with _signals_held():
            try:
                if self._page is not None:
                    self._page.start(self._node)
                self._node.start()
            except BaseException:
                self._node.close()
                raise

    def wait(self) -> None:
        """Until every pipeline has ended, and what there was to send was sent, as far as some seconds go."""
        while self._running:
            if self._node.wait(_DRAW_EVERY_S if self._line.is_shown else None):
                self._reload()
                self._report_the_ended()
            if self._running:
                self._line.draw()
        self._node.close_uplink()

    def interrupt(self) -> None:
        """End all soon; a second signal ends them at once."""
        for sign in _SIGNALS:
            if signal.getsignal(sign) is not signal.SIG_IGN:
                signal.signal(sign, _leave_now)
        self._node.end()
        self._report_the_ended()
        self._node.close_uplink()
        self.exit_code = _EXIT_INTERRUPTED

    def _reload(self) -> None:
        for pipeline in self._node.apply_reload():
            if pipeline in self._running:
                self._running.remove(pipeline)
                self._line.clear()
                self._report(pipeline)
        self._running += [each for each in self._node.pipelines if each not in self._running and not each.wait(0)]

    def _report_the_ended(self) -> None:
        with _signals_held():
            for pipeline in [each for each in self._running if each.wait(0)]:
                self._running.remove(pipeline)
                self._line.clear()
                self._report(pipeline)

    def _report(self, pipeline: Pipeline) -> None:
        report = pipeline.report()
        if not self._quiet:
            log.info("%s", closing_line(pipeline.name, pipeline.device, pipeline.counted_in, report))
        if report.profile:
            # Asked for, so shown even when quiet; stdout may hold the results.
            sys.stderr.write(profile_table(pipeline.name, report))
        if report.error is None:
            return
        whose = f"pipeline {pipeline.name}: " if len(self._node.pipelines) > 1 else ""
        trace = report.error if log.isEnabledFor(logging.DEBUG) else None
        log.error("%s%s", whose, report.error, exc_info=trace)
        self.exit_code = self.exit_code or report.error.exit_code


def _prints_results(pipelines: Sequence[Pipeline]) -> bool:
    """Whether the results themselves go to the terminal, where a live line would run into them."""
    return sys.stdout.isatty() and any("-" in pipeline.outputs for pipeline in pipelines)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait until the block is through. Threads begun in it leave all signals to the main thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_now(number: int, frame: object) -> None:
    _leave(_EXIT_INTERRUPTED)


def _leave(exit_code: int) -> None:
    # Nothing is flushed: results are with the kernel already, and a flush may wait for whoever hangs.
    os._exit(exit_code)
