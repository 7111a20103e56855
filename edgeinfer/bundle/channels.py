"""What is said of channels: once for all of them, or for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeinfer.bundle.facts import ModelFile
from edgeinfer.errors import EdgeInferError


def check_counts(
    file: ModelFile, channels: int, said: Mapping[str, Sequence[object] | None], error: type[EdgeInferError]
) -> None:
    """Raises `error` naming what is said for another number of channels than the model has."""
    for name, given in said.items():
        if given is not None and len(given) not in (1, channels):
            raise error(
                f"{name} is given for {len(given)} channels, and {file.path} takes {channels}",
                hint="give 1" if channels == 1 else f"give 1 for all, or {channels}",
            )
