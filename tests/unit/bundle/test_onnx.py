from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ONNX_TYPES, block, node, number, onnx_model, tensor_type, value_info

from edgeinfer.bundle.onnx import read_onnx
from edgeinfer.errors import ModelError

TEST_DATA = Path(__file__).parents[3] / "../shared/testdata"
PATH = Path("tiny.onnx")
FLOATS = tensor_type("float32", (1, 4))


def read(content: bytes):
    return read_onnx(PATH, content, "0" * 64)


def refusal(content: bytes) -> str:
    with pytest.raises(ModelError) as refused:
        read(content)
    message = str(refused.value)
    assert message.startswith("tiny.onnx")
    assert "\n" not in message
    return message


def is_refused(content: bytes) -> bool:
    """Whether the content is refused, in one line; anything but a ModelError is a failure."""
    try:
        read(content)
    except ModelError as refused:
        return len(str(refused).splitlines()) == 1 or pytest.fail(f"{str(refused)!r} is more than one line")
    return False


def graph(*parts: bytes, x: bytes = FLOATS, y: bytes = FLOATS) -> bytes:
    return b"".join(parts) + block(11, value_info("x", x)) + block(12, value_info("y", y))


@pytest.fixture(scope="module")
def real() -> Path:
    folder = TEST_DATA / "models"
    if not folder.is_dir():
        pytest.skip("the test data (../shared/testdata) are not here")
    return folder


@pytest.mark.parametrize("dtype", ONNX_TYPES)
def test_every_dtype_is_read(dtype):
    file = read(onnx_model(dtype, (1, 2, 3)))
    assert file.inputs[0].dtype == np.dtype(dtype)
    assert file.inputs[0].shape == (1, 2, 3)
    assert (file.inputs[0].name, file.outputs[0].name) == ("x", "y")
    assert file.output_ops == ("Identity",)


def test_sizes_that_are_words_zero_or_negative_are_free():
    assert read(onnx_model("float32", ("batch", 3, 0, -1))).inputs[0].shape == (-1, 3, -1, -1)
    assert read(onnx_model("float32", ())).inputs[0].shape == ()


def test_initializers_are_no_inputs():
    weights = block(5, number(1, 4) + number(2, 1) + block(8, "w"))
    extra = block(11, value_info("w", tensor_type("float32", (4,))))
    file = read(onnx_model(graph=graph(block(1, node("Add", ["x", "w"], ["y"])), weights, extra)))
    assert [spec.name for spec in file.inputs] == ["x"]


def test_operators_are_counted_inside_of_operators_too_and_foreign_ones_named():
    inner = block(1, node("Mul", ["a"], ["b"])) + block(1, node("Strange", [], ["c"], domain="org.other"))
    branches = block(5, block(1, "then_branch") + block(6, inner))
    file = read(
        onnx_model(
            graph=graph(
                block(1, node("If", ["x"], ["t"], extra=branches)),
                block(1, node("QLinearAdd", ["t"], ["u"], domain="com.microsoft")),
                block(1, node("Ours", ["u"], ["v"], domain="this.file")),
                block(1, node("Mul", ["v"], ["y"])),
            ),
            more=block(25, block(1, "Ours") + block(10, "this.file")),
        )
    )
    assert dict(file.ops) == {"If": 1, "Mul": 2, "Strange": 1, "QLinearAdd": 1, "Ours": 1}
    assert file.custom_ops == {"Strange"}


def test_metadata_of_ultralytics():
    properties = {
        "description": "Ultralytics YOLO model",
        "author": "Ultralytics",
        "version": "8.3.0",
        "license": "AGPL-3.0",
        "stride": "32",
        "names": "{0: 'person', 1: \"driver's cab\", 2: 'a\\'b, {c}'}",
    }
    metadata = read(onnx_model(properties=properties)).metadata
    assert metadata.labels == ("person", "driver's cab", "a'b, {c}")
    assert (metadata.author, metadata.licence) == ("Ultralytics", "AGPL-3.0")
    assert metadata.version is None, "the exporter's version is not the model's"
    assert metadata.extra == properties


def test_versions_of_others():
    assert read(onnx_model(properties={"version": "2.1"})).metadata.version == "2.1"
    assert read(onnx_model(more=number(5, 7))).metadata.version == "7"


