"""A .onnx file -> what is known of the model, read from the wire format without the onnx package."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from edgeinfer.bundle.facts import Metadata, ModelFile
from edgeinfer.bundle.limits import MAX_MODEL_BYTES, beyond_limits
from edgeinfer.errors import ModelError
from edgeinfer.tensor import TensorSpec

_MAX_DEPTH = 16  # Graphs inside operators, as in `If` and `Loop`.
_MAX_TEXT_BYTES = 1 << 20
_MAX_LABELS = 100_000

_ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

# TensorProto.DataType, as numpy calls it; the ones left out cannot be fed from Python.
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_OTHER_TYPES = {8: "string", 14: "complex64", 15: "complex128", 16: "bfloat16"}
# TypeProto's alternatives to a tensor.
_OTHER_VALUES = {4: "a sequence", 5: "a map", 7: "an opaque value", 8: "a sparse tensor", 9: "an optional value"}


def read_onnx(path: Path, content: bytes, sha256: str) -> ModelFile:
    """The facts of an ONNX model; `path` is for messages only. Raises ModelError."""
    if len(content) > MAX_MODEL_BYTES:
        raise ModelError(f"{path} has {len(content)} bytes, at most {MAX_MODEL_BYTES} are allowed")
    try:
        return _read(path, content, sha256)
    except _Broken as broken:
        raise ModelError(f"{path} is not an ONNX model, or cut off or damaged: {broken}") from broken
    except _Unusable as unusable:
        raise ModelError(f"{path}: {unusable}", hint=unusable.hint) from unusable


class _Broken(Exception):
    """Bytes that are no protobuf message of this kind."""


class _Unusable(Exception):
    """A sound file that holds something which cannot be used."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def _read(path: Path, content: bytes, sha256: str) -> ModelFile:
    model = _Model.read(_Message(content, 0, len(content)))
    graph = _Graph.read(model.graph, model.functions)
    if not graph.outputs:
        raise _Broken("its graph has no outputs")
    return ModelFile(
        path=path,
        format="onnx",
        sha256=sha256,
        size_bytes=len(content),
        inputs=tuple(_spec(each, "input") for each in graph.inputs if each.text(1) not in graph.initializers),
        outputs=tuple(_spec(each, "output") for each in graph.outputs),
        ops=graph.ops,
        output_ops=tuple(graph.makers.get(each.text(1), "") for each in graph.outputs),
        custom_ops=frozenset(graph.custom_ops),
        metadata=_metadata(model),
        is_quantised=any("Quantize" in op or op.endswith("Integer") or op.startswith("QLinear") for op in graph.ops),
    )


class _Message:
    """One protobuf message inside the file; fields are read in the order in which they lie there."""

    __slots__ = ("_content", "_end", "_start")

    def __init__(self, content: bytes, start: int, end: int) -> None:
        self._content = content
        self._start = start
        self._end = end

    def fields(self) -> Iterator[tuple[int, int | _Message]]:
        """(number, value): an integer, or for anything with a length the bytes as a message not yet read."""
        content, at, end = self._content, self._start, self._end
        while at < end:
            key, at = _varint(content, at, end)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise _Broken("a field has the number 0")
            if kind == 0:
                value, at = _varint(content, at, end)
                yield number, value
            elif kind == 2:
                size, at = _varint(content, at, end)
                if at + size > end:
                    raise _Broken(f"a field reaches {at + size - end} bytes past the end")
                yield number, _Message(content, at, at + size)
                at += size
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
                if at > end:
                    raise _Broken(f"a field reaches {at - end} bytes past the end")
            else:
                raise _Broken(f"a field is of the unknown kind {kind}")

    def messages(self, number: int) -> Iterator[_Message]:
        for found, value in self.fields():
            if found == number:
                yield _as_message(value)

    def message(self, number: int) -> _Message | None:
        return next(self.messages(number), None)

    def integer(self, number: int) -> int | None:
        """The field as int64, or None where it is left out."""
        for found, value in self.fields():
            if found == number:
                return _as_integer(value)
        return None

    def text(self, number: int) -> str:
        """The field as a string, "" where it is left out."""
        found = self.message(number)
        return "" if found is None else found.decode()

    def decode(self, *, errors: Literal["strict", "replace"] = "strict") -> str:
        if self._end - self._start > _MAX_TEXT_BYTES:
            raise _Broken(f"a text of {self._end - self._start} bytes")
        try:
            return self._content[self._start : self._end].decode(errors=errors)
        except UnicodeDecodeError as broken:
            raise _Broken("a name is not UTF-8 text") from broken


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """(value, where it ends)"""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Broken("it ends inside of a number")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise _Broken("a number is longer than ten bytes")


