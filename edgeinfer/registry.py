"""Drivers by name: a table of ours, entry points of others, imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.packages import Folders, package_folders
from edgeinfer.words import unknown

Driver = TypeVar("Driver")


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
        return tuple(sorted(self._table.keys() | {point.name for point in self._plugins()}))

    def get(self, name: str, *, error: type[EdgeInferError] = UsageError) -> Driver:
        """The driver of that name, imported now. Raises `error` naming the nearest word or the pip command."""
        if name in self._table:
            return self._load_ours(name, error)
        offers = [point for point in self._plugins() if point.name == name]
        if not offers:
            raise error(unknown(self.kind, name, self.names()))
        if len(offers) > 1:
            places = " and ".join(_origin(point) for point in offers)
            raise error(f"{self.kind} {name!r} is offered by {places}", hint="uninstall all but one")
        return self._load_plugin(offers[0], error)

    def package(self, name: str) -> str | None:
        """Whose driver that is, as in `edgeinfer-example 1.2`; None where it is ours, or not clear whose."""
        offers = [point.dist for point in self._plugins() if point.name == name]
        if len(offers) != 1 or offers[0] is None or offers[0].read_text("METADATA") is None:
            return None
        return f"{offers[0].name} {offers[0].version}"

    def _plugins(self) -> list[EntryPoint]:
        """What other packages offer, under names that are not ours."""
        # A set: a folder that stands twice on the path, or an editable install beside it, is one offer.
        found = {point for point in _offers(self.group, package_folders()) if point.name not in self._table}
        return sorted(found, key=lambda point: (point.name, point.value))

    def _load_ours(self, name: str, error: type[EdgeInferError]) -> Driver:
        module_name, _, attribute = self._table[name].partition(":")
        try:
            return cast("Driver", getattr(import_module(module_name), attribute))
        except ModuleNotFoundError as missing:
            raise self._missing(name, missing, error) from missing
        except ImportError as broken:
            # As in "libGL.so.1: cannot open shared object file": the package is there, the system lacks something.
            raise error(f"{self.kind} {name!r} does not load: {broken}") from broken

    def _load_plugin(self, point: EntryPoint, error: type[EdgeInferError]) -> Driver:
        try:
            return cast("Driver", point.load())
        except Exception as broken:
            reason = f"{type(broken).__name__}: {broken}".splitlines()[0]
            raise error(f"{self.kind} {point.name!r} from {_origin(point)} does not load: {reason}") from broken

    def _missing(self, name: str, missing: ModuleNotFoundError, error: type[EdgeInferError]) -> EdgeInferError:
        package = (missing.name or "").partition(".")[0]
        if package == "edgeinfer":
            # Our own table points at nothing: a bug, not something to install.
            raise missing
        extra = self._extras.get(package)
        wanted = f"'edgeinfer[{extra}]'" if extra else "edgeinfer"
        return error(f"{self.kind} {name!r} needs the module {package!r}", hint=f"pip install {wanted}")


@lru_cache(maxsize=32)
def _offers(group: str, _folders: Folders) -> tuple[EntryPoint, ...]:
    """To look at every opening of a source would read all packages again, and importlib keeps what it saw each time."""
    return tuple(entry_points(group=group))


def _origin(point: EntryPoint) -> str:
    """Whose entry point it is, as in "edgeinfer-example (edgeinfer_example:Ticker)"."""
    package = point.dist.name if point.dist else "an unnamed package"
    return f"{package} ({point.value})"
