"""`edgeinfer run`: the main job."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.cli.terminal import LiveLine, closing_line, configure_logging
from edgeinfer.config import Config, PipelineConfig, read_config
from edgeinfer.errors import UsageError
from edgeinfer.pipeline import Pipeline
from edgeinfer.pipeline.assemble import open_pipeline
from edgeinfer.tomlfile import convert

log = logging.getLogger(__name__)

_DRAW_EVERY_S = 0.2
_STOP_WITHIN_S = 8.0
_EXIT_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="M", help="a .tflite or .onnx file, a bundle folder, or the name of a bundle")
    add(
        "--source", metavar="S", help="/dev/video0, camera://0, rtsp://…, a video, image, folder or glob, synthetic://…"
    )
    add("--device", metavar="D", help="auto (default), cpu, litert:cpu, tflite:cpu, onnx:cpu, fake")
    add("--threads", metavar="N", type=int, help="threads of the runtime")
    add("--score-min", metavar="X", type=float, help="leave out what scores below, 0..1")
    add("--labels", metavar="FILE", help="names of the classes, one a line")
    add(
        "--output",
        "-o",
        metavar="O",
        action="append",
        help="- (JSON lines), file.jsonl, file.csv, file.mp4; repeatable",
    )
    add("--frames", metavar="N", type=int, help="stop after so many frames")
    add("--config", metavar="FILE", type=Path, help="pipelines in TOML, in the same words")
    add("--max-age", metavar="MS", type=float, help="from a live source, do not publish what is older")
    add("--quiet", action="store_true", help="no live line, no closing line, only warnings")
    model = parser.add_argument_group("where a model does not say it itself")
    model.add_argument("--task", help="detect, classify")
    model.add_argument("--decoder", help="ssd, yolox, yolov5, yolov8 (also 11), classify")
    model.add_argument("--colour", metavar="ORDER", help="rgb, bgr or gray")
    model.add_argument("--mean", metavar="X[,Y,Z]", type=_numbers, help="real = (pixel - mean) / std")
    model.add_argument("--std", metavar="X[,Y,Z]", type=_numbers)
    model.add_argument("--fit", help="letterbox, stretch or crop")
    model.add_argument("--box-units", help="normalised or pixels")
    model.add_argument("--iou-max", metavar="X", type=float, help="of two boxes that overlap more, the better stays")
    model.add_argument("--max-results", metavar="N", type=int)
    camera = parser.add_argument_group("what a camera is asked for")
    camera.add_argument("--width", metavar="PX", type=int)
    camera.add_argument("--height", metavar="PX", type=int)
    camera.add_argument("--fps", metavar="X", type=float)
    camera.add_argument("--pixel-format", metavar="FOURCC", help="such as MJPG or YUYV")


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=arguments.quiet, debug=arguments.debug)
    config = _configuration(arguments)
    # Before anything is opened, so that a SIGTERM at any time closes what is open.
    signal.signal(signal.SIGTERM, _interrupt)
    pipelines = _open_all(config)
    return _run_all(pipelines, quiet=arguments.quiet)


def _configuration(arguments: argparse.Namespace) -> Config:
    flags = _flags(arguments)
    if arguments.config is None:
        for needed in ("model", "source"):
            if needed not in flags:
                raise UsageError(f"--{needed} is missing", hint="edgeinfer run --help")
        flags.setdefault("output", _default_output())
        return Config(pipeline=(convert(flags, PipelineConfig, UsageError, where="flags"),))
    config = read_config(arguments.config)
    if len(config.pipeline) > 1 and flags.keys() & {"model", "source", "output"}:
        raise UsageError("--model, --source and --output do not go with a --config of several pipelines")
    return msgspec.structs.replace(config, pipeline=tuple(_overlay(each, flags) for each in config.pipeline))


def _overlay(pipeline: PipelineConfig, flags: dict[str, Any]) -> PipelineConfig:
    """The configured words, those of the flags first."""
    stated = {**msgspec.to_builtins(pipeline), **flags}
    return convert(
        {name: value for name, value in stated.items() if value is not None},
        PipelineConfig,
        UsageError,
        where="flags",
    )


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    names = PipelineConfig.__struct_fields__
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}


def _default_output() -> list[str]:
    """JSON lines into a pipe; on a terminal the live line says what there is to see."""
    return [] if sys.stdout.isatty() else ["-"]


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor three with commas between") from None


def _open_all(config: Config) -> list[Pipeline]:
    pipelines: list[Pipeline] = []
    try:
        for each in config.pipeline:
            pipelines.append(open_pipeline(each, node=config.node))
    except BaseException:
        for pipeline in pipelines:
            pipeline.close()
        raise
    return pipelines


def _run_all(pipelines: Sequence[Pipeline], *, quiet: bool) -> int:
    line = LiveLine(pipelines, quiet=quiet)
    interrupted = False
    try:
        for pipeline in pipelines:
            pipeline.start()
        _wait_for_all(pipelines, line)
    except KeyboardInterrupt:
        interrupted = True
        # Whoever asks a second time does not want to wait.
        signal.signal(signal.SIGINT, _leave_now)
        signal.signal(signal.SIGTERM, _leave_now)
        _stop_all(pipelines)
    line.clear()
    return _report_all(pipelines, quiet=quiet, interrupted=interrupted)


def _wait_for_all(pipelines: Sequence[Pipeline], line: LiveLine) -> None:
    for pipeline in pipelines:
        # Without a line to draw there is nothing to wake up for.
        while not pipeline.wait(_DRAW_EVERY_S if line.is_shown else None):
            line.draw()


def _stop_all(pipelines: Sequence[Pipeline]) -> None:
    for pipeline in pipelines:
        pipeline.stop()
    deadline_s = time.monotonic() + _STOP_WITHIN_S
    for pipeline in pipelines:
        if not pipeline.wait(max(0.0, deadline_s - time.monotonic())):
            log.error("pipeline %s did not stop within %g s and is left behind", pipeline.name, _STOP_WITHIN_S)


def _report_all(pipelines: Sequence[Pipeline], *, quiet: bool, interrupted: bool) -> int:
    exit_code = _EXIT_INTERRUPTED if interrupted else 0
    for pipeline in pipelines:
        report = pipeline.report()
        if not quiet:
            log.info("%s", closing_line(pipeline.name, pipeline.device, report))
        if report.error is not None:
            log.error("%s", report.error)
            exit_code = exit_code or report.error.exit_code
    if any(thread.daemon and thread.is_alive() for thread in threading.enumerate()):
        # A read or an invoke that hangs in native code would hang, or crash, the interpreter's own shutdown.
        _leave(exit_code)
    return exit_code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _leave_now(number: int, frame: object) -> None:
    _leave(_EXIT_INTERRUPTED)


def _leave(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
