"""TOML -> typed structs, refused with the path of the key and, for a typo, the nearest name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from edgeinfer.errors import EdgeInferError
from edgeinfer.words import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Struct = TypeVar("Struct", bound=msgspec.Struct)

_MAX_BYTES = 1 << 20
_SHOWN_MAX = 60

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING_FIELD = re.compile(r"Object missing required field `([^`]*)`")
_WRONG_TYPE = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_OUT_OF_BOUNDS = re.compile(r"Expected `[^`]*` (>=|<=|>|<) (\S+)")
_WRONG_LENGTH = re.compile(r"Expected `(str|array)` of length (>=|<=) (\d+)")
_WRONG_WORD = re.compile(r"Invalid enum value '(.*)'")
_BOUNDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}

# What several files hold. Bounds also keep NaN and infinity out.
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Number = Annotated[float, Meta(ge=-1e12, le=1e12)]
Positive = Annotated[float, Meta(gt=0.0, le=1e12)]
CHANNELS_MAX = 1024
# Whether there are as many as the model has channels is known once it is read.
Mean = Annotated[tuple[Number, ...], Meta(min_length=1, max_length=CHANNELS_MAX)]
Std = Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=CHANNELS_MAX)]


def read_toml(path: Path, shape: type[Struct], error: type[EdgeInferError]) -> Struct:
    """The file as `shape`. Raises `error`, one line that names the file and the key."""
    if path.exists() and not path.is_file():
        raise error(f"{path} is not a regular file")
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


def convert(
    table: Any, shape: type[Struct], error: type[EdgeInferError], *, where: str = "", name: Callable[[str], str] = str
) -> Struct:
    """A decoded TOML table as `shape`. Raises `error`: `where`, then the path of the key as `name` writes it."""
    try:
        return msgspec.convert(table, shape)
    except msgspec.ValidationError as refused:
        message, _, path = str(refused).partition(" - at ")
        # `$.a[0].b`, or for a key of a table: `key` in `$.a`.
        keys = path.rpartition("`$")[2].rstrip("`").removeprefix(".")
        raise error(_one_line(where, keys, message, table, shape, name)) from refused


def _one_line(
    where: str, keys: str, message: str, table: Any, shape: type[msgspec.Struct], name: Callable[[str], str]
) -> str:
    begin = f"{where}: " if where else ""
    for pattern, field_of in ((_UNKNOWN_FIELD, _unknown_key), (_MISSING_FIELD, _missing_key)):
        if field := pattern.match(message):
            full_key = f"{keys}.{field[1]}" if keys else field[1]
            return f"{begin}{name(full_key)}: {field_of(field[1], shape, keys)}"
    value = _value_at(table, keys)
    given = f" (it is {_shortened(value)!r})" if isinstance(value, (str, int, float, bool)) else ""
    place = f"{name(keys)}: " if keys else ""
    return f"{begin}{place}{_in_plain_words(message, shape, keys)}{given}"


def _unknown_key(field: str, shape: type[msgspec.Struct], keys: str) -> str:
    known = _known_fields(shape, keys)
    close = nearest(field, known)
    return f"unknown key; did you mean {close!r}?" if close else f"unknown key; known: {', '.join(known)}"


def _missing_key(field: str, shape: type[msgspec.Struct], keys: str) -> str:
    return "is missing"


def _in_plain_words(message: str, shape: type[msgspec.Struct], keys: str) -> str:
    """What msgspec says, for somebody who knows neither it nor Python."""
    if wrong := _WRONG_TYPE.match(message):
        return f"must be {_type_words(wrong[1])}, not {_type_words(wrong[2])}"
    if bound := _OUT_OF_BOUNDS.match(message):
        return f"must be {_BOUNDS[bound[1]]} {float(bound[2]):g}"
    if length := _WRONG_LENGTH.match(message):
        unit = "characters" if length[1] == "str" else "entries"
        return f"must have {_BOUNDS[length[2]]} {length[3]} {unit}"
    kind, description = _kind_at(shape, keys)
    if message.startswith("Expected `str` matching") and description:
        return f"must be {description}"
    if enum := _WRONG_WORD.match(message):
        words = _bare(kind.key_type)[0] if isinstance(kind, msgspec.inspect.DictType) else kind
        known = [str(value) for value in getattr(words, "values", ())]
        close = nearest(enum[1], known)
        return f"did you mean {close!r}?" if close else f"known: {', '.join(known)}"
    return message[0].lower() + message[1:]


def _type_words(types: str) -> str:
    words = (_TYPES.get(each, each) for each in types.split(" | ") if each != "null" or types == "null")
    return " or ".join(dict.fromkeys(words))


def _shortened(value: Any) -> Any:
    return value[: _SHOWN_MAX - 1] + "…" if isinstance(value, str) and len(value) > _SHOWN_MAX else value


def _steps(keys: str) -> list[str]:
    """`a[0].b[...]` as a, 0, b and "...", which stands for some key of a table."""
    return [index or name for index, name in re.findall(r"\[([^\]]*)\]|([^.\[\]]+)", keys)]


def _value_at(table: Any, keys: str) -> Any:
    for step in _steps(keys):
        try:
            table = table[int(step)] if isinstance(table, list) else table[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return table


def _known_fields(shape: type[msgspec.Struct], keys: str) -> list[str]:
    """The names that a table at `keys` may hold."""
    kind, _ = _kind_at(shape, keys)
    return [field.encode_name for field in getattr(kind, "fields", ())]


def _kind_at(shape: type[msgspec.Struct], keys: str) -> tuple[Any, str]:
    """The type at `keys`, found by walking the struct's types, and its description where it has one."""
    kind, description = _bare(msgspec.inspect.type_info(shape))
    for step in _steps(keys):
        if isinstance(kind, msgspec.inspect.StructType):
            inner: Any = next((field.type for field in kind.fields if field.encode_name == step), kind)
        else:
            inner = getattr(kind, "item_type", getattr(kind, "value_type", kind))
        kind, description = _bare(inner)
    return kind, description


def _bare(kind: Any) -> tuple[Any, str]:
    """Without "or None" and without what is told about it; and its description."""
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next((each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)), kind)
    if isinstance(kind, msgspec.inspect.Metadata):
        return kind.type, (kind.extra_json_schema or {}).get("description", "")
    return kind, ""
