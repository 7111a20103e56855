"""A release is run in a process of its own before anything of it is used: what is wrong with it is found there."""

from __future__ import annotations

import io
import re
import socket
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from releases import Shelf, files_of
from tiny_models import block, number, onnx_model, tensor_type, value_info
from tiny_models import node as operator

from edgeinfer.updates import cage
from edgeinfer.updates.lifecycle import CANARY_ATTEMPTS
from edgeinfer.updates.manifest import Budget, GoldenEntry, TensorDecl
from edgeinfer.updates.measured import Measured, fault_of
from edgeinfer.updates.store import Store
from edgeinfer.updates.updater import Outcome, update

BLOOD_CELLS = Path(__file__).parents[3] / "models" / "blood-cells"
GOLDEN = (GoldenEntry("smear.jpg", "smear.npz"),)

# A runtime of another package, which does with each model what stands beside it.
HOSTILE = """
    import contextlib, ctypes, os, signal, socket
    import numpy as np
    from edgeinfer.runtimes import RUNTIMES

    class Hostile:
        device = "hostile"

        def __init__(self, file, unit, options):
            self._inner = RUNTIMES.get("onnx" if file.format == "onnx" else "litert")(file, "cpu", options)
            self.inputs, self.outputs = self._inner.inputs, self._inner.outputs
            self._does = (file.path.parent / "does.txt").read_text()
            self.input, self.close = self._inner.input, self._inner.close

        def run(self):
            outputs = self._inner.run()
            if self._does == "crashes":
                ctypes.string_at(0)
            if self._does == "kills":
                os.kill(os.getppid(), signal.SIGSEGV)
                ctypes.CDLL(None).sleep(1000)
            if self._does == "hangs":
                ctypes.CDLL(None).sleep(1000)
            if self._does == "hogs":
                held = [b"x" * (64 << 20) for _ in range(1000)]
            if self._does.startswith("calls"):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", int(self._does.split()[1])), 1)
            if self._does == "slow":
                ctypes.CDLL(None).usleep(20000)
            if self._does == "nan":
                return tuple(np.full_like(each, np.nan) for each in outputs)
            if self._does == "wrong":
                return tuple(np.flip(each) for each in outputs)
            if self._does == "blind":
                return tuple(np.zeros_like(each) for each in outputs)
            return outputs
"""


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


@pytest.fixture
def hostile(tmp_path, monkeypatch) -> None:
    package = tmp_path / "site"
    (package / "hostile-1.0.dist-info").mkdir(parents=True)
    (package / "hostile-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (package / "hostile-1.0.dist-info" / "entry_points.txt").write_text(
        "[edgeinfer.runtimes]\nhostile = hostile:Hostile\n"
    )
    (package / "hostile.py").write_text(textwrap.dedent(HOSTILE))
    monkeypatch.syspath_prepend(str(package))


@dataclass
class Node:
    store: Store
    shelf: Shelf
    device: str = "litert:cpu"

    def update(self, limit_s: float = 60.0) -> Outcome:
        (outcome,) = update(self.store, self.shelf, ["detector"], devices={"detector": self.device}, limit_s=limit_s)
        return outcome


@pytest.fixture
def node(tmp_path):
    store = Store(tmp_path / "store")
    store.add(BLOOD_CELLS, "detector")
    yield Node(store, Shelf())
    store.close()


def refused(node: Node, outcome: Outcome, said: str) -> None:
    """Denied for good, with the old model in use."""
    assert outcome.what == "rejected", outcome.why
    assert said in outcome.why
    state = node.store.state("detector")
    assert (state.step, state.active, state.candidate) == ("rejected", 0, None)
    assert node.store.bundle_of(node.store.active("detector")).is_dir()
    asked = len(node.shelf.fetched)
    assert node.update().what == "rejected"
    assert len(node.shelf.fetched) == asked


