"""What every runtime promises, asked of every registered one."""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import ONNX_TYPES, onnx_model, tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound, ModelError
from edgeinfer.runtimes import RUNTIMES, Runtime, RuntimeOptions

UNITS = {"fake": "", "litert": "cpu", "onnx": "cpu", "openvino": "cpu", "tflite": "cpu"}
FORMATS = {"fake": "tflite", "litert": "tflite", "onnx": "onnx", "openvino": "tflite", "tflite": "tflite"}
READ_EVERY_FORMAT = ("fake", "openvino")
DTYPES = tuple(ONNX_TYPES)
SHAPE = (1, 3, 4)

OpenTiny = Callable[..., Runtime]


def write_tiny(folder: Path, format_: str, dtype: str, shape, **more) -> ModelFile:
    path = folder / f"{dtype}.{format_}"
    path.write_bytes(onnx_model(dtype, shape) if format_ == "onnx" else tflite_model(dtype, shape, **more))
    return read_model_file(path)


@pytest.fixture(scope="module", params=RUNTIMES.names())
def name(request, tmp_path_factory) -> str:
    if request.param not in UNITS:
        pytest.skip(f"{request.param} comes from another package")
    file = write_tiny(tmp_path_factory.mktemp("probe"), FORMATS[request.param], "float32", SHAPE)
    try:
        RUNTIMES.get(request.param)(file, UNITS[request.param], RuntimeOptions()).close()
    except DeviceNotFound as missing:
        pytest.skip(str(missing))
    return str(request.param)


@pytest.fixture
def tiny(name, tmp_path) -> Callable[..., ModelFile]:
    """A model y = x of the runtime's format, read from a file."""

    def make(dtype: str = "float32", shape=SHAPE, **more) -> ModelFile:
        return write_tiny(tmp_path, FORMATS[name], dtype, shape, **more)

    return make


@pytest.fixture
def open_(name) -> Iterator[OpenTiny]:
    opened: list[Runtime] = []

    def open_runtime(file: ModelFile, options: RuntimeOptions | None = None) -> Runtime:
        opened.append(RUNTIMES.get(name)(file, UNITS[name], options or RuntimeOptions(threads=1)))
        return opened[-1]

    yield open_runtime
    for runtime in opened:
        runtime.close()


def some_values(dtype: str, shape=SHAPE) -> np.ndarray:
    values = np.arange(np.prod(shape)).reshape(shape)
    return (values % 2 == 1) if dtype == "bool" else values.astype(dtype)


def expected(name: str, values: np.ndarray) -> np.ndarray:
    # The fake computes nothing: its outputs are real zeros.
    return np.zeros_like(values) if name == "fake" else values


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_in_and_comes_out(name, tiny, open_, dtype):
    runtime = open_(tiny(dtype))
    assert [spec.dtype for spec in runtime.inputs] == [np.dtype(dtype)]
    values = some_values(dtype)
    runtime.input()[...] = values
    (output,) = runtime.run()
    assert output.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(output, expected(name, values))


def test_the_device_says_what_it_is(name, tiny, open_):
    unit = UNITS[name]
    assert open_(tiny()).device == (f"{name}:{unit}" if unit else name)


def test_specs_are_those_of_the_file(tiny, open_):
    file = tiny()
    runtime = open_(file)
    assert runtime.inputs == file.inputs
    assert runtime.outputs == file.outputs


def test_quantisation_reaches_the_specs(name, tiny, open_):
    if FORMATS[name] == "onnx":
        pytest.skip("ONNX keeps quantisation in operators, not in tensors")
    runtime = open_(tiny("int8", scale=[0.5], zero_point=[3]))
    assert runtime.outputs[0].quantization is not None
    assert runtime.outputs[0].quantization.scale == (0.5,)


def test_the_input_is_written_in_place(name, tiny, open_):
    runtime = open_(tiny("uint8"))
    view = runtime.input()
    assert view.shape == SHAPE
    assert view.flags.writeable
    assert view.flags.c_contiguous
    view[...] = 7
    del view
    again = runtime.input()
    assert (again == 7).all(), "two looks at one input are two memories"
    del again
    (output,) = runtime.run()
    assert (output == expected(name, np.full(SHAPE, 7, np.uint8))).all()


def test_runs_do_not_remember(name, tiny, open_):
    runtime = open_(tiny("int32"))
    for value in (1, 2, 3):
        runtime.input()[...] = value
        (output,) = runtime.run()
        assert (output == expected(name, np.full(SHAPE, value, np.int32))).all()


