from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TFLITE_TYPES, metadata_buffer, tflite_model

from edgeinfer.bundle.flatbuffer import FlatbufferError, read_root
from edgeinfer.bundle.tflite import OPERATORS, read_tflite
from edgeinfer.errors import ModelError
from edgeinfer.tensor import Quantization

TEST_DATA = Path(__file__).parents[3] / "../shared/testdata"
PATH = Path("tiny.tflite")


def read(content: bytes):
    return read_tflite(PATH, content, "0" * 64)


def refusal(content: bytes) -> str:
    with pytest.raises(ModelError) as refused:
        read(content)
    message = str(refused.value)
    assert message.startswith("tiny.tflite")
    assert "\n" not in message
    return message


def is_refused(content: bytes) -> bool:
    """Whether the content is refused, in one line; anything but a ModelError is a failure."""
    try:
        read(content)
    except ModelError as refused:
        return len(str(refused).splitlines()) == 1 or pytest.fail(f"{str(refused)!r} is more than one line")
    return False


def zipped(content: bytes, **files: str) -> bytes:
    """The model with files appended as TFLite's metadata writer appends them."""
    archive = io.BytesIO()
    archive.write(content)
    with zipfile.ZipFile(archive, "a") as appended:
        for name, text in files.items():
            appended.writestr(name, text)
    return archive.getvalue()


@pytest.fixture(scope="module")
def real() -> Path:
    folder = TEST_DATA / "models"
    if not folder.is_dir():
        pytest.skip("the test data (../shared/testdata) are not here")
    return folder


@pytest.mark.parametrize("dtype", TFLITE_TYPES)
def test_every_dtype_is_read(dtype):
    file = read(tflite_model(dtype, (1, 2, 3)))
    assert file.inputs[0].dtype == np.dtype(dtype)
    assert file.inputs[0].shape == (1, 2, 3)
    assert (file.inputs[0].name, file.outputs[0].name) == ("x", "y")


def test_quantisation_of_a_tensor_and_of_its_channels():
    whole = read(tflite_model("int8", scale=[0.5], zero_point=[-3]))
    assert whole.inputs[0].quantization == Quantization((0.5,), (-3,))
    channels = read(tflite_model("int8", (1, 3), scale=[0.5, 0.25, 1.0], zero_point=[0, 1, 2], axis=1))
    assert channels.outputs[0].quantization == Quantization((0.5, 0.25, 1.0), (0, 1, 2), axis=1)


@pytest.mark.parametrize("scale", [None, [], [0.0]])
def test_no_scale_and_a_scale_of_zero_mean_not_quantised(scale):
    assert read(tflite_model("int8", scale=scale, zero_point=[0])).inputs[0].quantization is None


def test_a_missing_zero_point_is_zero():
    assert read(tflite_model("uint8", scale=[0.5])).inputs[0].quantization == Quantization((0.5,), (0,))


@pytest.mark.parametrize(
    ("scale", "zero_point", "said"),
    [
        ([float("nan")], [0], "a quantisation scale of nan"),
        ([-0.5], [0], "a quantisation scale of -0.5"),
        ([0.5], [128], "zero points [128] for 1 scales of int8"),
        ([0.5, 0.5], [0, 0], "2 quantisation scales along axis 0 of [1, 4]"),
    ],
)
def test_impossible_quantisation_is_refused(scale, zero_point, said):
    assert said in refusal(tflite_model("int8", scale=scale, zero_point=zero_point))


@pytest.mark.parametrize(
    ("shape", "signature", "free"),
    [
        ((1, 4), (-1, 4), (1, 4)),
        ((1, 1, 1, 3), (-1, -1, -1, 3), (1, -1, -1, 3)),
        ((2, 4), (-1, 4), (-1, 4)),
        ((1,), (-1,), (-1,)),
        ((1, 4), (), (1, 4)),
    ],
)
def test_the_signature_says_which_sizes_are_free(shape, signature, free):
    assert read(tflite_model("float32", shape, signature=signature)).inputs[0].shape == free