@pytest.mark.parametrize(
    "names",
    [
        "",
        "{}",
        "['a', 'b']",
        "{0: 'a', 2: 'c'}",
        "{0: 'a'",
        "{0: 'a'} ",
        "{0: __import__('os')}",
        "{0: 'a', 1: " + "(" * 10_000,
        "{0: '\\x'}",
        "{" + " " * 100_000,
    ],
)
def test_names_that_are_no_table_of_names_give_no_labels_and_no_harm(names):
    expected = ("a",) if names.strip() == "{0: 'a'}" else None
    assert read(onnx_model(properties={"names": names})).metadata.labels == expected


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "weights.bin"])
@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_weights_in_another_file_are_refused(location, where):
    tensor = number(2, 1) + block(8, "w") + block(13, block(1, "location") + block(2, location)) + number(14, 1)
    if where == "initializer":
        parts = [block(5, tensor), block(1, node("Identity", ["x"], ["y"]))]
    else:
        parts = [block(1, node("Constant", [], ["y"], extra=block(5, block(1, "value") + block(5, tensor))))]
    said = refusal(onnx_model(graph=graph(*parts)))
    assert f"keeps weights in another file, {location!r}" in said
    assert "save it as one file" in said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tensor_type(8, (1,)), "output 'y' is of type string"),
        (tensor_type(16, (1,)), "output 'y' is of type bfloat16"),
        (tensor_type(99, (1,)), "output 'y' is of type number 99"),
        (block(4, block(1, FLOATS)), "output 'y' is a sequence"),
        (block(5, b""), "output 'y' is a map"),
        (tensor_type("float32", (1 << 20, 1 << 20)), "more than 268435456 elements"),
        (tensor_type("float32", (1,) * 9), "9 dimensions"),
    ],
)
def test_what_cannot_be_read_into_an_array_is_named(kind, said):
    assert said in refusal(onnx_model(graph=graph(block(1, node("Identity", ["x"], ["y"])), y=kind)))


def test_an_input_of_unknown_shape_is_refused_and_an_output_is_not():
    unknown = tensor_type("float32", None)
    assert "does not say its shape" in refusal(onnx_model(graph=graph(x=unknown)))
    assert read(onnx_model(graph=graph(y=unknown))).outputs[0].shape == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello world, this is text",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
        b"\0" * 64,
        b"PK\x03\x04" + b"\0" * 60,
        number(1, 8),
        number(7, 8),
        b"\xff" * 11,
    ],
)
def test_what_is_no_model_says_so(content):
    assert "is not an ONNX model, or cut off or damaged" in refusal(content)


def test_a_name_that_is_no_text_is_damage():
    damaged = onnx_model().replace(b"Identity", b"Iden\xb0ity")
    assert "a name is not UTF-8 text" in refusal(damaged)


def test_graphs_inside_of_graphs_have_an_end():
    inner = block(1, node("Add", [], ["z"]))
    for _ in range(2000):
        inner = block(1, node("If", [], ["z"], extra=block(5, block(6, inner))))
    assert "more than 16 deep" in refusal(onnx_model(graph=inner + graph()))


def test_every_truncation_is_refused_or_loses_only_what_follows_the_graph():
    content = onnx_model(properties={"names": "{0: 'a'}"})
    for size in range(len(content)):
        assert is_refused(content[:size]) or read(content[:size]).inputs == read(content).inputs


def test_every_flipped_bit_is_refused_or_read():
    content = onnx_model(properties={"names": "{0: 'a'}"})
    for position in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        is_refused(bytes(flipped))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(content):
    is_refused(content)


def test_real_models_read_as_onnx_runtime_reads_them(real):
    import onnxruntime

    for path in sorted(real.glob("*.onnx")):
        file = read_onnx(path, path.read_bytes(), "")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for specs, theirs in ((file.inputs, session.get_inputs()), (file.outputs, session.get_outputs())):
            assert [spec.name for spec in specs] == [each.name for each in theirs], path.name
            for spec, each in zip(specs, theirs, strict=True):
                sizes = [size if isinstance(size, int) and size > 0 else -1 for size in each.shape]
                # ONNX Runtime infers output shapes that the file leaves free.
                assert all(ours in (-1, size) for ours, size in zip(spec.shape, sizes, strict=True)), path.name
                assert each.type == f"tensor({'float' if spec.dtype == np.float32 else spec.dtype.name})", path.name
