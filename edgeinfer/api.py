"""What a Python program uses: load a model, run it over a source."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import fields
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from edgeinfer.bundle import Overrides
from edgeinfer.config import Config, PipelineConfig
from edgeinfer.errors import UsageError
from edgeinfer.model import Model, open_model
from edgeinfer.node import Node
from edgeinfer.pipeline import Report
from edgeinfer.pipeline.assemble import overrides_of
from edgeinfer.result import Result
from edgeinfer.sinks.memory import MemorySink
from edgeinfer.tomlfile import convert
from edgeinfer.words import unknown

Word = str | PathLike[str]

_MODEL_OPTIONS = tuple(field.name for field in fields(Overrides))


def load(model: Word, *, device: str = "auto", threads: int | None = None, **options: Any) -> Model:
    """Load a model onto a device and prove that it computes.

    model: a .tflite or .onnx file, a bundle folder, or the name of a bundle such as "blood-cells".
    device: `auto`, `cpu`, `gpu`, `edgetpu`, `npu`, or exact such as `litert:cpu`; see docs/devices.md. threads: of the
    runtime.
    options: as the flags of `edgeinfer run`: score_min and iou_max (0..1), max_results, labels (a file), task,
    decoder, layout, colour, mean, std, fit, box_units, output_is, masks; isolate.

    Raises ModelError (AmbiguousModel names the option to give), DeviceNotFound, UsageError.
    """
    for name in options:
        if name not in _MODEL_OPTIONS:
            raise UsageError(unknown("option", name, _MODEL_OPTIONS))
    config = _config(model=fspath(model), source="memory:", device=device, threads=threads, **options)
    return open_model(
        Path(model), device=device, threads=threads, isolate=config.isolate, overrides=overrides_of(config)
    )


def run(
    model: Word, source: Word, *, device: str = "auto", outputs: Word | Sequence[Word] = (), **options: Any
) -> Generator[Result, None, Report]:
    """The results of a model over a source, one by one as they come; leaving the loop stops and closes everything.

    source: `/dev/video0`, `camera://0`, `rtsp://…`, a video or image file, a folder, a glob, `synthetic://…`.
    outputs: one or several, written beside: `-`, `file.jsonl`, `file.csv`, `file.mp4`, `mqtt://host`.
    options: as the flags of `edgeinfer run`: frames, max_age (ms), rate (fps), gate ("motion"), keyframe (s), profile,
    score_min, labels, threads, …

    From a file every frame has a result, and a slow loop slows the reading. From a live source results that the loop
    does not take in time are dropped, oldest first; at most three wait for it. With a gate, a result may be `reused`:
    not inferred from its own frame. The generator's own value (`report = yield from run(…)`) is the pipeline's report.
    Raises, when the loop begins or after the results there were, ModelError, DeviceNotFound, SourceError, OutputError,
    UsageError.
    """
    words = tuple(fspath(output) for output in ([outputs] if isinstance(outputs, (str, PathLike)) else outputs))
    config = _config(model=fspath(model), source=fspath(source), device=device, output=words, **options)
    # Whoever loops acts on what comes: from a camera rather the newest than all of them.
    sink = MemorySink(capacity=1, waiting_max=1)
    node = Node(Config(pipeline=(config,)), sinks_for=lambda _: [sink])
    pipeline = node.pipelines[0]
    try:
        node.start()
        yield from sink
        pipeline.wait()
    finally:
        node.stop()
        sink.close()  # Lets a `write` that waits for this loop go.
        node.close()
    report = pipeline.report()
    if report.error is not None:
        raise report.error
    return report


def _config(**words: Any) -> PipelineConfig:
    stated = {name: _plain(value) for name, value in words.items() if value is not None}
    return convert(stated, PipelineConfig, UsageError)


def _plain(value: Any) -> Any:
    return fspath(value) if isinstance(value, PathLike) else value