def test_operators_are_counted_and_custom_ones_named():
    file = read(tflite_model(op="edgetpu-custom-op"))
    assert dict(file.ops) == {"edgetpu-custom-op": 1}
    assert file.custom_ops == {"edgetpu-custom-op"}
    assert file.output_ops == ("edgetpu-custom-op",)
    assert read(tflite_model()).output_ops == ("RESHAPE",)


def test_the_operators_are_those_of_the_schema():
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    known = {value: name for name, value in vars(BuiltinOperator).items() if isinstance(value, int)}
    assert dict(enumerate(OPERATORS)).items() <= known.items()


def test_metadata_is_read():
    content = zipped(
        tflite_model(metadata=metadata_buffer(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), labels=[("names.txt", "")])),
        **{"names.txt": "person\n???\n  cat  \n\n"},
    )
    metadata = read(content).metadata
    assert (metadata.name, metadata.version, metadata.author) == ("tiny", "7", "the tests")
    assert (metadata.description, metadata.licence) == ("a tiny model", "Apache-2.0")
    assert (metadata.colour, metadata.mean, metadata.std) == ("rgb", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert metadata.labels == ("person", "???", "cat")


def test_the_labels_that_the_metadata_name_win_and_english_ones_first():
    languages = [("de.txt", "de"), ("en.txt", "en")]
    content = zipped(
        tflite_model(metadata=metadata_buffer(labels=languages)),
        **{"de.txt": "Katze", "en.txt": "cat", "readme.txt": "hello"},
    )
    assert read(content).metadata.labels == ("cat",)


def test_without_metadata_the_only_text_file_holds_the_labels():
    assert read(zipped(tflite_model(), **{"a.txt": "cat\ndog"})).metadata.labels == ("cat", "dog")
    assert read(zipped(tflite_model(), **{"a.txt": "cat", "b.txt": "dog"})).metadata.labels is None
    assert read(tflite_model()).metadata.labels is None


def test_labels_named_but_never_appended_are_no_fault():
    # As edgetpu_compiler leaves it.
    assert read(tflite_model(metadata=metadata_buffer(labels=[("names.txt", "")]))).metadata.labels is None


def test_appended_labels_that_are_cut_off_are_a_fault():
    model = tflite_model(metadata=metadata_buffer(labels=[("names.txt", "")]))
    whole = zipped(model, **{"names.txt": "cat\ndog\n" * 20})
    assert "appended labels are broken" in refusal(whole[:-30])
    flipped = bytearray(whole)
    flipped[whole.index(b"cat\ndog")] ^= 1
    assert "appended labels are broken" in refusal(bytes(flipped))


def test_labels_without_end_are_refused():
    archive = io.BytesIO(tflite_model())
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as appended:
        appended.writestr("bomb.txt", b"a" * (5 << 20))
    assert "are larger than" in refusal(archive.getvalue())


def test_a_normalisation_that_divides_by_zero_is_refused():
    assert "in its metadata, a mean" in refusal(tflite_model(metadata=metadata_buffer(std=(0.0,))))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no TFL3 mark"),
        (b"hello, I am no model at all", "no TFL3 mark"),
        (b"\xff\xff\xff\x7fTFL3", "a table reaches 2147483643 bytes past the end"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", 1 << 30), "before the beginning"),
    ],
)
def test_what_is_no_model_says_so(content, said):
    assert said in refusal(content)


def test_every_truncation_is_refused():
    content = tflite_model("int8", scale=[0.5], zero_point=[3], metadata=metadata_buffer())
    for size in range(len(content)):
        # The last bytes may be padding that nothing points to.
        assert is_refused(content[:size]) or len(content) - size < 8, f"cut at {size} of {len(content)}"


