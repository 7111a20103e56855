"""The manifest of a release: what is in it, what it needs, and by what it is judged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeinfer.errors import ModelError, UsageError
from edgeinfer.tomlfile import convert

MANIFEST_BYTES_MAX = 256 << 10
FILES_MAX = 64
DEPTH_MAX = 3
FILE_BYTES_MAX = 512 << 20
BUNDLE_BYTES_MAX = 1 << 30

_PATH_MAX = 255
_SLOT = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits in small letters")]
SlotName = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z", description="small letters, digits and -, such as detector"),
]
Number = Annotated[int, Meta(ge=0, le=2**53)]
Text = Annotated[str, Meta(min_length=1, max_length=64)]
AtLeast = Annotated[
    str, Meta(pattern=r"^>=\d{1,6}(\.\d{1,6}){0,3}\Z", description="the oldest version that will do, such as >=0.4")
]
Amount = Annotated[float, Meta(gt=0.0, le=1e6)]


class FileEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file by its content. length: in bytes."""

    sha256: Sha256
    length: Annotated[int, Meta(ge=1, le=FILE_BYTES_MAX)]


class TensorDecl(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An input or output as the publisher saw it. shape: -1 where a size is free; dtype: numpy's name of it."""

    name: Annotated[str, Meta(max_length=256)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=-1, le=1 << 28)], ...], Meta(max_length=8)]
    dtype: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]{1,15}\Z", description="a type of numpy, such as uint8")]


class GoldenEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A sample of the bundle. input, outputs: paths in it.

    max_abs: how far a real value of an output may lie from what `outputs` holds; None for the usual rule of devices.
    """

    input: str
    outputs: str
    max_abs: Annotated[float, Meta(ge=0.0, le=1e9)] | None = None


class Budget(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What it may take: for a frame, in memory, to load. None: judged against the model that is in use."""

    p95_ms: Amount | None = None
    memory_mb: Amount | None = None
    load_s: Amount | None = None


class Trial(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """For so long it answers on trial before it is kept; so many processes may end in it before it is given up."""

    minutes: Annotated[float, Meta(ge=0.0, le=10_080.0)] = 10.0
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that is signed of a release, files by path in its bundle; see the fields' types.

    release: a counter of the slot, 0 for what was put there by hand. floor: what is below is never installed again.
    name, version: of the model. runtimes, boards: which can run it, any where empty. requires: package -> its oldest
    version that will do. recall_of: the release whose place an older model takes. published_at: RFC 3339.
    """

    schema: Literal["edgeinfer.release/1"]
    slot: SlotName
    release: Number
    name: Text
    version: Text
    files: Annotated[Mapping[str, FileEntry], Meta(min_length=1, max_length=FILES_MAX)]
    floor: Number = 0
    runtimes: Annotated[tuple[Literal["litert", "tflite", "onnx", "openvino"], ...], Meta(max_length=8)] = ()
    requires: Annotated[Mapping[Text, AtLeast], Meta(max_length=16)] = {}
    boards: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()
    inputs: Annotated[tuple[TensorDecl, ...], Meta(max_length=64)] = ()
    outputs: Annotated[tuple[TensorDecl, ...], Meta(max_length=64)] = ()
    golden: Annotated[tuple[GoldenEntry, ...], Meta(max_length=8)] = ()
    budget: Budget = Budget()
    trial: Trial = Trial()
    recall_of: Number | None = None
    note: Annotated[str, Meta(max_length=500)] = ""
    published_at: Annotated[str, Meta(max_length=40)] = ""
    publisher: Annotated[str, Meta(max_length=64)] = ""


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in JSON, checked. Raises ModelError, one line that names the key."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ModelError(f"a manifest has at most {MANIFEST_BYTES_MAX} bytes, not {len(data)}")
    try:
        table = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as broken:
        raise ModelError(f"the manifest is not valid JSON: {broken}") from broken
    manifest = convert(table, Manifest, ModelError, where="the manifest")
    _check(manifest)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """In JSON, the same bytes for the same manifest whatever the order of its files."""
    return msgspec.json.encode(manifest, order="deterministic")


def content_of(manifest: Manifest) -> str:
    """The sha256 of all its files with their paths: the same for a release that brings the same bundle again."""
    pairs = sorted((path, entry.sha256) for path, entry in manifest.files.items())
    return hashlib.sha256(msgspec.json.encode(pairs)).hexdigest()


def size_bytes_of(manifest: Manifest) -> int:
    """Of all its files together, each content counted once."""
    return sum({entry.sha256: entry.length for entry in manifest.files.values()}.values())


def checked_slot(slot: str) -> str:
    """The name itself. Raises UsageError unless it is one of a slot."""
    if _SLOT.fullmatch(slot) is None:
        raise UsageError(
            f"slot {slot[:40]!r} is no name of a slot", hint="small letters, digits and -, such as detector"
        )
    return slot


def _check(manifest: Manifest) -> None:
    """What the types do not say. Raises ModelError."""
    for path in manifest.files:
        _check_path(path, manifest.files)
    if "model.toml" not in manifest.files:
        raise ModelError("the manifest: files: there is no model.toml among them")
    total = sum(entry.length for entry in manifest.files.values())
    if total > BUNDLE_BYTES_MAX:
        raise ModelError(f"the manifest: files: {total} bytes together, at most {BUNDLE_BYTES_MAX} are allowed")
    if manifest.floor > manifest.release:
        raise ModelError(f"the manifest: floor: {manifest.floor} would deny release {manifest.release} itself")
    for sample in manifest.golden:
        for path in (sample.input, sample.outputs):
            if path not in manifest.files:
                raise ModelError(f"the manifest: golden: {path[:_PATH_MAX]!r} is not among its files")


def _check_path(path: str, paths: Mapping[str, object]) -> None:
    parts = path.split("/")
    is_odd = (
        not path.isprintable()
        or not 0 < len(path.encode()) <= _PATH_MAX
        or "\\" in path
        or any(part in ("", ".", "..") for part in parts)
        or len(parts) > DEPTH_MAX
    )
    if is_odd:
        raise ModelError(
            f"the manifest: files: {path[:_PATH_MAX]!r} is no path within a bundle",
            hint=f"relative, at most {DEPTH_MAX} parts, without .., \\ and control characters",
        )
    for parent in PurePosixPath(path).parents:
        if str(parent) in paths:
            raise ModelError(f"the manifest: files: {str(parent)!r} is a file and a folder")
