"""A model's bytes, as they were when the model was read."""

from __future__ import annotations

import hashlib

from edgeinfer.bundle import ModelFile
from edgeinfer.errors import ModelError


def read_weights(file: ModelFile) -> bytes:
    """The file's content, if it is still what was checked. Raises ModelError."""
    try:
        content = file.path.read_bytes()
    except OSError as unreadable:
        raise ModelError(f"cannot read {file.path}: {unreadable.strerror}") from unreadable
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ModelError(f"{file.path} has changed since it was checked", hint="load it again")
    return content
