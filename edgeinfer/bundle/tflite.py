"""A .tflite file -> what is known of the model, without handing it to an interpreter."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.bundle.facts import Colour, Metadata, ModelFile
from edgeinfer.bundle.flatbuffer import FlatbufferError, Table, read_root
from edgeinfer.bundle.limits import MAX_MODEL_BYTES, beyond_limits
from edgeinfer.errors import ModelError
from edgeinfer.tensor import Quantization, TensorSpec

EDGETPU_OP = "edgetpu-custom-op"
DETECTION_POSTPROCESS = "TFLite_Detection_PostProcess"

_MAX_ZIPPED_FILES = 256
_MAX_LABEL_BYTES = 4 << 20
_SCHEMA_VERSION = 3
_CUSTOM = 32
_OPTIONAL = -1  # The index that an operator gives for an input it goes without.

# TensorType of the schema, as numpy calls it; the ones left out cannot be fed from Python.
_DTYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    9: "int8",
    10: "float64",
    12: "uint64",
    15: "uint32",
    16: "uint16",
}
_SCALED_INTEGERS = frozenset({3, 7, 9})  # uint8, int16, int8
_OTHER_TYPES = {
    5: "string",
    8: "complex64",
    11: "complex128",
    13: "resource",
    14: "variant",
    17: "int4",
    18: "bfloat16",
    19: "int2",
    20: "uint4",
    21: "float8_e4m3fn",
    22: "float8_e5m2",
}

# BuiltinOperator of the schema, by number from 0.
OPERATORS = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
    FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH
    SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
    BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
    ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE
    TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK
    LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL
    FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL
    REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND
    HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS
    HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE
    ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
    DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE
    STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE
    STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE
    STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG
    STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT
    STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
    STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE
    STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
""".split()  # noqa: SIM905 -- 206 names read better as words than as a list.


def read_tflite(path: Path, content: bytes, sha256: str) -> ModelFile:
    """The facts of a TFLite model; `path` is for messages only.

    All that an interpreter follows to find its tensors, operators and weights is checked to lie inside the file.
    Raises ModelError.
    """
    if len(content) > MAX_MODEL_BYTES:
        raise ModelError(f"{path} has {len(content)} bytes, at most {MAX_MODEL_BYTES} are allowed")
    if content[4:8] != b"TFL3":
        raise ModelError(f"{path} is not a TFLite model (no TFL3 mark)")
    try:
        model = _Model.read(content)
        main = model.subgraphs[0]
        makers = main.makers()
        return ModelFile(
            path=path,
            format="tflite",
            sha256=sha256,
            size_bytes=len(content),
            inputs=tuple(main.spec(index, f"input {place}") for place, index in enumerate(main.inputs)),
            outputs=tuple(main.spec(index, f"output {place}") for place, index in enumerate(main.outputs)),
            ops=Counter(name for subgraph in model.subgraphs for name, _, _ in subgraph.operators),
            output_ops=tuple(makers.get(index, "") for index in main.outputs),
            custom_ops=model.custom_ops,
            metadata=_metadata(model.metadata, content),
            detection_classes=main.detection_classes(),
            is_quantised=any(subgraph.is_quantised() for subgraph in model.subgraphs),
        )
    except FlatbufferError as broken:
        raise ModelError(f"{path} is cut off or damaged: {broken}") from broken
    except _Unusable as unusable:
        raise ModelError(f"{path}: {unusable}") from unusable


class _Unusable(Exception):
    """A sound file that holds something which cannot be used."""


