"""Models that are damaged, hostile or meant for something else: one error of ours, or a model that runs.

Nothing here may crash, hang or leave a traceback. What the native libraries do with damaged models is found out in
child processes, many models to a child.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import open_device
from edgeinfer.errors import DeviceNotFound, EdgeInferError, ModelError
from edgeinfer.runtimes import isolated
from edgeinfer.runtimes.delegate import LIBRARY_VARIABLE

WORKS = "works"
ONE_MODEL = "conv_fc_mnist_int8.tflite"
LSTM_MODEL = "keras_lstm_mnist_int8.tflite"
ONNX_MODEL = "mnist.onnx"
FLIPPED_MODELS = 60
FLIPPED_AND_OPENED = 3


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


@pytest.fixture
def models(test_data) -> Path:
    return test_data / "models"


def outcome(path: Path, device: str = "auto", **more: float) -> str:
    """WORKS, or the error's exit code and line; anything that is not ours comes out as it is."""
    try:
        runtime = open_device(read_model_file(path), device, threads=1, **more)
    except (ModelError, DeviceNotFound) as refused:
        (line,) = str(refused).splitlines()
        return f"{refused.exit_code} {line}"
    try:
        for index in range(len(runtime.inputs)):
            runtime.input(index)[...] = 0
        runtime.run()
    finally:
        runtime.close()
    return WORKS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.tflite", b"", "is empty"),
        ("empty.onnx", b"", "is empty"),
        ("text.tflite", b"This is a letter and no model.\n" * 50, "is not a TFLite model (no TFL3 mark)"),
        ("text.onnx", b"This is a letter and no model.\n" * 50, "is not an ONNX model"),
        ("page.onnx", b"<!DOCTYPE html><html>404</html>", "is not an ONNX model"),
        ("pointer.tflite", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "no TFL3 mark"),
        ("mark.tflite", b"\x1c\0\0\0TFL3", "is cut off or damaged"),
        ("zeros.tflite", b"\0\0\0\0TFL3" + bytes(4096), "is cut off or damaged"),
        ("zeros.onnx", bytes(4096), "is not an ONNX model"),
    ],
)
def test_what_is_no_model_is_said_before_anything_loads_it(tmp_path, name, content, said, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **more: pytest.fail("a child was started"))
    (tmp_path / name).write_bytes(content)
    got = outcome(tmp_path / name)
    assert got.startswith("3 ")
    assert said in got


@pytest.mark.parametrize("name", [ONE_MODEL, "ssd_mobilenet_v1_coco.tflite", ONNX_MODEL, "yunet_n_320.onnx"])
def test_a_model_that_is_cut_off_is_refused(models, tmp_path, name):
    content = (models / name).read_bytes()
    sizes = [1, 4, 7, 8, 9, 64, 1000, *(len(content) * part // 100 for part in (1, 10, 25, 50, 75, 90, 97, 99))]
    for size in [*sizes, len(content) - 1000, len(content) - 100, len(content) - 1]:
        path = tmp_path / f"{size}{Path(name).suffix}"
        path.write_bytes(content[:size])
        got = outcome(path)
        assert got.startswith("3 "), f"{name} cut at {size} of {len(content)}: {got}"


def flipped(content: bytes, seed: int) -> bytes:
    """One to three bits wrong: half of the time where the tables are, in the first and the last of the file."""
    dice = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(dice.choice((1, 1, 3))):
        table = min(len(content), 6000)
        place = dice.choice((dice.randrange(table), len(content) - 1 - dice.randrange(table)))
        damaged[dice.choice((place, dice.randrange(len(content))))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


# Prints a line for each model that it survived; where it dies, the parent goes on with the next.
_RUN_MANY = """
import sys
from pathlib import Path
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import EdgeInferError
from edgeinfer.runtimes import RUNTIMES, RuntimeOptions

for path in map(Path, sys.argv[2:]):
    try:
        runtime = RUNTIMES.get(sys.argv[1])(read_model_file(path), "cpu", RuntimeOptions(threads=1))
        for index in range(len(runtime.inputs)):
            runtime.input(index)[...] = 0
        runtime.run()
        runtime.close()
        print(path.name, "works", flush=True)
    except EdgeInferError as refused:
        print(path.name, type(refused).__name__, flush=True)
"""


def run_many(runtime: str, paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """(path, what became of it), `killed N` where it took the process with it."""
    while paths:
        done = subprocess.run(
            [sys.executable, "-c", _RUN_MANY, runtime, *map(str, paths)],
            capture_output=True,
            text=True,
            timeout=100,
        )
        lines = done.stdout.splitlines()
        for path, line in zip(paths, lines, strict=False):
            yield path, line.partition(" ")[2]
        assert "Traceback" not in done.stderr, done.stderr
        paths = paths[len(lines) :]
        if paths:
            yield paths[0], f"killed {done.returncode}"
            paths = paths[1:]


@pytest.mark.parametrize(("name", "runtime"), [(ONE_MODEL, "litert"), (LSTM_MODEL, "litert"), (ONNX_MODEL, "onnx")])
def test_bits_that_flipped_are_refused_or_computed_with(models, tmp_path, name, runtime):
    content = (models / name).read_bytes()
    paths = []
    for seed in range(FLIPPED_MODELS):
        paths.append(tmp_path / f"{seed}{Path(name).suffix}")
        paths[-1].write_bytes(flipped(content, seed))
    became = dict(run_many(runtime, paths))
    assert len(became) == FLIPPED_MODELS
    killed = [path for path, what in became.items() if what.startswith("killed")]
    refused = [path for path, what in became.items() if what in ("ModelError", "RuntimeFailed")]
    works = [path for path, what in became.items() if what == WORKS]
    logging.getLogger(__name__).info("%s: %d killed, %d refused, %d work", name, *map(len, (killed, refused, works)))
    assert len(killed) + len(refused) + len(works) == FLIPPED_MODELS, set(became.values())
    assert refused
    assert works
    # What takes a process with it takes a child and not this one.
    for path in killed:
        assert outcome(path, f"{runtime}:cpu").startswith("3 ")
    for path in refused[:FLIPPED_AND_OPENED]:
        assert outcome(path, f"{runtime}:cpu").startswith("3 ")
    for path in works[:FLIPPED_AND_OPENED]:
        assert outcome(path, f"{runtime}:cpu") == WORKS


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("invoke_error.tflite", "unresolved custom op: fake-op-double"),
        ("person_detect_bad_quantized_dimension.tflite", "quantized_dimension must be in range [0, 1). Was 3."),
    ],
)
@pytest.mark.parametrize("device", ["auto", "litert:cpu", "litert:cpu:plain"])
def test_a_faulty_model_is_the_models_fault_on_every_rung(models, name, said, device):
    got = outcome(models / "faulty" / name, device)
    assert got.startswith("3 ")
    assert said in got


@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "movenet_lightning_int8", "split_concat"])
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("auto", "litert:edgetpu:usb does not load: "),
        ("edgetpu", "litert:edgetpu:pci does not load: "),
        ("cpu", "is compiled for the Edge TPU and runs on nothing else, so not on 'cpu'"),
        ("litert:cpu", "is compiled for the Edge TPU"),
    ],
)
def test_an_edge_tpu_model_without_an_edge_tpu_is_a_missing_device(models, name, device, said, monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, "/nowhere/libedgetpu.so.1")
    got = outcome(models / "edgetpu" / f"{name}_edgetpu.tflite", device)
    assert got.startswith("4 ")
    assert said in got