def test_what_does_as_it_should_waits_for_its_trial(node):
    node.shelf.put(files_of(BLOOD_CELLS) | {"note.txt": b"another"}, 1, golden=GOLDEN)
    outcome = node.update()
    assert outcome.what == "staged", outcome.why
    assert "on litert:cpu" in outcome.why
    assert node.store.staged("detector").release == 1
    # 28 to 31 cells are found in this picture, which is shown from both bundles.
    assert "in 2 pictures" in outcome.why


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("crashes", "died (SIGSEGV)"),
        ("kills", "its canary died (SIGSEGV)"),
        ("hangs", "within 12 s"),
        ("hogs", "memory"),
        ("slow", "ms (p95), at most"),
        ("nan", "NaN"),
        ("wrong", "computes something else of golden[0] than was signed"),
        ("blind", "it finds nothing in 2 pictures, in which the active model finds"),
    ],
)
def test_a_signed_model_that_does_harm_is_refused(node, tmp_path, does, said):
    good = files_of(BLOOD_CELLS) | {"does.txt": b"good"}
    if does == "nan":  # Integers know none.
        good["model.toml"] = re.sub(rb"(?m)^(tflite|weights) = .*\n|smear.npz", b"", good["model.toml"])
        good["model.toml"] = good["model.toml"].replace(b'outputs = ""\n', b"")
    factory = tmp_path / "factory"
    factory.mkdir()
    for name, content in good.items():
        (factory / name).write_bytes(content)
    node.store.add(factory, "detector")
    node.device = "hostile"
    golden = GOLDEN if does == "wrong" else ()
    budget = Budget(memory_mb=20.0) if does == "hogs" else Budget()
    node.shelf.put(good | {"does.txt": does.encode()}, 1, golden=golden, budget=budget)
    outcome = node.update(limit_s=12.0)
    refused(node, outcome, said)


