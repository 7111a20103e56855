"""Drivers by name: a table of ours, entry points of others, imported on first use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from edgeinfer.errors import EdgeInferError, UsageError

Driver = TypeVar("Driver")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, or None where none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """One line for an unknown word: the nearest known one, else all of them."""
    words = sorted(known)
    close = nearest(word, words)
    advice = f"did you mean {close!r}?" if close else f"known: {', '.join(words)}"
    return f"unknown {what} {word!r}: {advice}"


class Registry(Generic[Driver]):
    """The drivers of one kind.

    `table` maps a name to "module:attribute". Other packages add theirs through the entry-point group
    `edgeinfer.<kind>s`; a name of ours cannot be taken over. `extras` maps the module that a driver needs
    to the extra that installs it.
    """

    def __init__(self, kind: str, table: Mapping[str, str], *, extras: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.group = f"edgeinfer.{kind}s"
        self._table = dict(table)
        self._extras = dict(extras or {})

    def names(self) -> tuple[str, ...]:
        """All names, sorted, those of other packages included."""
        return tuple(sorted(self._table.keys() | self._plugins().keys()))

    def get(self, name: str, *, error: type[EdgeInferError] = UsageError) -> Driver:
        """The driver of that name, imported now. Raises `error` naming the nearest word or the pip command."""
        if name in self._table:
            module_name, _, attribute = self._table[name].partition(":")
            try:
                return cast("Driver", getattr(import_module(module_name), attribute))
            except ModuleNotFoundError as missing:
                raise self._missing(name, missing, error) from missing
        plugin = self._plugins().get(name)
        if plugin is None:
            raise error(unknown(self.kind, name, self.names()))
        try:
            return cast("Driver", plugin.load())
        except (ImportError, AttributeError) as broken:
            raise error(f"{self.kind} {name!r} from {plugin.value!r} does not load: {broken}") from broken

    def _plugins(self) -> dict[str, EntryPoint]:
        found: Any = entry_points(group=self.group)
        return {point.name: point for point in found}

    def _missing(self, name: str, missing: ModuleNotFoundError, error: type[EdgeInferError]) -> EdgeInferError:
        package = (missing.name or "").partition(".")[0]
        extra = self._extras.get(package)
        if extra is None:
            return error(f"{self.kind} {name!r} needs the module {missing.name!r}", hint=f"pip install {package}")
        return error(f"{self.kind} {name!r} needs {package}", hint=f"pip install 'edgeinfer[{extra}]'")
