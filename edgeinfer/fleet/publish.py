"""A bundle becomes a release: checked, run on this machine, given golden outputs, measured and described."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgeinfer import __version__
from edgeinfer.board import recognise_board
from edgeinfer.bundle import Bundle, find_bundle, load_bundle
from edgeinfer.bundle.manifest import read_manifest
from edgeinfer.clock import Clock, rfc3339
from edgeinfer.delegates import Devices, load_golden
from edgeinfer.delegates.proof import Sample, made_up, nonsense, run_sample
from edgeinfer.errors import ModelError, UsageError
from edgeinfer.pipeline.bench import SingleStream, single_stream
from edgeinfer.runtimes import RUNTIMES, Runtime, RuntimeOptions
from edgeinfer.tensor import TensorSpec
from edgeinfer.updates.manifest import (
    BUNDLE_BYTES_MAX,
    DEPTH_MAX,
    FILES_MAX,
    Budget,
    FileEntry,
    GoldenEntry,
    Manifest,
    TensorDecl,
    Trial,
    encode_manifest,
    parse_manifest,
)

_MEASURED_S = 1.0
_HASHED_AT_ONCE = 1 << 20
_SAMPLES_MAX = 8
_NOTE_MAX = 500

RuntimeName = Literal["litert", "onnx"]
_RUNTIME_OF: Mapping[Literal["tflite", "onnx"], RuntimeName] = {"tflite": "litert", "onnx": "onnx"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a publisher says of a release beside its bundle. boards: any where empty; note: for the history."""

    slot: str
    release: int
    budget: Budget
    trial: Trial
    publisher: str = ""
    floor: int = 0
    boards: tuple[str, ...] = ()
    requires: Mapping[str, str] | None = None
    max_abs: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Ran:
    """What one of the weights did here. made: samples that the bundle had no outputs for."""

    runtime: RuntimeName
    bundle: Bundle
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    made: tuple[Sample, ...]
    measured: str


@contextmanager
def prepared(word: str | Path, wanted: Wanted, beside: Path, clock: Clock | None = None) -> Iterator[Prepared]:
    """The release of a bundle folder or name, and where its files lie until the end of the block, in `beside`.

    Raises ModelError where the bundle does not do here what it says, UsageError, DeviceNotFound.
    """
    source = find_bundle(word)
    if not source.is_dir():
        raise UsageError(
            f"{source} is a file, and a release is a folder with a model.toml", hint="docs/models.md says what is in it"
        )
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=beside) as name:
        folder = Path(name) / source.name
        _copy(source, folder)
        ran = [_run(folder, format_) for format_ in _formats(folder)]
        for each in ran:
            _add_golden(folder, each)
        for each in ran:
            # The samples just made are read as a node will read them.
            load_golden(load_bundle(folder, prefer=each.bundle.file.format))
        yield _describe(folder, wanted, ran, clock or Clock())


@dataclass(frozen=True, slots=True)
class Prepared:
    """files: sha256 -> where it is. measured: in words, for a person."""

    manifest: Manifest
    files: Mapping[str, Path]
    measured: tuple[str, ...]


def recalled(old: Manifest, bad: Manifest, *, release: int, note: str, publisher: str, clock: Clock) -> Manifest:
    """The old files under a new, higher number, below which nothing is to be had any more."""
    return Manifest(
        **{
            **{name: getattr(old, name) for name in old.__struct_fields__},
            "release": release,
            "floor": release,
            "recall_of": bad.release,
            "note": note or f"takes the place of release {bad.release}: it is release {old.release} again",
            "published_at": rfc3339(clock.unix_ns()),
            "publisher": publisher,
        }
    )


def _formats(folder: Path) -> tuple[Literal["tflite", "onnx"], ...]:
    weights = read_manifest(folder).weights
    return tuple(each for each in _RUNTIME_OF if getattr(weights, each) is not None)