def test_every_flipped_bit_is_refused_or_read():
    content = tflite_model("int8", scale=[0.5], zero_point=[3], metadata=metadata_buffer(labels=[("l.txt", "")]))
    refused = 0
    for position in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        refused += is_refused(bytes(flipped))
    assert refused > 500


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_mark_are_refused_or_read(tail):
    is_refused(b"\x10\0\0\0TFL3" + tail)


def test_a_list_that_names_one_table_for_ever_is_refused():
    count = 1 << 18
    # A root table whose one field is a vector of offsets.
    root = struct.pack("<HHHH", 6, 8, 4, 0) + struct.pack("<iI", 8, 4)
    content = struct.pack("<I", 16) + b"TEST" + root + struct.pack("<I", count) + b"\0" * (4 * count)
    with pytest.raises(FlatbufferError, match="at most 131072"):
        read_root(content, b"TEST").tables(0)


def test_tensors_operators_and_weights_are_checked_before_an_interpreter_sees_them():
    content = tflite_model()
    assert "uses tensor 9 of 3" in refusal(patched(content, operator_input=9))
    assert "uses tensor -7 of 3" in refusal(patched(content, operator_input=-7))
    assert "uses tensor 3 of 3" in refusal(patched(content, graph_output=3))
    assert "has code 4 of 1" in refusal(patched(content, opcode=4))
    assert "in buffer 77 of 3" in refusal(patched(content, buffer=77))
    assert "schema version 4" in refusal(patched(content, version=4))


def patched(content: bytes, **values: int) -> bytes:
    """The same model, packed again with impossible values."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for what, value in values.items():
        if what == "operator_input":
            graph.operators[0].inputs = [value]
        elif what == "graph_output":
            graph.outputs = [value]
        elif what == "opcode":
            graph.operators[0].opcodeIndex = value
        elif what == "buffer":
            graph.tensors[0].buffer = value
        elif what == "version":
            model.version = value
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_weights_outside_of_the_file_are_refused():
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model = schema.ModelT.InitFromPackedBuf(tflite_model(), 0)
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 100, 1 << 40
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert "weights reach" in refusal(bytes(builder.Output()))


def test_a_type_that_cannot_be_fed_is_named():
    content = tflite_model()
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.subgraphs[0].tensors[0].type = schema.TensorType.STRING
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert "input 0, 'x', is of type string" in refusal(bytes(builder.Output()))


def test_an_input_of_a_terabyte_is_refused():
    assert "has more than 268435456 elements" in refusal(tflite_model("float32", (1, 1 << 20, 1 << 20)))


def test_real_models_read_as_the_interpreter_reads_them(real):
    from ai_edge_litert.interpreter import Interpreter

    for path in sorted([*real.glob("*.tflite"), *real.glob("mlperf_tiny/*.tflite")]):
        file = read_tflite(path, path.read_bytes(), "")
        interpreter = Interpreter(str(path))
        for specs, details in (
            (file.inputs, interpreter.get_input_details()),
            (file.outputs, interpreter.get_output_details()),
        ):
            assert len(specs) == len(details), path.name
            for spec, each in zip(specs, details, strict=True):
                assert spec.name == each["name"], path.name
                assert spec.dtype == each["dtype"], path.name
                assert list(spec.shape) == list(each["shape"]), path.name
                stated = each["quantization_parameters"]
                scale = spec.quantization.scale if spec.quantization else ()
                assert scale == pytest.approx(list(stated["scales"])), path.name


def test_real_metadata(real):
    path = real / "ssd_mobilenet_v1_coco.tflite"
    file = read_tflite(path, path.read_bytes(), "")
    assert file.custom_ops == {"TFLite_Detection_PostProcess"}
    assert file.output_ops == ("TFLite_Detection_PostProcess",) * 4
    assert file.metadata.colour == "rgb"
    assert file.metadata.labels is not None
    assert file.metadata.labels[0] == "person"
    assert len(file.metadata.labels) == 90
