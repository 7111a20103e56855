"""The samples that come with a bundle, read and checked: a picture or tensors in, and what the model gives for it."""

from __future__ import annotations

import hashlib
import io
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeinfer.bundle import Bundle
from edgeinfer.bundle.facts import GoldenFiles
from edgeinfer.bundle.tflite import DETECTION_POSTPROCESS
from edgeinfer.delegates.proof import Sample
from edgeinfer.errors import ModelError
from edgeinfer.preprocess import Fitter
from edgeinfer.runtimes.shapes import one_of_each
from edgeinfer.runtimes.vendor import first_line
from edgeinfer.sources.picture import BadPicture, decode, size_of
from edgeinfer.tensor import Array, TensorSpec

_MAX_BYTES = 64 << 20
_MAX_PIXELS = 16_000_000
_MAX_ARRAYS = 64
_NPY = b"\x93NUMPY"
_MAGIC = (_NPY, b"PK\x03\x04", b"PK\x05\x06")
_TENSOR_SUFFIXES = (".npy", ".npz")
# Facts of the picture that a flag may change, by their name in the provenance.
_PICTURE_FACTS = ("colour order", "pixel range", "fit")
# What numpy and zipfile raise for damaged files, as seen with 60 000 of them.
_BROKEN = (
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    zlib.error,
    zipfile.BadZipFile,
    tokenize.TokenError,
)


def load_golden(bundle: Bundle) -> tuple[Sample, ...]:
    """The bundle's samples, ready for a runtime. Raises ModelError, one line that names the key of `model.toml`."""
    return tuple(_load(bundle, files) for files in bundle.golden)


def _load(bundle: Bundle, files: GoldenFiles) -> Sample:
    manifest = files.input.with_name("model.toml")
    is_picture = files.input.suffix.lower() not in _TENSOR_SUFFIXES
    try:
        inputs = _picture(bundle, files.input) if is_picture else _tensors(files.input, bundle.file.inputs, "input")
    except _Unfit as unfit:
        raise ModelError(f"{manifest}: {files.key}.input: {files.input.name} {unfit}") from unfit
    outputs = None
    if files.outputs is not None:
        try:
            outputs = _tensors(files.outputs, bundle.file.outputs, "output", has_shapes=_has_output_shapes(bundle))
        except _Unfit as unfit:
            raise ModelError(f"{manifest}: {files.key}.outputs: {files.outputs.name} {unfit}") from unfit
    if is_picture and "flag" in (bundle.provenance.get(fact) for fact in _PICTURE_FACTS):
        # Whoever says how a picture becomes the input gets another input, and so other outputs.
        outputs = None
    return Sample(files.key, inputs, outputs, sha256=_sha256((*inputs, *(outputs or ()))))


class _Unfit(Exception):
    """What is wrong with a file, to be said after its name."""


def _picture(bundle: Bundle, path: Path) -> tuple[Array, ...]:
    if bundle.image is None:
        raise _Unfit("is a picture, the model takes samples: give an .npy or .npz")
    if len(bundle.file.inputs) != 1:
        raise _Unfit(f"is a picture and fills one input, the model has {len(bundle.file.inputs)}: give an .npz")
    data = _read(path)
    width, height = size_of(data) or (0, 0)
    if width * height > _MAX_PIXELS:
        raise _Unfit(f"has {width}x{height} pixels, at most {_MAX_PIXELS // 1_000_000} million are allowed")
    try:
        pixels = decode(data)
    except BadPicture as bad:
        raise _Unfit(f"cannot be read as an image: {bad}") from bad
    spec = one_of_each(bundle.file.inputs[0])
    tensor = np.zeros(spec.shape, dtype=spec.dtype)
    Fitter(spec, bundle.image).fit(pixels, tensor)
    return (tensor,)


def _has_output_shapes(bundle: Bundle) -> bool:
    """The file gives none for a detection post-processing; the comparison will see whether they are right."""
    return DETECTION_POSTPROCESS not in bundle.file.ops


def _tensors(path: Path, specs: Sequence[TensorSpec], what: str, *, has_shapes: bool = True) -> tuple[Array, ...]:
    """One array for each tensor, by its name or its number."""
    arrays = _arrays(_read(path))
    found = []
    for index, spec in enumerate(specs):
        name = next((name for name in (spec.name, str(index), f"arr_{index}") if name in arrays), None)
        if name is None:
            raise _Unfit(f"holds no array {spec.name!r}, nor '{index}', for {what} {index}")
        found.append(arrays.pop(name))
        shape = one_of_each(spec).shape if what == "input" else spec.shape
        if found[-1].dtype != spec.dtype or (has_shapes and not _is_of_shape(found[-1], shape)):
            given = TensorSpec("", found[-1].shape, found[-1].dtype).describe()
            raise _Unfit(f"holds {given} for {what} {spec.name!r}, which is {spec.describe()}")
    if arrays:
        raise _Unfit(f"holds {next(iter(arrays))!r}, which is no {what} of the model")
    return tuple(found)


def _is_of_shape(array: Array, shape: Sequence[int]) -> bool:
    return len(array.shape) == len(shape) and all(
        size in (there, -1) for there, size in zip(array.shape, shape, strict=True)
    )


def _arrays(data: bytes) -> dict[str, Array]:
    """The arrays of an .npz by name; that of an .npy is number 0."""
    if not data.startswith(_MAGIC):
        raise _Unfit("is no .npy or .npz file")
    try:
        if not data.startswith(_NPY):
            _refuse_bomb(data)
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        return {"0": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except _BROKEN as broken:
        raise _Unfit(f"cannot be read: {first_line(broken)}") from broken


def _refuse_bomb(data: bytes) -> None:
    members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    size_bytes = sum(member.file_size for member in members)
    if len(members) > _MAX_ARRAYS or size_bytes > _MAX_BYTES:
        raise _Unfit(
            f"holds {len(members)} arrays of {size_bytes} bytes, at most {_MAX_ARRAYS} of {_MAX_BYTES} are allowed"
        )


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise _Unfit("is not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as unreadable:
        raise _Unfit(f"cannot be read: {unreadable.strerror}") from unreadable
    if len(data) > _MAX_BYTES:
        raise _Unfit(f"is larger than {_MAX_BYTES} bytes")
    return data


def _sha256(tensors: Sequence[Array]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
