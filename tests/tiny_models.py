"""Models of a few hundred bytes, built as the formats' own writers would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

ONNX_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
}
TFLITE_TYPES = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "int8": 9,
}


# Protobuf: a field is its number and kind, then a number or a length and bytes.


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value & 0xFFFFFFFFFFFFFFFF)


def block(field: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def tensor_type(dtype: str | int, shape: Iterable[int | str] | None) -> bytes:
    element = number(1, ONNX_TYPES[dtype] if isinstance(dtype, str) else dtype)
    if shape is None:
        return block(1, element)
    sizes = b"".join(block(1, block(2, size) if isinstance(size, str) else number(1, size)) for size in shape)
    return block(1, element + block(2, sizes))


def value_info(name: str, kind: bytes) -> bytes:
    return block(1, name) + block(2, kind)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", extra: bytes = b"") -> bytes:
    return (
        b"".join(block(1, each) for each in inputs)
        + b"".join(block(2, each) for each in outputs)
        + block(4, op)
        + (block(7, domain) if domain else b"")
        + extra
    )


def onnx_model(
    dtype: str = "float32",
    shape: Sequence[int | str] = (1, 4),
    *,
    graph: bytes | None = None,
    properties: Mapping[str, str] | None = None,
    more: bytes = b"",
) -> bytes:
    """y = x, or the graph that is given."""
    if graph is None:
        kind = tensor_type(dtype, shape)
        graph = (
            block(1, node("Identity", ["x"], ["y"]))
            + block(2, "tiny")
            + block(11, value_info("x", kind))
            + block(12, value_info("y", kind))
        )
    metadata = b"".join(block(14, block(1, key) + block(2, value)) for key, value in (properties or {}).items())
    return number(1, 8) + block(2, "tests") + block(7, graph) + block(8, number(2, 13)) + metadata + more


def tflite_model(
    dtype: str = "float32",
    shape: Sequence[int] = (1, 4),
    *,
    scale: Sequence[float] | None = None,
    zero_point: Sequence[int] | None = None,
    axis: int = 0,
    signature: Sequence[int] | None = None,
    metadata: bytes | None = None,
    op: str = "RESHAPE",
) -> bytes:
    """y = x as a RESHAPE to x's own shape, or one operator of one input; custom where TFLite does not define it."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    def tensor(name: str, kind: str, buffer: int, quantised: bool, sizes: Any) -> Any:
        made = schema.TensorT()
        made.name, made.type, made.buffer, made.shape = name, TFLITE_TYPES[kind], buffer, sizes
        if quantised and scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = list(scale)
            made.quantization.zeroPoint = None if zero_point is None else list(zero_point)
            made.quantization.quantizedDimension = axis
        if quantised and signature is not None:
            made.shapeSignature = list(signature)
        return made

    def buffer(content: bytes | None) -> Any:
        made = schema.BufferT()
        made.data = None if content is None else np.frombuffer(content, dtype=np.uint8)
        return made

    code = schema.OperatorCodeT()
    code.version = 1
    code.builtinCode = getattr(schema.BuiltinOperator, op, schema.BuiltinOperator.CUSTOM)
    code.deprecatedBuiltinCode = code.builtinCode
    if code.builtinCode == schema.BuiltinOperator.CUSTOM:
        code.customCode = op
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 2] if op == "RESHAPE" else [0], [1]
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", dtype, 0, True, list(shape)),
        tensor("y", dtype, 0, True, list(shape)),
        tensor("shape", "int32", 1, False, [len(shape)]),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.description = 3, "tiny"
    model.operatorCodes, model.subgraphs = [code], [graph]
    model.buffers = [buffer(None), buffer(np.array(shape, dtype=np.int32).tobytes()), buffer(metadata)]
    if metadata is not None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = "TFLITE_METADATA", 2
        model.metadata = [entry]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def metadata_buffer(
    *,
    name: str = "tiny",
    colour: int = 1,
    mean: Sequence[float] = (127.5,),
    std: Sequence[float] = (127.5,),
    labels: Sequence[tuple[str, str]] = (),
) -> bytes:
    """TFLite's metadata of one image input and one output; labels: (file name, language)."""
    from flatbuffers import Builder

    builder = Builder(256)

    def table(fields: Mapping[int, tuple[str, int]]) -> int:
        builder.StartObject(max(fields, default=0) + 1)
        for slot, (kind, value) in fields.items():
            if kind == "offset":
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
            else:
                builder.PrependInt8Slot(slot, value, 0)
        return int(builder.EndObject())

    def tables(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def floats(values: Sequence[float]) -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependFloat32(value)
        return int(builder.EndVector())

    image = table({0: ("byte", colour)})
    content = table({0: ("byte", 2), 1: ("offset", image)})
    scaling = table({0: ("offset", floats(mean)), 1: ("offset", floats(std))})
    unit = table({0: ("byte", 1), 1: ("offset", scaling)})
    model_input = table({3: ("offset", content), 4: ("offset", tables([unit]))})
    files = [
        table(
            {0: ("offset", builder.CreateString(file)), 2: ("byte", 2), 3: ("offset", builder.CreateString(language))}
        )
        for file, language in labels
    ]
    model_output = table({6: ("offset", tables(files))})
    graph = table({2: ("offset", tables([model_input])), 3: ("offset", tables([model_output]))})
    texts = {0: name, 1: "a tiny model", 2: "7", 4: "the tests", 5: "Apache-2.0"}
    facts = {slot: ("offset", int(builder.CreateString(text))) for slot, text in texts.items()}
    root = table({**facts, 3: ("offset", tables([graph]))})
    builder.Finish(root, b"M001")
    return bytes(builder.Output())
