"""TOML -> typed structs, refused with the path of the key and, for a typo, the nearest name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeinfer.errors import EdgeInferError
from edgeinfer.words import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Struct = TypeVar("Struct", bound=msgspec.Struct)

_MAX_BYTES = 1 << 20
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]*)`")


def read_toml(path: Path, shape: type[Struct], error: type[EdgeInferError]) -> Struct:
    """The file as `shape`. Raises `error`, one line that names the file and the key."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as unreadable:
        raise error(f"cannot read {path}: {unreadable.strerror}") from unreadable
    if len(text) > _MAX_BYTES:
        raise error(f"{path} is larger than {_MAX_BYTES} bytes")
    try:
        table = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise error(f"{path} is not valid TOML: {broken}") from broken
    return convert(table, shape, error, where=str(path))


def convert(table: Any, shape: type[Struct], error: type[EdgeInferError], *, where: str) -> Struct:
    """A decoded TOML table as `shape`; `where` begins the message of the error."""
    try:
        return msgspec.convert(table, shape)
    except msgspec.ValidationError as refused:
        message, _, path = str(refused).partition(" - at `")
        keys = path.rstrip("`").removeprefix("$").removeprefix(".")
        raise error(_one_line(where, keys, message, table, shape)) from refused


def _one_line(where: str, keys: str, message: str, table: Any, shape: type[msgspec.Struct]) -> str:
    field = _UNKNOWN_FIELD.match(message)
    if field is None:
        value = _value_at(table, keys)
        given = f" (it is {value!r})" if isinstance(value, (str, int, float, bool)) else ""
        return f"{where}: {keys or 'the top level'}: {message[0].lower()}{message[1:]}{given}"
    full_key = f"{keys}.{field[1]}" if keys else field[1]
    close = nearest(field[1], _known_fields(shape, keys))
    advice = f"did you mean {close!r}?" if close else f"known: {', '.join(_known_fields(shape, keys))}"
    return f"{where}: {full_key}: unknown key; {advice}"


def _steps(keys: str) -> list[str]:
    return [step for step in re.split(r"[.\[\]]+", keys) if step]


def _value_at(table: Any, keys: str) -> Any:
    for step in _steps(keys):
        try:
            table = table[int(step)] if isinstance(table, list) else table[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return table


def _known_fields(shape: type[msgspec.Struct], keys: str) -> list[str]:
    """The names that a table at `keys` may hold, found by walking the struct's types."""
    kind: Any = msgspec.inspect.type_info(shape)
    for step in _steps(keys):
        kind = _inner(kind, step)
    kind = _inner(kind, "") if isinstance(kind, msgspec.inspect.UnionType) else kind
    return [field.encode_name for field in getattr(kind, "fields", ())]


def _inner(kind: Any, step: str) -> Any:
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next((each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)), kind)
    if isinstance(kind, msgspec.inspect.StructType):
        return next((field.type for field in kind.fields if field.encode_name == step), kind)
    return getattr(kind, "item_type", getattr(kind, "value_type", kind))