@dataclass(frozen=True, slots=True)
class _Subgraph:
    """tensors: their tables; operators: (name, indices of its inputs, of its outputs)."""

    tensors: list[Table]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def makers(self) -> dict[int, str]:
        return {index: name for name, _, outputs in self.operators for index in outputs}

    def detection_classes(self) -> int | None:
        """The last size of the post-processing's scores (1, anchors, 1 + classes), less the background."""
        for name, inputs, _ in self.operators:
            if name == DETECTION_POSTPROCESS and len(inputs) > 1 and inputs[1] >= 0:
                shape = self.tensors[inputs[1]].int32s(0)
                return shape[-1] - 1 if len(shape) == 3 and shape[-1] > 1 else None
        return None

    def is_quantised(self) -> bool:
        """Whether any tensor holds scaled integers of 8 or 16 bits."""
        for tensor in self.tensors:
            quantization = tensor.table(4)
            if tensor.int8(1) in _SCALED_INTEGERS and quantization is not None and quantization.float32s(2):
                return True
        return False

    def spec(self, index: int, place: str) -> TensorSpec:
        tensor = self.tensors[index]
        name = tensor.text(3) or place
        kind = tensor.int8(1)
        if kind not in _DTYPES:
            raise _Unusable(f"{place}, {name!r}, is of type {_OTHER_TYPES[kind]}, which cannot be used here")
        dtype = np.dtype(_DTYPES[kind])
        shape = _free_shape(tensor.int32s(0), tensor.int32s(7))
        spec = TensorSpec(name, shape, dtype, _quantization(tensor.table(4), dtype, shape))
        too_large = beyond_limits(spec)
        if too_large is not None:
            raise _Unusable(f"{place}, {too_large}")
        return spec


@dataclass(frozen=True, slots=True)
class _Model:
    subgraphs: list[_Subgraph]
    custom_ops: frozenset[str]
    metadata: bytes | None

    @staticmethod
    def read(content: bytes) -> _Model:
        root = read_root(content, b"TFL3")
        if root.uint32(0) != _SCHEMA_VERSION:
            raise _Unusable(f"schema version {root.uint32(0)}, only {_SCHEMA_VERSION} is known")
        buffers = root.tables(4)
        for buffer in buffers:
            _check_buffer(buffer, len(content))
        codes = [_operator_code(code) for code in root.tables(1)]
        subgraphs = [_subgraph(graph, codes, len(buffers), len(content)) for graph in root.tables(2)]
        if not subgraphs:
            raise FlatbufferError("it holds no graph")
        _check_signatures(root.tables(7), subgraphs)
        return _Model(
            subgraphs=subgraphs,
            custom_ops=frozenset(name for name, is_custom in codes if is_custom),
            metadata=_named_buffer(root.tables(6), buffers, "TFLITE_METADATA"),
        )


def _check_buffer(buffer: Table, end: int) -> None:
    buffer.data_size(0)
    # Large models keep weights behind the flatbuffer; 0 and 1 stand for "not so".
    offset, size = buffer.uint64(1), buffer.uint64(2)
    if offset > 1 and offset + size > end:
        raise FlatbufferError(f"weights reach {offset + size - end} bytes past the end")


def _operator_code(code: Table) -> tuple[str, bool]:
    """(name, whether the format itself does not define it)"""
    # The old field is a byte that ran out of numbers; the larger of the two counts.
    number = max(code.int8(0), code.int32(3))
    if number == _CUSTOM:
        return code.text(1) or "CUSTOM", True
    if number < 0:
        raise FlatbufferError(f"operator number {number}")
    return OPERATORS[number] if number < len(OPERATORS) else f"BUILTIN_{number}", False


def _subgraph(graph: Table, codes: list[tuple[str, bool]], buffer_count: int, end: int) -> _Subgraph:
    tensors = graph.tables(0)
    for tensor in tensors:
        _check_tensor(tensor, buffer_count)
    inputs, outputs = graph.int32s(1), graph.int32s(2)
    _check_indices(inputs + outputs, len(tensors), "the graph", lowest=0)
    operators = [_operator(operator, codes, len(tensors), end) for operator in graph.tables(3)]
    return _Subgraph(tensors, inputs, outputs, operators)


