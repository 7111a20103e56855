"""LiteRT and tflite-runtime with an external delegate: how it is found, held, and let go."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from delegate.fault_delegate import fault_library, fault_unit
from tiny_models import tflite_model

from edgeinfer.bundle import ModelFile
from edgeinfer.bundle.load import read_model_file
from edgeinfer.errors import DeviceNotFound, ModelError
from edgeinfer.runtimes import RUNTIMES, Runtime, RuntimeOptions
from edgeinfer.runtimes.delegate import LIBRARY_VARIABLE, Claims, parse_delegate, vendor_words
from edgeinfer.runtimes.litert import open_litert, open_tflite


@pytest.fixture(params=["litert", "tflite"])
def name(request) -> str:
    package = {"litert": "ai_edge_litert", "tflite": "tflite_runtime"}[request.param]
    pytest.importorskip(f"{package}.interpreter", reason=f"{package} is not installed")
    return str(request.param)


def saved(path: Path, content: bytes) -> ModelFile:
    path.write_bytes(content)
    return read_model_file(path)


@pytest.fixture
def negate(tmp_path) -> ModelFile:
    return saved(tmp_path / "negate.tflite", tflite_model(op="NEG"))


@pytest.fixture
def edgetpu_model(tmp_path) -> ModelFile:
    return saved(tmp_path / "tpu.tflite", tflite_model(op="edgetpu-custom-op"))


def open_(name: str, file: ModelFile, unit: str, **driver: str) -> Runtime:
    return RUNTIMES.get(name)(file, unit, RuntimeOptions(threads=1, driver=driver))


# Words.


@pytest.mark.parametrize(
    ("unit", "options"),
    [
        ("edgetpu", {}),
        ("edgetpu:usb", {"device": "usb"}),
        ("edgetpu:pci", {"device": "pci"}),
        ("edgetpu:0", {"device": ":0"}),
        ("edgetpu:12", {"device": ":12"}),
    ],
)
def test_edge_tpus_go_by_libedgetpus_names(unit, options):
    parsed = parse_delegate("litert", unit, {})
    assert parsed is not None
    assert (parsed.device, parsed.library, parsed.options) == (f"litert:{unit}", "libedgetpu.so.1", options)


def test_another_library_may_stand_in_for_libedgetpu(monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, "/by/variable.so")
    by_variable = parse_delegate("litert", "edgetpu", {})
    by_option = parse_delegate("litert", "edgetpu:usb", {"library": "/by/option.so", "kernels": "plain", "a": "b"})
    assert by_variable is not None
    assert by_option is not None
    assert by_variable.library == "/by/variable.so"
    assert by_option.library == "/by/option.so"
    assert by_option.options == {"device": "usb", "a": "b"}, "our own options are not the library's"


def test_any_delegate_goes_by_its_path_and_options():
    parsed = parse_delegate("tflite", "delegate=/lib/x.so,a=b,c=d=e,f=", {"g": "h"})
    assert parsed is not None
    assert parsed.device == "tflite:delegate=/lib/x.so,a=b,c=d=e,f="
    assert (parsed.library, parsed.options) == ("/lib/x.so", {"a": "b", "c": "d=e", "f": "", "g": "h"})


@pytest.mark.parametrize("unit", ["delegate=", "delegate=,a=b", "delegate=/x.so,a", "delegate=/x.so,=b"])
def test_a_delegate_that_is_half_said_is_refused_with_an_example(unit):
    with pytest.raises(DeviceNotFound, match=r"write it as in litert:delegate=/path/lib.so,key=value"):
        parse_delegate("litert", unit, {})


@pytest.mark.parametrize("unit", ["cpu", "gpu", "edgetpus", "edgetpu:", "edgetpu:gpu", "edgetpu:-1", "xdelegate=/x"])
def test_what_is_no_delegate_is_none(unit):
    assert parse_delegate("litert", unit, {}) is None


def test_a_unit_that_nobody_knows_is_named(negate):
    with pytest.raises(DeviceNotFound, match="litert has no unit 'edgetpu:x'"):
        open_("litert", negate, "edgetpu:x")
    with pytest.raises(DeviceNotFound, match="tflite has no unit 'gpu'"):
        open_tflite(negate, "gpu", RuntimeOptions())


# Libraries.


def test_a_library_that_is_not_there_is_a_missing_device(name, negate, edgetpu_model):
    with pytest.raises(
        DeviceNotFound, match=r":edgetpu does not load: /no/lib.so: .*; install libedgetpu1-std"
    ) as lost:
        open_(name, edgetpu_model, "edgetpu", library="/no/lib.so")
    assert lost.value.exit_code == 4
    with pytest.raises(DeviceNotFound, match=r"delegate=/no/lib.so does not load: /no/lib.so: cannot open shared obj"):
        open_(name, negate, "delegate=/no/lib.so")


def test_a_file_that_is_no_library_is_said_in_one_line(name, negate, tmp_path):
    (tmp_path / "text.so").write_text("not a library\n")
    with pytest.raises(DeviceNotFound, match=r"does not load: .*text.so: ") as refused:
        open_(name, negate, f"delegate={tmp_path / 'text.so'}")
    assert len(str(refused.value).splitlines()) == 1


def test_a_library_without_the_symbols_is_no_delegate(name, negate):
    with pytest.raises(
        DeviceNotFound, match=r"libm.so.6 is no TFLite delegate, it has no tflite_plugin_create_delegate"
    ):
        open_(name, negate, "delegate=libm.so.6")


def test_refusals_print_nothing(name, negate, edgetpu_model, capfd):
    # An exception from `__del__` would also fail the test by itself.
    for unit in ("delegate=/no/lib.so", "delegate=libm.so.6", fault_unit(fault="create_fails"), fault_unit(claim="x")):
        with pytest.raises(DeviceNotFound):
            open_(name, negate, unit)
    with pytest.raises(DeviceNotFound):
        open_(name, edgetpu_model, "edgetpu", library=str(fault_library()), fault="prepare_fails")
    gc.collect()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_opening_and_running_print_nothing(name, negate, tmp_path):
    code = (
        "import sys, pathlib; from edgeinfer.bundle.load import read_model_file; from edgeinfer.runtimes import *; "
        "runtime = RUNTIMES.get(sys.argv[1])(read_model_file(pathlib.Path(sys.argv[2])), sys.argv[3], RuntimeOptions())"
        "; runtime.run(); runtime.close(); print('done')"
    )
    words = [sys.executable, "-c", code, name, str(negate.path), fault_unit(claim="NEG")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("done\n", "")


# Claims.


def test_it_says_how_much_the_delegate_claimed(name, negate):
    runtime = open_(name, negate, fault_unit(claim="NEG"))
    assert runtime.claimed == "1 of 1 operators"
    runtime.input()[...] = [[1, -2, 3, -4]]
    assert runtime.run()[0].tolist() == [[-1, 2, -3, 4]]
    runtime.close()
    on_cpu = open_(name, negate, "cpu")
    assert on_cpu.claimed == ""
    on_cpu.close()


def test_what_xnnpack_takes_is_not_the_delegates(name, negate):
    with pytest.raises(DeviceNotFound, match="claims no operator of"):
        open_(name, negate, fault_unit(claim="ADD"))


def test_a_delegate_keeps_its_claim_when_sizes_are_settled(name, tmp_path):
    file = saved(tmp_path / "free.tflite", tflite_model(shape=(2, 3, 4), signature=(-1, 3, 4), op="NEG"))
    runtime = open_(name, file, fault_unit(claim="NEG"))
    assert runtime.claimed == "1 of 1 operators"
    runtime.input()[...] = 2
    (output,) = runtime.run()
    assert output.shape == (1, 3, 4)
    assert (output == -2).all()
    runtime.close()


class Graph:
    """The operators of an interpreter, as both runtimes list them: (name, inputs, outputs)."""

    def __init__(self, *operators: tuple[str, list[int], list[int]]) -> None:
        self.operators = operators

    def _get_ops_details(self):
        return [
            {"op_name": name, "inputs": np.array(inputs), "outputs": np.array(outputs)}
            for name, inputs, outputs in self.operators
        ]


PLAIN = (("A", [0, 9], [1]), ("B", [1], [2]), ("C", [1], [3]), ("D", [2, 3, -1], [4]), ("E", [4], [5]))


def test_a_claim_counts_what_lies_between_inputs_and_outputs():
    before = Graph(*PLAIN, ("DELEGATE", [1], [4]))
    after = Graph(*PLAIN, ("DELEGATE", [1], [4]), ("DELEGATE", [0], [1]), ("DELEGATE", [4], [5]))
    assert str(Claims(before).settled(after)) == "3 of 5 operators"


def test_a_claim_that_was_lost_at_allocation_is_seen():
    claims = Claims(Graph(*PLAIN, ("DELEGATE", [1], [4])))
    assert claims.settled(Graph(*PLAIN, ("DELEGATE", [0], [5]))).claimed == 0
    assert not Claims(Graph(*PLAIN))


def test_a_delegate_that_lets_go_at_allocation_is_refused(negate, monkeypatch):
    from edgeinfer.runtimes import delegate

    monkeypatch.setattr(delegate, "_size", lambda group, plain: 0)
    with pytest.raises(DeviceNotFound, match=r"let go of .* when its tensors were allocated"):
        open_("litert", negate, fault_unit(claim="NEG"))


# Life and death.


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "journal"


def lived(journal: Path) -> list[str]:
    gc.collect()
    return journal.read_text().split("\n")[:-1]


def test_the_delegate_is_destroyed_once_and_after_its_kernels(name, negate, journal):
    runtime = open_(name, negate, fault_unit(claim="NEG", journal=journal))
    runtime.run()
    assert lived(journal) == ["create", "prepare", "claim 1", "invoke 1"]
    runtime.close()
    runtime.close()
    assert lived(journal)[4:] == ["free", "destroy"]


def test_the_delegate_outlives_a_view_that_somebody_kept(name, negate, journal):
    runtime = open_(name, negate, fault_unit(claim="NEG", journal=journal))
    kept = runtime.input()
    runtime.close()
    assert lived(journal) == ["create", "prepare", "claim 1"]
    del kept
    assert lived(journal)[3:] == ["free", "destroy"]


@pytest.mark.parametrize("fault", ["prepare_fails", "claims_nothing"])
def test_a_refused_device_is_free_again_while_the_error_is_kept(name, edgetpu_model, journal, fault):
    with pytest.raises(DeviceNotFound) as refused:
        open_(name, edgetpu_model, "edgetpu", library=str(fault_library()), fault=fault, journal=str(journal))
    assert lived(journal)[-1] == "destroy"
    assert lived(journal).count("destroy") == 1
    assert refused.value.__traceback__ is not None


def test_a_model_that_is_broken_is_the_models_fault_with_a_delegate_too(name, negate, monkeypatch, journal):
    import importlib

    module = importlib.import_module({"litert": "ai_edge_litert", "tflite": "tflite_runtime"}[name] + ".interpreter")

    class Interpreter(module.Interpreter):
        def __init__(self, model_content=None, num_threads=None, experimental_delegates=None):
            self._interpreter = None
            raise ValueError("Model provided has model identifier 'oops'")

    monkeypatch.setattr(module, "Interpreter", Interpreter)
    with pytest.raises(ModelError, match="model identifier 'oops'"):
        open_(name, negate, fault_unit(claim="NEG", journal=journal))
    assert lived(journal) == ["create", "destroy"]


def test_memory_and_descriptors_come_back(name, negate):
    unit = fault_unit(claim="NEG")

    def used() -> tuple[int, int]:
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        return len(list(Path("/proc/self/fd").iterdir())), resident

    for count in (5, 100):
        before = used()
        for _ in range(count):
            runtime = open_(name, negate, unit)
            runtime.run()
            runtime.close()
    descriptors, resident = used()
    assert descriptors == before[0]
    assert resident - before[1] < 10 << 20


# Vendors' words.


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("usb lostNode number 3 (EdgeTpuDelegate) failed to invoke.", "usb lost"),
        ("no roomRestored original execution plan after delegate application failure.", "no room"),
        ("too newEncountered unresolved custom op: edgetpu-custom-op.\nSee instructions", "too new"),
        ("Node number 3 (CONV_2D) failed to invoke.", "Node number 3 (CONV_2D) failed to invoke."),
        ("", "RuntimeError"),
    ],
)
def test_a_delegate_is_quoted_without_what_the_runtime_adds(message, said):
    assert vendor_words(RuntimeError(message)) == said


def test_a_runtime_that_cannot_load_delegates_says_so(negate, monkeypatch):
    module = types.ModuleType("ai_edge_litert.interpreter")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    with pytest.raises(DeviceNotFound, match="is not to be had"):
        open_litert(negate, fault_unit(), RuntimeOptions())
