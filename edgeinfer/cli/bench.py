"""`edgeinfer bench`: single-stream latency and offline throughput, of the model alone and end to end."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.board import Board, recognise_board
from edgeinfer.bundle import Bundle, load_bundle
from edgeinfer.cli.arguments import add_model_arguments, flag_of, number, stated_flags, whole
from edgeinfer.cli.chart import Chart, check_chart, write_chart
from edgeinfer.cli.terminal import ProgressBar, configure_logging, show
from edgeinfer.config import PipelineConfig
from edgeinfer.delegates import Devices
from edgeinfer.delegates.installed import runtime_versions
from edgeinfer.errors import UsageError
from edgeinfer.model import format_for
from edgeinfer.pipeline.assemble import open_fitted, overrides_of
from edgeinfer.pipeline.bench import OFFICIAL_QUERIES, OFFICIAL_S, STEPS, Measured, SingleStream, measure
from edgeinfer.pipeline.loadgen import drive, require_loadgen
from edgeinfer.pipeline.rehearsal import HISS, REEL, open_rehearsal, rehearsal_of
from edgeinfer.result import as_utf8
from edgeinfer.sources import Source
from edgeinfer.tomlfile import convert

_SCHEMA = "edgeinfer.bench/1"
_SECONDS = 5.0
_SECONDS_MAX = 86_400.0
_PERCENTILES = (0.5, 0.9, 0.99)

LoadGenSaid = Mapping[str, Mapping[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="M", help="a .tflite or .onnx file, a bundle folder, or the name of a bundle")
    add(
        "--source",
        metavar="S",
        help=f"a video, pictures, a recording or synthetic://…?frames=N, begun anew at its end; else {REEL}, or {HISS}",
    )
    add("--device", metavar="D", help="auto (default), cpu, gpu, edgetpu, npu, or one that 'edgeinfer devices' names")
    add("--threads", metavar="N", type=whole, help="threads of the runtime")
    add(
        "--seconds",
        metavar="T",
        type=number,
        default=_SECONDS,
        help=f"of each of the four measurements, default %(default)g; MLPerf wants {OFFICIAL_S:g}",
    )
    add("--labels", metavar="FILE", help="names of the classes, one a line")
    add("--json", action="store_true", help="print one JSON object, with every latency")
    add("--plot", metavar="FILE", type=Path, help="draw latencies and stages into a .svg or .png")
    add(
        "--loadgen",
        action="store_true",
        help="let MLPerf's LoadGen drive the model too (pip install mlcommons-loadgen)",
    )
    add("--quiet", action="store_true", help="no progress bar")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=True, debug=arguments.debug)
    if not 0 < arguments.seconds <= _SECONDS_MAX:
        raise UsageError(f"--seconds: {arguments.seconds:g} is not above 0 and at most {_SECONDS_MAX:g}")
    if arguments.plot is not None:
        check_chart(arguments.plot)
    loadgen = require_loadgen() if arguments.loadgen else None
    config = convert({"source": "reel:", **stated_flags(arguments)}, PipelineConfig, UsageError, name=flag_of)
    bundle = load_bundle(config.model, overrides_of(config), prefer=format_for(config.device))
    open_frames: Callable[[], Source] = (
        partial(open_fitted, config, bundle) if arguments.source else partial(open_rehearsal, bundle)
    )
    bar = ProgressBar("measuring", quiet=arguments.quiet)
    steps = (*STEPS, "LoadGen") if loadgen else STEPS

    def report(step: str) -> None:
        bar.draw(steps.index(step) / len(steps), step)

    open_runtime = partial(Devices().open, bundle.file, config.device, threads=config.threads)
    try:
        measured = measure(bundle, open_runtime(), open_frames, seconds=arguments.seconds, report=report)
        said: LoadGenSaid = {}
        if loadgen is not None:
            report("LoadGen")
            said = drive(
                loadgen,
                bundle,
                open_runtime(),
                open_frames,
                seconds=arguments.seconds,
                expected_fps=measured.alone_fps,
            )
    finally:
        bar.clear()
    board = recognise_board()
    source = _described(arguments.source, bundle, measured)
    if arguments.json:
        facts = _facts(bundle, measured, board, source, arguments, said)
        show(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())
    else:
        show("\n".join(_text(bundle, measured, board, source, config.threads, said)))
    if arguments.plot is not None:
        write_chart(_chart(bundle, measured, board), arguments.plot)
    return 0


def _described(word: str | None, bundle: Bundle, measured: Measured) -> str:
    """What was read, and how large its pictures or windows are; a default is said in full."""
    return f"{as_utf8(word)}, {measured.frame}" if word else rehearsal_of(bundle)


def _text(
    bundle: Bundle, measured: Measured, board: Board, source: str, threads: int | None, said: LoadGenSaid
) -> Iterator[str]:
    yield f"Model    {bundle.name} ({as_utf8(str(bundle.file.path))})"
    yield f"Device   {measured.device}, threads: {threads or 'left to the runtime'}"
    yield f"Source   {source}"
    yield f"Machine  {_machine(board)}"
    yield ""
    yield f"{'':<12}  {'P50 MS':>8}  {'P90 MS':>8}  {'P99 MS':>8}  {'QUERIES':>8}  {'OFFLINE/S':>9}"
    rows = (
        ("model alone", measured.alone, measured.alone_fps),
        ("end to end", measured.end_to_end, measured.end_to_end_fps),
    )
    for name, stream, fps in rows:
        numbers = "".join(f"  {stream.percentile_ms(share):>8.2f}" for share in _PERCENTILES)
        yield f"{name:<12}{numbers}  {len(stream.latency_ms):>8}  {fps:>9.1f}"
    yield ""
    yield "Stages   " + ", ".join(f"{stage} {took_ms:.2f}" for stage, took_ms in measured.stage_ms.items())
    yield "         medians in ms, end to end, one at a time; offline, reading runs beside the model"
    yield from _mlperf(measured.alone)
    for scenario, entries in said.items():
        yield f"LoadGen  {scenario}: {_loadgen_line(scenario, entries)}"


def _mlperf(stream: SingleStream) -> Iterator[str]:
    bound_ms = stream.p90_early_stopping_ms
    bound = "too few queries for a bound" if bound_ms is None else f"≤ {bound_ms:.2f} ms with 99 % confidence"
    yield f"MLPerf   single stream, model alone: p90 {stream.percentile_ms(0.9):.2f} ms, {bound} (early stopping)"
    if not stream.is_official:
        yield (
            f"         shorter than its minimum of {OFFICIAL_QUERIES} queries and {OFFICIAL_S:g} s: "
            f"--seconds {OFFICIAL_S:g}, or more for a slow model"
        )


def _loadgen_line(scenario: str, entries: Mapping[str, Any]) -> str:
    doubt = "" if entries.get("result_validity") == "VALID" else "; it calls the run invalid"
    if scenario == "Offline":
        return f"{entries.get('result_samples_per_second', 0.0):.1f} samples/s{doubt}"
    percentiles = ", ".join(
        f"p{share * 100:g} {entries.get(f'result_{share * 100:.2f}_percentile_latency_ns', 0) / 1e6:.2f}"
        for share in _PERCENTILES
    )
    return f"{percentiles} ms of {entries.get('result_query_count', 0)} queries{doubt}"


def _facts(
    bundle: Bundle,
    measured: Measured,
    board: Board,
    source: str,
    arguments: argparse.Namespace,
    said: LoadGenSaid,
) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "model": {"name": as_utf8(bundle.name), "version": bundle.version, "sha256": bundle.file.sha256},
        "device": measured.device,
        "threads": arguments.threads,
        "source": source,
        "seconds": arguments.seconds,
        "machine": {"board": board.model, "cpu": board.cpu, "cores": board.cores, "load": os.getloadavg()[0]},
        "versions": runtime_versions(),
        "alone": _stream_facts(measured.alone, measured.alone_fps),
        "end_to_end": _stream_facts(measured.end_to_end, measured.end_to_end_fps),
        "stage_ms": measured.stage_ms,
        "loadgen": said or None,
    }


def _stream_facts(stream: SingleStream, fps: float) -> dict[str, Any]:
    return {
        "p50_ms": stream.percentile_ms(0.5),
        "p90_ms": stream.percentile_ms(0.9),
        "p99_ms": stream.percentile_ms(0.99),
        "p90_early_stopping_ms": stream.p90_early_stopping_ms,
        "queries": len(stream.latency_ms),
        "mlperf_minimum_met": stream.is_official,
        "offline_per_s": fps,
        "latency_ms": stream.latency_ms,
    }


def _chart(bundle: Bundle, measured: Measured, board: Board) -> Chart:
    offline = f"offline {measured.alone_fps:.0f}/s alone, {measured.end_to_end_fps:.0f}/s end to end"
    return Chart(
        title=f"{as_utf8(bundle.name)} on {measured.device}",
        subtitle=f"{_machine(board)}; {bundle.counted_in} of {measured.frame}; {offline}",
        curves={"model alone": measured.alone, "end to end": measured.end_to_end},
        stage_ms=measured.stage_ms,
    )


def _machine(board: Board) -> str:
    cores = f"{board.cores} core{'' if board.cores == 1 else 's'}"
    return ", ".join(dict.fromkeys((*([] if board.model == "unknown" else [board.model]), board.cpu, cores)))