def test_the_cpu_twin_of_an_edge_tpu_model_runs(models):
    assert outcome(models / "edgetpu" / "split_concat.tflite") == WORKS


def test_a_model_that_wants_a_size_it_does_not_say_is_named(models):
    got = outcome(models / "yunet_n_dynamic_shape.onnx")
    assert got.startswith("3 ")
    assert "input 'input', float32[?,3,?,?], leaves the size of dimension 2 free" in got


@pytest.fixture
def hostile(tmp_path, monkeypatch) -> None:
    """An installed package whose runtimes do what native code does at its worst."""
    package = tmp_path / "site"
    (package / "hostile-1.0.dist-info").mkdir(parents=True)
    (package / "hostile-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (package / "hostile-1.0.dist-info" / "entry_points.txt").write_text(
        "[edgeinfer.runtimes]\n"
        + "".join(f"{name} = hostile:{name}\n" for name in ("crasher", "sleeper", "hog", "quitter"))
    )
    (package / "hostile.py").write_text(
        textwrap.dedent(
            """
            import ctypes, os, time

            def crasher(file, unit, options):
                ctypes.string_at(0)

            def sleeper(file, unit, options):
                ctypes.CDLL(None).sleep(1000)

            def hog(file, unit, options):
                held = []
                while True:
                    held.append(bytearray(64 << 20))

            def quitter(file, unit, options):
                os._exit(0)
            """
        )
    )
    monkeypatch.syspath_prepend(str(package))


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("crasher", "crasher died (SIGSEGV) while it opened"),
        ("quitter", "quitter ended (exit 0) while it opened"),
        ("hog", "needs more memory than there is"),
    ],
)
def test_a_crash_in_native_code_is_a_line_and_this_process_lives(models, device, said, monkeypatch):
    bound = "import edgeinfer.runtimes.worker as worker; worker._available_bytes = lambda: 256 << 20; "
    monkeypatch.setattr(isolated, "_BOOT", isolated._BOOT.replace("from edgeinfer", f"{bound}from edgeinfer"))
    got = outcome(models / ONE_MODEL, device)
    assert got.startswith("3 ")
    assert said in got


@pytest.mark.usefixtures("hostile")
def test_a_hang_in_native_code_ends_in_time(models):
    began_s = time.monotonic()
    got = outcome(models / ONE_MODEL, "sleeper", trial_timeout_s=2)
    assert "sleeper did not open it within 2 s" in got
    assert time.monotonic() - began_s < 20


def test_a_model_that_changes_between_reading_and_opening_is_refused(models, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes((models / ONE_MODEL).read_bytes())
    file = read_model_file(path)
    path.write_bytes(flipped(path.read_bytes(), 1))
    with pytest.raises(EdgeInferError, match="has changed since it was checked"):
        open_device(file, "auto")