def _as_message(value: int | _Message) -> _Message:
    if isinstance(value, int):
        raise _Broken("a number stands where a message is due")
    return value


def _as_integer(value: int | _Message) -> int:
    if not isinstance(value, int):
        raise _Broken("a message stands where a number is due")
    return value - (1 << 64) if value >= 1 << 63 else value


@dataclass(slots=True)
class _Model:
    """ModelProto, as far as it is used; functions: (domain, name) of operators that the file itself defines."""

    graph: _Message
    functions: set[tuple[str, str]]
    properties: dict[str, str]
    producer: str
    version: int
    description: str

    @staticmethod
    def read(message: _Message) -> _Model:
        graph: _Message | None = None
        texts = {2: "", 3: "", 6: ""}
        version = 0
        functions: set[tuple[str, str]] = set()
        properties: dict[str, str] = {}
        for number, value in message.fields():
            if number == 7:
                graph = _as_message(value)
            elif number in texts:
                texts[number] = _as_message(value).decode(errors="replace")
            elif number == 5:
                version = _as_integer(value)
            elif number == 14:
                properties[_as_message(value).text(1)] = _as_message(value).text(2)
            elif number == 25:
                functions.add((_as_message(value).text(10), _as_message(value).text(1)))
        if graph is None:
            raise _Broken("it holds no graph")
        return _Model(graph, functions, properties, f"{texts[2]} {texts[3]}".strip(), version, texts[6])


@dataclass(slots=True)
class _Graph:
    """GraphProto, as far as it is used; `ops` and `custom_ops` count the graphs inside operators too."""

    inputs: list[_Message] = field(default_factory=list)
    outputs: list[_Message] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)
    makers: dict[str, str] = field(default_factory=dict)
    ops: Counter[str] = field(default_factory=Counter)
    custom_ops: set[str] = field(default_factory=set)

    @staticmethod
    def read(message: _Message, functions: set[tuple[str, str]], depth: int = 0) -> _Graph:
        if depth > _MAX_DEPTH:
            raise _Broken(f"graphs inside of graphs, more than {_MAX_DEPTH} deep")
        graph = _Graph()
        for number, value in message.fields():
            if number == 1:
                graph._add_node(_as_message(value), functions, depth)
            elif number == 5:
                graph._add_initializer(_as_message(value))
            elif number == 11:
                graph.inputs.append(_as_message(value))
            elif number == 12:
                graph.outputs.append(_as_message(value))
        return graph

    def _add_initializer(self, tensor: _Message) -> None:
        _refuse_external(tensor)
        self.initializers.add(tensor.text(8))

    def _add_node(self, node: _Message, functions: set[tuple[str, str]], depth: int) -> None:
        outputs: list[str] = []
        name, domain = "", ""
        for number, value in node.fields():
            if number == 2:
                outputs.append(_as_message(value).decode())
            elif number == 4:
                name = _as_message(value).decode()
            elif number == 7:
                domain = _as_message(value).decode()
            elif number == 5:
                self._add_attribute(_as_message(value), functions, depth)
        if not name:
            raise _Broken("an operator without a name")
        self.ops[name] += 1
        self.makers.update(dict.fromkeys(outputs, name))
        if domain not in _ONNX_DOMAINS and (domain, name) not in functions:
            self.custom_ops.add(name)

    def _add_attribute(self, attribute: _Message, functions: set[tuple[str, str]], depth: int) -> None:
        for number, value in attribute.fields():
            if number in (5, 10):
                _refuse_external(_as_message(value))
            elif number in (6, 11):
                inner = _Graph.read(_as_message(value), functions, depth + 1)
                self.ops.update(inner.ops)
                self.custom_ops |= inner.custom_ops


