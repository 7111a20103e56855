"""`edgeinfer inspect`: what is known about a model, and where each fact comes from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.bundle import Bundle, ModelFile, Overrides, load_bundle
from edgeinfer.bundle.load import find_bundle, read_model_file
from edgeinfer.cli.terminal import configure_logging, show
from edgeinfer.errors import ModelError
from edgeinfer.result import as_utf8

_LABELS_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="M", help="a .tflite or .onnx file, a bundle folder, or the name of a bundle")
    parser.add_argument("--labels", metavar="FILE", type=Path, help="names of the classes, one a line")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    configure_logging(quiet=True, debug=arguments.debug)
    facts = _facts(arguments.model, arguments.labels)
    show(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() if arguments.json else _as_text(facts))
    return 0


def _facts(word: str, labels: Path | None) -> dict[str, Any]:
    try:
        bundle = load_bundle(word, Overrides(labels=labels))
    except ModelError as unclear:
        # What the file does say is what a person needs to answer the question.
        path = find_bundle(word)
        if path.is_dir() or labels is not None:
            raise
        return {**_file_facts(read_model_file(path)), "unclear": str(unclear)}
    return {**_bundle_facts(bundle), **_file_facts(bundle.file)}


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    decode = bundle.decode
    return {
        "name": as_utf8(bundle.name),
        "version": bundle.version,
        "task": bundle.task,
        "decoder": decode.decoder,
        "image": _image_facts(bundle),
        "window": _window_facts(bundle),
        "state": {
            bundle.file.outputs[output].name: f"feeds {bundle.file.inputs[fed].name}"
            for output, fed in bundle.carried.state
        },
        "constants": {bundle.file.inputs[fed].name: number for fed, number in bundle.carried.constants},
        "decode": {
            "score_min": decode.score_min,
            "iou_max": decode.iou_max,
            "max_results": decode.max_results,
            "box_units": decode.box_units,
            "output_is": decode.output_is,
            "masks": decode.masks,
            "threshold": decode.threshold,
            "values": [value.name if value.unit is None else f"{value.name} ({value.unit})" for value in decode.values],
        },
        "labels": bundle.labels,
        "provenance": dict(bundle.provenance),
        "licence": bundle.licence,
        "origin": bundle.origin,
        "measured": dict(bundle.measured),
    }


def _image_facts(bundle: Bundle) -> dict[str, Any] | None:
    image = bundle.image
    if image is None:
        return None
    return {
        "width": image.width,
        "height": image.height,
        "channels": image.channels,
        "layout": image.layout,
        "colour": image.colour,
        "range": "pixel bytes" if image.raw_bytes else {"mean": image.mean, "std": image.std},
        "fit": image.fit,
    }


def _window_facts(bundle: Bundle) -> dict[str, Any] | None:
    window = bundle.window
    if window is None:
        return None
    return {
        "rate_hz": window.rate_hz,
        "length": window.length,
        "stride": window.stride,
        "channels": window.channels,
        "units": window.units,
        "mean": window.mean,
        "std": window.std,
        "front_end": window.front_end or "none",
        "ahead": window.ahead,
        "missing": window.missing,
        "missing_s": window.missing_s,
    }


def _file_facts(file: ModelFile) -> dict[str, Any]:
    return {
        "file": as_utf8(str(file.path)),
        "format": file.format,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "inputs": [{"name": spec.name, "tensor": spec.describe()} for spec in file.inputs],
        "outputs": [{"name": spec.name, "tensor": spec.describe()} for spec in file.outputs],
        "ops": dict(sorted(file.ops.items(), key=lambda item: (-item[1], item[0]))),
        "custom_ops": sorted(file.custom_ops),
        "description": file.metadata.description,
        "author": file.metadata.author,
        "metadata": dict(file.metadata.extra),
    }


def _as_text(facts: dict[str, Any]) -> str:
    rows = [(key, text) for key, value in facts.items() for text in _lines(key, value)]
    width = max(len(key) for key, _ in rows)
    lines = []
    previous = ""
    for key, text in rows:
        lines.append(f"{key if key != previous else '':<{width}}  {text}")
        previous = key
    return "\n".join(lines)


def _lines(key: str, value: Any) -> list[str]:
    if value in (None, "", [], (), {}):
        return []
    if key == "labels":
        shown = ", ".join(value[:_LABELS_SHOWN])
        return [f"{len(value)}: {shown}{', …' if len(value) > _LABELS_SHOWN else ''}"]
    if key in ("inputs", "outputs"):
        return [f"{tensor['name']}  {tensor['tensor']}" for tensor in value]
    if key == "ops":
        return [", ".join(f"{count} {name}" for name, count in value.items())]
    if isinstance(value, dict):
        return [f"{name}: {_brief(each)}" for name, each in value.items() if each not in (None, [], ())]
    if isinstance(value, (list, tuple)):
        return [", ".join(str(each) for each in value)]
    return [str(value)]


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_brief(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_brief(each) for each in value) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