def _copy(source: Path, folder: Path) -> None:
    """Raises ModelError for what no release holds."""
    paths = [path for path in sorted(source.rglob("*")) if not _is_hidden(path.relative_to(source))]
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path} is neither a file nor a folder", hint="a release holds nothing else")
    files = [path for path in paths if path.is_file()]
    if len(files) > FILES_MAX or sum(path.stat().st_size for path in files) > BUNDLE_BYTES_MAX:
        raise ModelError(f"{source} holds more than a release may: {FILES_MAX} files, {BUNDLE_BYTES_MAX} bytes")
    for path in files:
        place = folder / path.relative_to(source)
        if len(place.relative_to(folder).parts) > DEPTH_MAX:
            raise ModelError(f"{path} lies deeper than a release may have it, which is {DEPTH_MAX} names")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _run(folder: Path, format_: Literal["tflite", "onnx"]) -> _Ran:
    bundle = load_bundle(folder, prefer=format_)
    name = _RUNTIME_OF[format_]
    golden = load_golden(bundle)
    # In a worker first, and held against the reference and the bundle's own samples, as on every node.
    Devices().open(bundle.file, f"{name}:cpu", golden=golden).close()
    before_kb, begun_s = _resident_kb(), time.monotonic()
    runtime: Runtime = RUNTIMES.get(name)(bundle.file, "cpu", RuntimeOptions())
    load_s = time.monotonic() - begun_s
    try:
        made = () if any(sample.outputs is not None for sample in golden) else _make_golden(runtime, bundle)
        latency = _measure(runtime, (*golden, *made)[0])
        memory_mb = max(0, _resident_kb() - before_kb) / 1024
        measured = (
            f"{name} on {recognise_board().model}: p95 {latency.percentile_ms(0.95):.1f} ms,"
            f" {memory_mb:.0f} MB more memory, loaded in {load_s:.2f} s"
        )
        return _Ran(name, bundle, runtime.inputs, runtime.outputs, made, measured)
    finally:
        runtime.close()


def _make_golden(runtime: Runtime, bundle: Bundle) -> tuple[Sample, ...]:
    """A seeded input, and what comes of it. Raises ModelError for what is no number."""
    *_, sample = made_up(runtime.inputs)
    outputs = run_sample(runtime, sample)
    rubbish = nonsense(outputs, runtime.outputs)
    if rubbish is not None:
        raise ModelError(f"{bundle.file.path.name} computes nonsense: {rubbish}")
    return (Sample(f"golden-{bundle.file.format}", sample.inputs, outputs),)


def _measure(runtime: Runtime, sample: Sample) -> SingleStream:
    def ask() -> object:
        for index, tensor in enumerate(sample.inputs):
            runtime.input(index)[...] = tensor
        return runtime.run

    return single_stream(ask, seconds=_MEASURED_S, clock=Clock())  # type: ignore[arg-type]  # `run` gives arrays.


def _add_golden(folder: Path, ran: _Ran) -> None:
    """Into the folder and its `model.toml`, whose own lines stay as they are."""
    lines = []
    for sample in ran.made:
        np.savez_compressed(folder / f"{sample.name}.npz", *sample.inputs)
        np.savez_compressed(folder / f"{sample.name}-outputs.npz", *(sample.outputs or ()))
        lines += [
            "",
            "[[golden]]                        # made when it was published",
            f'input = "{sample.name}.npz"',
            f'outputs = "{sample.name}-outputs.npz"',
            f'weights = "{ran.bundle.file.format}"',
        ]
    if lines:
        with (folder / "model.toml").open("a", encoding="utf-8") as manifest:
            manifest.write("\n".join(lines) + "\n")


def _describe(folder: Path, wanted: Wanted, ran: Sequence[_Ran], clock: Clock) -> Prepared:
    entries, files = {}, {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sha256 = _sha256_of(path)
            entries[path.relative_to(folder).as_posix()] = FileEntry(sha256, path.stat().st_size)
            files[sha256] = path
    facts = read_manifest(folder)
    measured = tuple(each.measured for each in ran)
    manifest = Manifest(
        schema="edgeinfer.release/1",
        slot=wanted.slot,
        release=wanted.release,
        name=facts.name,
        version=facts.version,
        files=entries,
        floor=wanted.floor,
        runtimes=tuple(each.runtime for each in ran),
        requires=wanted.requires if wanted.requires is not None else {"edgeinfer": f">={_numbers_of(__version__)}"},
        boards=wanted.boards,
        inputs=_declared(ran[0].inputs),
        outputs=_declared(ran[0].outputs),
        golden=tuple(
            GoldenEntry(sample.input, sample.outputs, wanted.max_abs)
            for sample in facts.golden[:_SAMPLES_MAX]
            if sample.outputs is not None
        ),
        budget=wanted.budget,
        trial=wanted.trial,
        note="; ".join(filter(None, (wanted.note, *measured)))[:_NOTE_MAX],
        published_at=rfc3339(clock.unix_ns()),
        publisher=wanted.publisher,
    )
    # As strict as a node will be, before it is signed.
    return Prepared(parse_manifest(encode_manifest(manifest)), files, measured)


def _declared(specs: Sequence[TensorSpec]) -> tuple[TensorDecl, ...]:
    return tuple(TensorDecl(spec.name[:256], tuple(spec.shape), spec.dtype.name) for spec in specs)


def _numbers_of(version: str) -> str:
    """`0.4.1.dev2` -> `0.4.1`."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(part)
    return ".".join(numbers)


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED_AT_ONCE):
            digest.update(chunk)
    return digest.hexdigest()


def _resident_kb() -> int:
    """Of this process: what loading and running has added is the model's."""
    with Path("/proc/self/statm").open(encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
