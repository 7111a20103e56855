"""From a word that a user types to a Bundle: flag over `model.toml` over the file's metadata over convention."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeinfer.bundle.facts import Bundle, Format, ModelFile, Overrides
from edgeinfer.bundle.known_windows import recognise_window
from edgeinfer.bundle.manifest import Manifest, read_manifest
from edgeinfer.bundle.onnx import read_onnx
from edgeinfer.bundle.pictures import resolve_pictures
from edgeinfer.bundle.tflite import read_tflite
from edgeinfer.bundle.windows import resolve_windows, takes_windows
from edgeinfer.errors import ModelError
from edgeinfer.paths import data_folders
from edgeinfer.words import nearest

_MAX_MODEL_BYTES = 2 << 30
_NAME_SHOWN_MAX = 80
_READERS = {"tflite": read_tflite, "onnx": read_onnx}


def load_bundle(word: str | Path, overrides: Overrides | None = None, *, prefer: Format = "tflite") -> Bundle:
    """Everything known about a model: `word` is a file, a bundle folder, or the name of a bundle.

    `prefer` chooses among a bundle's weights. Raises ModelError, or AmbiguousModel naming the flag to give.
    """
    said = overrides or Overrides()
    path = find_bundle(word)
    if path.is_dir():
        manifest = read_manifest(path)
        weights = _choose_weights(path, manifest, prefer)
        file = read_model_file(weights)
        _check_sha256(file, manifest)
        return _resolve(file, manifest, said, path)
    return _resolve(read_model_file(path), None, said, None)


def find_bundle(word: str | Path) -> Path:
    """The file or bundle folder that `word` stands for. Raises ModelError naming the nearest known bundle."""
    try:
        path = Path(word).expanduser()
        if path.is_dir():
            if not (path / "model.toml").is_file():
                raise ModelError(f"{path} is a folder without a model.toml", hint="name a .tflite or .onnx file in it")
            return path
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as impossible:  # Too long a name, no permission, ~nobody, a NUL.
        reason = impossible.strerror if isinstance(impossible, OSError) else impossible
        raise ModelError(f"cannot read the model {str(word)[:_NAME_SHOWN_MAX]!r}: {reason}") from impossible
    name = str(word)
    named = _bundles().get(name)
    if named is not None:
        return named
    close = nearest(path.name, [*_bundles(), *_siblings(path)])
    raise ModelError(f"no such model: {name}", hint=f"did you mean {close!r}?" if close else None)


def read_model_file(path: Path) -> ModelFile:
    """The weights file, parsed and hashed but not loaded. Raises ModelError."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(f"{path} is not a regular file")
        if size > _MAX_MODEL_BYTES:
            raise ModelError(f"{path} has {size} bytes, at most {_MAX_MODEL_BYTES} are allowed")
        content = path.read_bytes()
    except OSError as unreadable:
        raise ModelError(f"cannot read {path}: {unreadable.strerror}") from unreadable
    if not content:
        raise ModelError(f"{path} is empty")
    format_ = _format_of(path, content)
    return _READERS[format_](path, content, hashlib.sha256(content).hexdigest())


def _format_of(path: Path, content: bytes) -> Format:
    if content[4:8] == b"TFL3" or path.suffix == ".tflite":
        return "tflite"
    if path.suffix == ".onnx":
        return "onnx"
    raise ModelError(f"{path} is neither a .tflite nor a .onnx model")


def _choose_weights(folder: Path, manifest: Manifest, prefer: Format) -> Path:
    other: Format = "onnx" if prefer == "tflite" else "tflite"
    name = getattr(manifest.weights, prefer) or getattr(manifest.weights, other)
    return folder / str(name)


def _check_sha256(file: ModelFile, manifest: Manifest) -> None:
    expected = manifest.sha256.get(file.format)
    if expected is not None and expected != file.sha256:
        raise ModelError(
            f"{file.path} is damaged or not the file of this bundle: its sha256 is {file.sha256[:12]}…, "
            f"model.toml says {expected[:12]}…"
        )


def _resolve(file: ModelFile, manifest: Manifest | None, said: Overrides, folder: Path | None) -> Bundle:
    known = recognise_window(file)
    if takes_windows(known, manifest, said):
        return resolve_windows(file, known, manifest, said, folder)
    return resolve_pictures(file, manifest, said, folder)


def _bundles() -> dict[str, Path]:
    """Every bundle on this machine, the first folder to hold a name wins."""
    found: dict[str, Path] = {}
    for folder in data_folders("models"):
        for manifest in sorted(folder.glob("*/model.toml")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def _siblings(path: Path) -> list[str]:
    try:
        return [each.name for each in path.parent.iterdir()][:1000]
    except OSError:
        return []


def bundle_names() -> tuple[str, ...]:
    """The names of all bundles that can be given as a model."""
    return tuple(sorted(_bundles()))