def _check_tensor(tensor: Table, buffer_count: int) -> None:
    kind = tensor.int8(1)
    if kind not in _DTYPES and kind not in _OTHER_TYPES:
        raise FlatbufferError(f"a tensor is of unknown type {kind}")
    shape = tensor.int32s(0)
    if shape and min(shape) < -1:
        raise FlatbufferError(f"a tensor has a size of {min(shape)}")
    # A file without buffers is one without weights: 0 stands for "none".
    if tensor.uint32(2) >= max(1, buffer_count):
        raise FlatbufferError(f"a tensor has its weights in buffer {tensor.uint32(2)} of {buffer_count}")
    quantization = tensor.table(4)
    if quantization is not None:
        quantization.float32s(2)
        quantization.int64s(3)


def _operator(
    operator: Table, codes: list[tuple[str, bool]], tensor_count: int, end: int
) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    code = operator.uint32(0)
    if code >= len(codes):
        raise FlatbufferError(f"an operator has code {code} of {len(codes)}")
    name = codes[code][0]
    inputs, outputs = operator.int32s(1), operator.int32s(2)
    indices = inputs + outputs + operator.int32s(8)
    _check_indices(indices, tensor_count, f"operator {name!r}", lowest=_OPTIONAL)
    # What the options hold depends on the operator; that the table is one can be said of all.
    operator.table(4)
    operator.table(12)
    operator.data_size(5)
    offset, size = operator.uint64(9), operator.uint64(10)
    if offset > 1 and offset + size > end:
        raise FlatbufferError(f"the options of {name!r} reach {offset + size - end} bytes past the end")
    return name, inputs, outputs


def _check_indices(indices: tuple[int, ...], count: int, who: str, *, lowest: int) -> None:
    if indices and (min(indices) < lowest or max(indices) >= count):
        wrong = next(index for index in indices if not lowest <= index < count)
        raise FlatbufferError(f"{who} uses tensor {wrong} of {count}")


def _check_signatures(signatures: list[Table], subgraphs: list[_Subgraph]) -> None:
    for signature in signatures:
        graph = signature.uint32(4)
        if graph >= len(subgraphs):
            raise FlatbufferError(f"a signature names graph {graph} of {len(subgraphs)}")
        named = signature.tables(0) + signature.tables(1)
        _check_indices(tuple(each.uint32(1) for each in named), len(subgraphs[graph].tensors), "a signature", lowest=0)


def _named_buffer(entries: list[Table], buffers: list[Table], name: str) -> bytes | None:
    for entry in entries:
        if entry.text(0) != name:
            continue
        if entry.uint32(1) >= len(buffers):
            raise FlatbufferError(f"{name} lies in buffer {entry.uint32(1)} of {len(buffers)}")
        return buffers[entry.uint32(1)].data(0)
    return None