@pytest.mark.usefixtures("hostile")
def test_a_model_that_calls_out_reaches_nobody(node):
    node.device = "hostile"
    with socket.create_server(("127.0.0.1", 0)) as server:
        does = f"calls {server.getsockname()[1]}".encode()
        node.shelf.put(files_of(BLOOD_CELLS) | {"does.txt": does}, 1)
        outcome = node.update()
        assert outcome.what == "staged", outcome.why
        if "network cut off" not in outcome.why:
            pytest.skip(outcome.why)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def changed_outputs(by: float) -> bytes:
    with np.load(BLOOD_CELLS / "smear.npz") as known:
        arrays = {name: known[name] for name in known.files}
    name, array = next(iter(arrays.items()))
    moved = array.astype(np.float64) + by
    if array.dtype.kind in "iu":
        moved = np.clip(np.rint(moved), np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    file = io.BytesIO()
    np.savez(file, **{**arrays, name: moved.astype(array.dtype)})
    return file.getvalue()


@pytest.mark.parametrize(
    ("files", "signed", "said"),
    [
        ({"smear.npz": changed_outputs(100)}, {"golden": GOLDEN}, "golden[0].outputs says"),
        ({"smear.npz": changed_outputs(3)}, {"golden": (GoldenEntry("smear.jpg", "smear.npz", 1e-6),)}, "is off by"),
        ({}, {"inputs": (TensorDecl("x", (1, 4), "float32"),)}, "the manifest says x float32[1, 4]"),
        ({}, {"budget": Budget(memory_mb=0.001, p95_ms=60_000, load_s=60)}, "MB of memory, at most 0 MB are allowed"),
        ({"blood-cells.tflite": b"no model"}, {}, "is not a TFLite model"),
        ({"model.toml": b"x = 1"}, {}, "model.toml: "),
    ],
)
def test_what_is_not_as_signed_is_refused(node, files, signed, said):
    node.shelf.put(files_of(BLOOD_CELLS) | files, 1, **signed)
    outcome = node.update()
    assert outcome.what == "rejected", outcome.why
    assert said in outcome.why


NOT_A_NUMBER_TOML = b"""\
schema = "edgeinfer.model/1"
name = "nan"
version = "1"
task = "classify"

[weights]
onnx = "nan.onnx"

[input]
colour = "rgb"
mean = [0.0]
std = [255.0]
fit = "stretch"

[decode]
output_is = "logits"
"""


def test_a_model_that_is_no_number_on_every_device_is_refused(node):
    nothing = block(1, operator("Sub", ["x", "x"], ["z"])) + block(1, operator("Div", ["z", "z"], ["q"]))
    pooled = block(1, operator("GlobalAveragePool", ["q"], ["p"])) + block(1, operator("Flatten", ["p"], ["y"]))
    graph = (
        nothing
        + pooled
        + block(2, "nan")
        + block(11, value_info("x", tensor_type("float32", (1, 3, 8, 8))))
        + block(12, value_info("y", tensor_type("float32", (1, 3))))
    )
    node.device = "onnx:cpu"
    node.shelf.put({"model.toml": NOT_A_NUMBER_TOML, "nan.onnx": onnx_model(graph=graph)}, 1)
    outcome = node.update()
    assert outcome.what == "rejected", outcome.why
    assert "it computes nonsense of sample 0: output 'y' is 100% NaN or infinite" in outcome.why


def test_onnx_data_outside_of_the_bundle_is_refused(node):
    """A tensor whose numbers lie in /etc/passwd: whoever signed it."""
    outside = block(8, "w") + number(1, 3) + number(2, 1) + number(14, 1)
    outside += block(13, block(1, "location") + block(2, "../../../../etc/passwd"))
    kind = tensor_type("float32", (1, 3, 8, 8))
    graph = block(1, operator("Identity", ["x"], ["y"])) + block(2, "out") + block(5, outside)
    graph += block(11, value_info("x", kind)) + block(12, value_info("y", kind))
    node.device = "onnx:cpu"
    node.shelf.put({"model.toml": NOT_A_NUMBER_TOML, "nan.onnx": onnx_model(graph=graph)}, 1)
    outcome = node.update()
    assert outcome.what == "rejected", outcome.why
    assert "keeps weights in another file, '../../../../etc/passwd'" in outcome.why


def test_a_device_that_is_not_here_is_not_the_models_fault(node):
    node.shelf.put(files_of(BLOOD_CELLS) | {"note.txt": b"another"}, 1)
    node.device = "litert:edgetpu:usb"
    outcome = node.update()
    assert outcome.what == "failed"
    assert "cannot be tried here" in outcome.why
    state = node.store.state("detector")
    assert (state.step, state.attempts) == ("verified", CANARY_ATTEMPTS)
    node.device = "litert:cpu"
    assert node.update().what == "staged"


def test_the_canary_takes_no_more_memory_than_it_is_allowed(node):
    measured = cage.run_candidate(
        BLOOD_CELLS, node.store.active("detector").manifest, device="litert:cpu", memory_max_bytes=8 << 20
    )
    assert "of memory, at most 8 MB are allowed" in measured.fault


GOOD = Measured(device="litert:cpu", p95_ms=10.0, memory_mb=100.0, load_s=1.0, pictures=2, found=9, network="cut off")


@pytest.mark.parametrize(
    ("candidate", "active", "budget", "said"),
    [
        ({}, {}, Budget(), None),
        ({"p95_ms": 14.9}, {}, Budget(), None),
        ({"p95_ms": 15.1}, {}, Budget(), "15.1 ms (p95), at most 15.0 ms"),
        ({"p95_ms": 15.1}, {}, Budget(p95_ms=20.0), None),
        ({"p95_ms": 9.0}, {}, Budget(p95_ms=8.0), "at most 8.0 ms"),
        ({"p95_ms": 500.0}, None, Budget(), None),
        ({"memory_mb": 183.0}, {}, Budget(), "183 MB of memory, at most 182 MB"),
        ({"load_s": 2.6}, {}, Budget(), "2.6 s to load, at most 2.5 s"),
        ({"load_s": 2.6}, {}, Budget(load_s=3.0), None),
        ({"found": 0}, {}, Budget(), "finds nothing in 2 pictures, in which the active model finds 9"),
        ({"found": 0}, {"found": 0}, Budget(), None),
        ({"found": None}, {}, Budget(), None),
        ({"found": 0}, None, Budget(), None),
        ({"fault": "it died"}, {}, Budget(), "it died"),
    ],
)
def test_the_verdict(candidate, active, budget, said):
    from msgspec.structs import replace

    fault = fault_of(replace(GOOD, **candidate), None if active is None else replace(GOOD, **active), budget)
    assert fault == said if said is None else said in fault
