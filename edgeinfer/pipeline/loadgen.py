"""The same two scenarios driven by MLPerf's own LoadGen, where `mlcommons-loadgen` is installed."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeinfer.bundle import Bundle
from edgeinfer.errors import EdgeInferError, RuntimeFailed, UsageError
from edgeinfer.pipeline.bench import OFFICIAL_QUERIES, OFFICIAL_S, Ask, first_frame, fitted_query
from edgeinfer.runtimes import Runtime
from edgeinfer.sources import Source

_LINE = ":::MLLOG "


def require_loadgen() -> ModuleType:
    """LoadGen's module. Raises UsageError with the command that installs it."""
    try:
        return importlib.import_module("mlperf_loadgen")
    except ImportError as missing:
        raise UsageError("LoadGen is not installed here", hint="pip install mlcommons-loadgen") from missing


def drive(
    loadgen: ModuleType,
    bundle: Bundle,
    runtime: Runtime,
    open_source: Callable[[], Source],
    *,
    seconds: float,
    expected_fps: float,
) -> Mapping[str, Mapping[str, Any]]:
    """What LoadGen says of `SingleStream` and `Offline` of the model alone: the results in its log. Closes the runtime.

    expected_fps: what the model does, as far as known; LoadGen makes as many samples of it as fill the time. Raises
    RuntimeFailed, SourceError, and UsageError for a live source.
    """
    with closing(runtime):
        with closing(open_source()) as source:
            ask = fitted_query(bundle, runtime, first_frame(source))
        return {name: _run(loadgen, name, ask, seconds, expected_fps) for name in ("SingleStream", "Offline")}


def _run(loadgen: ModuleType, scenario: str, ask: Ask, seconds: float, expected_fps: float) -> Mapping[str, Any]:
    failures: list[RuntimeFailed] = []

    def issue(samples: Sequence[Any]) -> None:
        for sample in samples:
            try:
                if not failures:
                    ask()()
            except RuntimeFailed as failure:
                failures.append(failure)
            # Each has to be answered, or LoadGen waits for ever.
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0)])

    sut = loadgen.ConstructSUT(issue, _nothing)
    samples = loadgen.ConstructQSL(1, 1, _nothing_of, _nothing_of)
    try:
        with tempfile.TemporaryDirectory(prefix="edgeinfer-loadgen-") as folder:
            settings = _settings(loadgen, scenario, seconds, expected_fps)
            loadgen.StartTestWithLogSettings(sut, samples, settings, _log_settings(loadgen, folder))
            said = _results(Path(folder) / "mlperf_log_detail.txt")
    finally:
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(sut)
    if failures:
        raise failures[0]
    return said


def _settings(loadgen: ModuleType, scenario: str, seconds: float, expected_fps: float) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(seconds * 1e3)
    settings.min_query_count = OFFICIAL_QUERIES if seconds >= OFFICIAL_S else 1
    settings.single_stream_expected_latency_ns = round(1e9 / expected_fps)
    settings.offline_expected_qps = expected_fps
    return settings


def _log_settings(loadgen: ModuleType, folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


def _results(log: Path) -> dict[str, Any]:
    try:
        lines = log.read_text().splitlines()
    except OSError as missing:
        raise EdgeInferError(f"LoadGen left no log: {missing}") from missing
    entries = [json.loads(line[len(_LINE) :]) for line in lines if line.startswith(_LINE)]
    return {
        entry["key"]: entry["value"] for entry in entries if entry["key"].startswith(("result_", "early_stopping_"))
    }


def _nothing() -> None:
    """There is nothing to flush."""


def _nothing_of(indices: Sequence[int]) -> None:
    """The one sample is in memory."""