def _refuse_external(tensor: _Message) -> None:
    """Weights in other files are refused: a model's sha256 would not say which weights computed a result."""
    for entry in tensor.messages(13):
        if entry.text(1) == "location":
            raise _Unusable(
                f"keeps weights in another file, {entry.text(2)!r}",
                "save it as one file, as in onnx.save_model(model, path, save_as_external_data=False)",
            )


def _spec(value: _Message, place: str) -> TensorSpec:
    name = value.text(1)
    kind = value.message(2)
    if not name or kind is None:
        raise _Broken(f"an {place} without a name or a type")
    tensor: _Message | None = None
    for number, inner in kind.fields():
        if number in _OTHER_VALUES:
            raise _Unusable(f"{place} {name!r} is {_OTHER_VALUES[number]}, only tensors can be used here")
        if number == 1:
            tensor = _as_message(inner)
    if tensor is None:
        raise _Broken(f"{place} {name!r} has no type")
    element = tensor.integer(1) or 0
    if element not in _DTYPES:
        what = _OTHER_TYPES.get(element, f"number {element}")
        raise _Unusable(f"{place} {name!r} is of type {what}, which cannot be used here")
    spec = TensorSpec(name, _shape(tensor, place, name), np.dtype(_DTYPES[element]))
    too_large = beyond_limits(spec)
    if too_large is not None:
        raise _Unusable(f"{place} {too_large}")
    return spec


def _shape(tensor: _Message, place: str, name: str) -> tuple[int, ...]:
    shape = tensor.message(2)
    if shape is None:
        if place == "input":
            raise _Unusable(f"{place} {name!r} does not say its shape")
        return ()
    # A dimension is a number or a word (`batch`); some exporters write 0 or -1 for "free".
    return tuple(max(size, 0) or -1 for size in (each.integer(1) or 0 for each in shape.messages(1)))


def _metadata(model: _Model) -> Metadata:
    properties = model.properties
    return Metadata(
        name=properties.get("name") or None,
        description=properties.get("description") or model.description or None,
        version=_version(model),
        author=properties.get("author") or None,
        licence=properties.get("license") or properties.get("licence") or None,
        labels=_labels(properties.get("names", "")),
        extra=properties,
    )


def _version(model: _Model) -> str | None:
    # Ultralytics writes its own version there, which says nothing of the weights.
    if model.properties.get("author") != "Ultralytics" and model.properties.get("version"):
        return model.properties["version"]
    return str(model.version) if model.version > 0 else None


_LABEL = re.compile(r"""\s*(\d{1,6})\s*:\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*([,}])""", re.DOTALL)


def _labels(names: str) -> tuple[str, ...] | None:
    """Ultralytics' `{0: 'person', 1: 'bicycle'}` as labels; None where it is anything else."""
    text = names.strip()
    if not text.startswith("{"):
        return None
    found: dict[int, str] = {}
    at = 1
    while match := _LABEL.match(text, at):
        try:
            # One quoted string at a time: nothing that is nested ever reaches the parser.
            found[int(match[1])] = str(ast.literal_eval(match[2]))
        except (SyntaxError, ValueError):
            return None
        at = match.end()
        if match[3] == "}" or len(found) > _MAX_LABELS:
            break
    if at != len(text) or sorted(found) != list(range(len(found))):
        return None
    return tuple(found[index] for index in range(len(found))) or None
