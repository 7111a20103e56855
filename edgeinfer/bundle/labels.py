"""The names of a model's classes."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeinfer.bundle.facts import ModelFile, Overrides
from edgeinfer.bundle.manifest import Manifest
from edgeinfer.bundle.picker import Picker
from edgeinfer.errors import ModelError

log = logging.getLogger(__name__)

_MAX_LABEL_BYTES = 4 << 20


def pick_labels(
    file: ModelFile,
    manifest: Manifest | None,
    said: Overrides,
    folder: Path | None,
    pick: Picker,
    *,
    customary: tuple[str, ...] | None = None,
) -> tuple[str, ...]:
    if said.labels is not None:
        pick.provenance["labels"] = f"flag, {said.labels}"
        return read_labels(said.labels)
    if manifest is not None and manifest.labels is not None and folder is not None:
        pick.provenance["labels"] = f"model.toml, {manifest.labels}"
        return read_labels(folder / manifest.labels)
    if file.metadata.labels is not None:
        pick.provenance["labels"] = "file metadata"
        return file.metadata.labels
    if customary is not None:
        pick.provenance["labels"] = "custom of its decoder"
        return customary
    log.warning("%s has no labels, classes are shown by number; --labels FILE names them", file.path)
    return ()


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, the line number being the class id from 0. Raises ModelError."""
    if path.exists() and not path.is_file():
        raise ModelError(f"labels {path} are not a regular file")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_LABEL_BYTES + 1)
        text = content.decode("utf-8-sig")  # Some editors begin a file with a byte order mark.
    except OSError as unreadable:
        raise ModelError(f"cannot read labels {path}: {unreadable.strerror}") from unreadable
    except UnicodeDecodeError as broken:
        raise ModelError(f"labels {path} are not UTF-8 text") from broken
    if len(content) > _MAX_LABEL_BYTES:
        raise ModelError(f"labels {path} are larger than {_MAX_LABEL_BYTES} bytes")
    # Not `splitlines`: a form feed or U+2028 within a label would shift all labels after it.
    labels = tuple(line.strip() for line in text.rstrip().split("\n"))
    if labels == ("",):
        raise ModelError(f"labels {path} are empty")
    return labels