def _free_shape(shape: tuple[int, ...], signature: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, with -1 where the signature leaves a size free; a free batch of one is just one."""
    if len(signature) != len(shape):
        return shape
    free = tuple(-1 if stated < 0 else size for size, stated in zip(shape, signature, strict=True))
    return (1, *free[1:]) if len(shape) > 1 and shape[0] == 1 else free


def _quantization(table: Table | None, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Quantization | None:
    if table is None or dtype.kind not in "iu":
        return None
    scale, zero_point = table.float32s(2), table.int64s(3)
    if not any(scale):
        return None  # Converters write [0.0] for "not quantised".
    if not all(math.isfinite(each) and each > 0 for each in scale):
        raise FlatbufferError(f"a quantisation scale of {min(scale)}")
    if len(zero_point) in (0, 1):
        zero_point = (zero_point or (0,)) * len(scale)
    ends = np.iinfo(dtype)
    if len(zero_point) != len(scale) or not all(ends.min <= each <= ends.max for each in zero_point):
        raise FlatbufferError(f"zero points {list(zero_point[:3])} for {len(scale)} scales of {dtype.name}")
    if len(scale) == 1:
        return Quantization(scale, zero_point)
    axis = table.int32(6)
    if not 0 <= axis < len(shape) or shape[axis] not in (-1, len(scale)):
        raise FlatbufferError(f"{len(scale)} quantisation scales along axis {axis} of {list(shape)}")
    return Quantization(scale, zero_point, axis)


# TFLite's metadata: a flatbuffer of its own, and files appended to the model as a zip.

_AXIS_LABELS, _VALUE_LABELS = 2, 3
_NORMALIZATION = 1
_IMAGE = 2
_COLOURS: dict[int, Colour] = {1: "rgb", 2: "gray"}


@dataclass(frozen=True, slots=True)
class _Stated:
    """What the metadata flatbuffer says; label_files in the order to look for them."""

    facts: dict[str, Any] = field(default_factory=dict)
    label_files: tuple[str, ...] = ()


def _metadata(metadata: bytes | None, content: bytes) -> Metadata:
    stated = _Stated() if metadata is None else _read_metadata(metadata)
    labels = _zipped_labels(content, stated.label_files)
    return Metadata(**stated.facts, labels=labels)


def _read_metadata(metadata: bytes) -> _Stated:
    try:
        root = read_root(metadata, b"M001")
        facts: dict[str, Any] = {
            "name": root.text(0) or None,
            "description": root.text(1) or None,
            "version": root.text(2) or None,
            "author": root.text(4) or None,
            "licence": root.text(5) or None,
        }
        graphs = root.tables(3)
        if not graphs:
            return _Stated(facts)
        facts.update(_image_facts(graphs[0].tables(2)))
        return _Stated(facts, _label_files(graphs[0].tables(3)))
    except FlatbufferError as broken:
        raise FlatbufferError(f"in its metadata, {broken}") from broken


def _image_facts(inputs: list[Table]) -> dict[str, Any]:
    """Colour and scaling of the first input that is said to be an image, else of the first one."""
    image = next((each for each in inputs if _content(each, _IMAGE) is not None), inputs[0] if inputs else None)
    if image is None:
        return {}
    facts: dict[str, Any] = {}
    properties = _content(image, _IMAGE)
    if properties is not None:
        facts["colour"] = _COLOURS.get(properties.int8(0))
    for unit in image.tables(4):
        options = unit.table(1)
        if unit.uint8(0) == _NORMALIZATION and options is not None:
            facts.update(_normalization(options.float32s(0), options.float32s(1)))
    return facts


def _content(tensor: Table, kind: int) -> Table | None:
    content = tensor.table(3)
    return content.table(1) if content is not None and content.uint8(0) == kind else None


def _normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    if not mean or not std:
        return {}
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise FlatbufferError(f"a mean of {mean[0]} and a deviation of {std[0]}")
    return {"mean": mean, "std": std}


def _label_files(outputs: list[Table]) -> tuple[str, ...]:
    """Names of label files, first those without a language or in English."""
    files = [each for output in outputs for each in output.tables(6) if each.int8(2) in (_AXIS_LABELS, _VALUE_LABELS)]
    files.sort(key=lambda each: each.text(3) not in ("", "en"))
    return tuple(each.text(0) for each in files if each.text(0))


def _zipped_labels(content: bytes, named: tuple[str, ...]) -> tuple[str, ...] | None:
    """Labels from the zip at the end of a model: the first of `named` that is there, else its only text file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()[:_MAX_ZIPPED_FILES]}
            texts = [name for name in entries if name.endswith(".txt")]
            chosen = next((name for name in named if name in entries), texts[0] if len(texts) == 1 else None)
            if chosen is None:
                return None
            with archive.open(entries[chosen]) as file:
                raw = file.read(_MAX_LABEL_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as broken:
        if _has_appended(content, named):
            raise FlatbufferError(f"its appended labels are broken ({broken})") from broken
        return None
    if len(raw) > _MAX_LABEL_BYTES:
        raise _Unusable(f"its appended labels {chosen!r} are larger than {_MAX_LABEL_BYTES} bytes")
    # A placeholder line, as in "???", is a label like the rest: it holds a class id's place.
    return tuple(line.strip() for line in raw.decode(errors="replace").rstrip().splitlines()) or None


def _has_appended(content: bytes, named: tuple[str, ...]) -> bool:
    """Whether a file of one of these names was once appended, readable or not."""
    return any(re.search(rb"PK\x03\x04.{26}" + re.escape(name.encode()), content, re.DOTALL) for name in named)
