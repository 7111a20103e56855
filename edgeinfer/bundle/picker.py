"""Each fact from the first place that states it, and which that was."""

from __future__ import annotations

from typing import TypeVar

from edgeinfer.bundle.facts import ModelFile
from edgeinfer.errors import AmbiguousModel

Value = TypeVar("Value")


class Picker:
    """Chooses each fact from the places that may state it, and remembers which did."""

    def __init__(self, file: ModelFile) -> None:
        self.provenance: dict[str, str] = {}
        self._file = file

    def pick(self, fact: str, *stated: tuple[Value | None, str]) -> Value | None:
        for value, where in stated:
            if value is not None:
                self.provenance[fact] = where
                return value
        return None

    def need(self, fact: str, flag: str, *stated: tuple[Value | None, str]) -> Value:
        value = self.pick(fact, *stated)
        if value is None:
            raise AmbiguousModel(f"{self._file.path} does not say its {fact}", hint=f"give {flag}")
        return value


def given(spoken: float | None, written: float | None, usual: float) -> float:
    # Not `or`: a threshold of 0 is a threshold.
    if spoken is not None:
        return spoken
    return usual if written is None else written