def test_outputs_stay_valid_until_the_next_run(name, tiny, open_):
    runtime = open_(tiny("int32"))
    runtime.input()[...] = 1
    (output,) = runtime.run()
    runtime.input()[...] = 2
    assert (output == expected(name, np.full(SHAPE, 1, np.int32))).all()


def test_a_free_batch_is_one(name, tiny, open_):
    more = {} if FORMATS[name] == "onnx" else {"signature": (-1, 3, 4), "op": "NEG"}
    free = tiny(shape=("batch", 3, 4) if FORMATS[name] == "onnx" else (2, 3, 4), **more)
    runtime = open_(free)
    assert runtime.inputs[0].shape == SHAPE
    assert runtime.outputs[0].shape == SHAPE
    runtime.input()[...] = 1
    assert runtime.run()[0].shape == SHAPE


def test_another_free_size_is_named(name, tiny, open_):
    shape = (1, 1, 4)
    free = tiny(shape=(1, "rows", 4)) if FORMATS[name] == "onnx" else tiny(shape=shape, signature=(-1, -1, 4))
    with pytest.raises(ModelError, match=r"'x'.*dimension 1 free"):
        open_(free)


def test_a_free_size_that_somebody_settled_is_taken(name, tiny, open_):
    more = {} if FORMATS[name] == "onnx" else {"signature": (-1, -1, 4), "op": "NEG"}
    free = tiny(shape=(1, "rows", 4) if FORMATS[name] == "onnx" else (1, 1, 4), **more)
    settled = replace(free, inputs=(replace(free.inputs[0], shape=(1, 5, 4)),))
    runtime = open_(settled)
    runtime.input()[...] = 1
    assert runtime.inputs[0].shape == (1, 5, 4)
    if name != "fake":  # It has no way to know how the outputs follow from the inputs.
        assert runtime.run()[0].shape == (1, 5, 4)


def test_a_file_that_changed_is_refused(name, tiny, open_):
    if name == "fake":
        pytest.skip("fake never reads the file")
    file = tiny()
    file.path.write_bytes(file.path.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="has changed since it was checked"):
        open_(file)
    file.path.unlink()
    with pytest.raises(ModelError, match="cannot read"):
        open_(file)


def test_a_unit_that_is_not_there_is_said(name, tiny):
    with pytest.raises(DeviceNotFound, match=name):
        RUNTIMES.get(name)(tiny(), "quantum", RuntimeOptions())


def test_a_format_that_it_cannot_read_is_said(name, tiny):
    if name in READ_EVERY_FORMAT:
        pytest.skip(f"{name} takes any format")
    other = "tflite" if FORMATS[name] == "onnx" else "onnx"
    with pytest.raises(DeviceNotFound, match=f"{name} cannot read .*, a .{other} model"):
        RUNTIMES.get(name)(replace(tiny(), format=other), UNITS[name], RuntimeOptions())


@pytest.mark.parametrize("options", [RuntimeOptions(threads=2), RuntimeOptions(paced=True), RuntimeOptions(1, True)])
def test_options_change_no_result(name, tiny, open_, options):
    runtime = open_(tiny("int16"), options)
    runtime.input()[...] = 5
    assert (runtime.run()[0] == expected(name, np.full(SHAPE, 5, np.int16))).all()


def test_it_may_be_closed_twice(tiny, open_):
    runtime = open_(tiny())
    runtime.run()
    runtime.close()
    runtime.close()


def test_memory_comes_back_when_it_is_closed(name, tiny):
    file = tiny("float32", (1, 256, 1024))  # 1 MB
    for _ in range(3):
        open_and_close(name, file)
    gc.collect()
    before = resident_bytes()
    for _ in range(60):
        open_and_close(name, file)
    gc.collect()
    assert resident_bytes() - before < 30 << 20


def open_and_close(name: str, file: ModelFile) -> None:
    runtime = RUNTIMES.get(name)(file, UNITS[name], RuntimeOptions(threads=1))
    runtime.input()[...] = 1
    runtime.run()
    runtime.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_it_may_be_used_by_one_thread_after_another(name, tiny, open_):
    runtime = open_(tiny("int32"))
    outputs: list[np.ndarray] = []

    def use() -> None:
        runtime.input()[...] = 4
        outputs.extend(runtime.run())

    for _ in range(2):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert len(outputs) == 2
    assert (outputs[1] == expected(name, np.full(SHAPE, 4, np.int32))).all()


def test_nothing_is_printed(name, tiny, open_, capfd):
    runtime = open_(tiny())
    runtime.run()
    runtime.close()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_model_is_loaded_from_the_bytes_that_were_hashed(tiny):
    file = tiny()
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
