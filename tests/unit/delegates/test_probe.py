"""Each device's row says what speaks for it, what is missing, and the command that mends that."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiny_models import tflite_model

from edgeinfer.board import DEVICE_WORDS, Roots, recognise_board
from edgeinfer.bundle.load import read_model_file
from edgeinfer.delegates import open_device
from edgeinfer.delegates.probe import Installed, probe
from edgeinfer.delegates.probe.proof import run_a_model
from edgeinfer.delegates.probe.rows import NOT_DRIVEN
from edgeinfer.errors import DeviceNotFound, ModelError

BOARDS = Path(__file__).parents[2] / "boards"
SHIPPED = Path(__file__).parents[3] / "devices"
EVERY_WORD = (
    *("litert:cpu", "tflite:cpu", "onnx:cpu", "litert:edgetpu:usb", "litert:edgetpu:pci", "litert:gpu"),
    *("onnx:cuda", "onnx:tensorrt", "onnx:openvino", "onnx:webgpu", "openvino:cpu", "openvino:gpu", "openvino:npu"),
    "npu",
)
CPU_ONLY = ("CPUExecutionProvider",)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))


@dataclass
class Packages:
    """Installed packages, as a test wants them."""

    versions: dict[str, str] = field(
        default_factory=lambda: {"ai-edge-litert": "2.3.0", "onnxruntime": "1.31.1", "numpy": "2.4.6"}
    )
    providers: tuple[str, ...] = CPU_ONLY
    python: tuple[int, int] = (3, 11)

    def version(self, package: str) -> str | None:
        return self.versions.get(package)

    def onnx_providers(self) -> tuple[str, ...]:
        return self.providers


@pytest.fixture
def tree(tmp_path):
    """A recorded tree that a test may change, with folders for what is installed beside it."""

    def tree_of(name: str) -> Roots:
        board = Path(shutil.copytree(BOARDS / name, tmp_path / name, symlinks=True))
        return Roots(board / "sys", board / "proc", board / "dev", tmp_path / "etc", tmp_path / "usr")

    return tree_of


def rows_of(roots: Roots, packages: Packages | None = None, **options):
    board = recognise_board(roots, [SHIPPED])
    return {row.word: row for row in probe(board, roots, packages or Packages(), **options)}


def with_libedgetpu(roots: Roots) -> Roots:
    library = roots.usr / "lib/aarch64-linux-gnu/libedgetpu.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    return roots


def as_nobody(monkeypatch):
    """The tests may run as root, to whom every node is open."""
    monkeypatch.setattr("edgeinfer.delegates.probe.hardware.os.access", lambda *_: False)


def test_every_device_has_one_row_and_a_reason_exactly_where_it_is_not_usable(tree):
    for name in sorted(path.name for path in BOARDS.iterdir() if path.is_dir()):
        rows = rows_of(tree(name))
        assert tuple(rows) == EVERY_WORD
        for row in rows.values():
            assert row.usable == (row.reason is None)
            assert not (row.usable and row.remedy)


def test_the_rows_are_words_that_a_profile_may_use():
    assert set(EVERY_WORD) - {"npu"} <= set(DEVICE_WORDS)


def test_every_row_is_a_word_that_is_understood(tmp_path):
    model = tmp_path / "tiny.tflite"
    model.write_bytes(tflite_model())
    file = read_model_file(model)
    for word in EVERY_WORD:
        try:
            open_device(file, word).close()
            refusal = ""
        except (DeviceNotFound, ModelError) as refused:
            refusal = str(refused)
        assert "unknown device" not in refusal, word
        assert "has no unit" not in refusal, word


def test_an_installed_runtime_is_usable_and_says_its_version(tree):
    row = rows_of(tree("raspberry-pi-5"))["litert:cpu"]
    assert row.usable
    assert row.evidence == ("ai-edge-litert 2.3.0", "4 cores", "int8 by asimddp")


def test_a_missing_runtime_names_its_package(tree):
    rows = rows_of(tree("raspberry-pi-5"), Packages(versions={}))
    for word, package in (("litert:cpu", "ai-edge-litert"), ("onnx:cpu", "onnxruntime")):
        assert not rows[word].usable
        assert rows[word].reason == f"{package} is not installed"
        assert rows[word].remedy == f"pip install {package}"


def test_tflite_runtime_with_numpy_2_is_not_usable_though_it_imports(tree):
    roots = tree("raspberry-pi-5")
    versions = {"tflite-runtime": "2.14.0", "numpy": "2.4.6"}
    row = rows_of(roots, Packages(versions=versions))["tflite:cpu"]
    assert (row.usable, row.remedy) == (False, "pip install 'edgeinfer[tflite]'")
    assert "does not run with numpy 2.4.6" in (row.reason or "")
    assert rows_of(roots, Packages(versions={**versions, "numpy": "1.26.4"}))["tflite:cpu"].usable


def test_where_no_tflite_runtime_exists_no_command_is_given(tree):
    row = rows_of(tree("raspberry-pi-5"), Packages(versions={}, python=(3, 13)))["tflite:cpu"]
    assert (row.reason, row.remedy) == ("tflite-runtime is not installed; there is none for Python 3.13", None)


def test_an_onnxruntime_that_does_not_load_is_not_usable(tree):
    row = rows_of(tree("raspberry-pi-5"), Packages(providers=()))["onnx:cpu"]
    assert (row.usable, row.remedy) == (False, "pip install --force-reinstall onnxruntime")


def test_a_32_bit_system_is_not_usable(tree):
    roots = tree("raspberry-pi-zero-2-w")
    cpuinfo = roots.proc / "cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace("CPU architecture: 8", "CPU architecture: 7"))
    row = rows_of(roots)["litert:cpu"]
    assert not row.usable
    assert "armv7l" in (row.reason or "")
    row = rows_of(roots, Packages(versions={}))["litert:cpu"]
    assert (row.reason or "").startswith("the system is armv7l")
    assert row.remedy is None


@pytest.mark.parametrize(
    ("board", "word", "missing"),
    [
        ("intel-n100", "onnx:cuda", "no NVIDIA GPU (PCI vendor 10de, /dev/nvidia0); onnxruntime has no CUDAExecution"),
        ("intel-nuc", "onnx:webgpu", "no GPU: no /dev/dri/renderD* and no NVIDIA node; onnxruntime has no WebGpu"),
        ("raspberry-pi-5", "openvino:gpu", "no Intel GPU (/dev/dri/renderD* with PCI vendor 8086); openvino is not"),
        ("intel-n100", "openvino:npu", "no Intel NPU (/dev/accel/accel* of the driver intel_vpu); openvino is not"),
    ],
)
def test_no_package_is_offered_for_hardware_that_is_not_there(tree, board, word, missing):
    row = rows_of(tree(board))[word]
    assert (row.reason or "").startswith(missing)
    assert row.remedy is None


def test_of_several_onnxruntimes_none_is_left_beside_the_new_one(tree):
    versions = {"onnxruntime": "1.31.1", "onnxruntime-openvino": "1.24.1"}
    row = rows_of(tree("intel-n100"), Packages(versions))["onnx:openvino"]
    assert row.evidence == ("onnxruntime 1.31.1", "onnxruntime-openvino 1.24.1")
    assert row.remedy == "pip uninstall --yes onnxruntime onnxruntime-openvino && pip install onnxruntime-openvino"


def test_a_device_that_fails_its_proof_is_not_usable(tree):
    rows = rows_of(tree("raspberry-pi-5"), prove=lambda word: "it crashed" if word == "onnx:cpu" else None)
    assert (rows["onnx:cpu"].usable, rows["onnx:cpu"].reason) == (False, "it crashed")
    assert rows["litert:cpu"].evidence[-1] == "ran a model just now"


def test_only_what_seems_usable_is_proved(tree):
    asked: list[str] = []
    rows_of(tree("raspberry-pi-5"), prove=asked.append)
    assert asked == ["litert:cpu", "onnx:cpu"]


# The Edge TPU.


def test_a_usb_edge_tpu_shows_before_and_after_its_first_load(tree):
    fresh = rows_of(tree("raspberry-pi-4"))["litert:edgetpu:usb"]
    loaded = rows_of(tree("coral-dev-board-mini"))["litert:edgetpu:usb"]
    assert fresh.evidence[0] == "USB 1a6e:089a at 2-1 (not loaded yet, 5000 Mbit/s)"
    assert loaded.evidence[0] == "USB 18d1:9302 at 1-1 (loaded, 480 Mbit/s)"


def test_without_an_edge_tpu_its_ids_are_named(tree):
    rows = rows_of(tree("raspberry-pi-zero-2-w"))
    assert rows["litert:edgetpu:usb"].reason == "no Edge TPU on USB (1a6e:089a or 18d1:9302)"
    assert rows["litert:edgetpu:pci"].reason == "no Edge TPU on PCIe (1ac1:089a)"


@pytest.mark.parametrize(("board", "word"), [("raspberry-pi-4", "usb"), ("raspberry-pi-5", "pci")])
def test_an_edge_tpu_needs_its_library(tree, board, word):
    roots = tree(board)
    row = rows_of(roots)[f"litert:edgetpu:{word}"]
    assert row.reason == "libedgetpu.so.1 is not installed"
    assert "libedgetpu1-std" in (row.remedy or "")
    assert rows_of(with_libedgetpu(roots))[f"litert:edgetpu:{word}"].usable


def test_a_pci_edge_tpu_needs_its_driver(tree):
    roots = with_libedgetpu(tree("raspberry-pi-5"))
    (roots.dev / "apex_0").unlink()
    row = rows_of(roots)["litert:edgetpu:pci"]
    assert row.reason == "its driver (gasket, apex) is not loaded: no /dev/apex_0"
    assert "modprobe apex" in (row.remedy or "")


def test_a_closed_node_names_the_group_to_join(tree, monkeypatch):
    roots = with_libedgetpu(tree("raspberry-pi-5"))
    as_nobody(monkeypatch)
    monkeypatch.setattr("edgeinfer.delegates.probe.hardware.group_of", lambda node: "apex")
    row = rows_of(roots)["litert:edgetpu:pci"]
    assert row.reason == f"{roots.dev / 'apex_0'} is closed to this user (group apex)"
    assert row.remedy == "sudo usermod -aG apex $USER, then log in again"


def test_a_node_that_no_group_opens_needs_a_udev_rule(tree, monkeypatch):
    roots = with_libedgetpu(tree("raspberry-pi-4"))
    node = roots.dev / "bus/usb/002/002"
    node.chmod(0o600)
    as_nobody(monkeypatch)
    row = rows_of(roots)["litert:edgetpu:usb"]
    assert row.reason == f"{node} is closed to this user"
    for word in ("1a6e", "9302", "plugdev", "/etc/udev/rules.d/60-libedgetpu1-std.rules", "udevadm"):
        assert word in (row.remedy or "")


def test_a_node_missing_in_a_container_is_said(tree):
    roots = with_libedgetpu(tree("raspberry-pi-4"))
    shutil.rmtree(roots.dev / "bus")
    row = rows_of(roots)["litert:edgetpu:usb"]
    assert "in a container it must be passed in" in (row.reason or "")


# GPUs and NPUs.


def test_a_gpu_needs_a_vulkan_driver_that_is_not_the_cpu(tree):
    roots = tree("raspberry-pi-5")
    icds = roots.usr / "share/vulkan/icd.d"
    icds.mkdir(parents=True)
    (icds / "lvp_icd.aarch64.json").touch()
    row = rows_of(roots)["litert:gpu"]
    assert (row.reason, row.remedy) == ("no Vulkan driver for it", "sudo apt install mesa-vulkan-drivers")
    assert "Vulkan on the CPU: lvp" in row.evidence
    (icds / "broadcom_icd.aarch64.json").touch()
    row = rows_of(roots)["litert:gpu"]
    assert row.usable
    assert row.evidence[0].endswith("renderD128 (v3d)")


@pytest.mark.parametrize(
    ("board", "foreign", "own"),
    [
        ("raspberry-pi-5", ["radeon_icd.json", "panfrost_icd.json"], "broadcom_icd.json"),
        ("rock-5b", ["radeon_icd.json", "broadcom_icd.json"], "panfrost_icd.aarch64.json"),
        ("intel-n100", ["radeon_icd.x86_64.json", "virtio_icd.json", "lvp_icd.json"], "intel_hasvk_icd.x86_64.json"),
    ],
)
def test_the_vulkan_drivers_of_other_gpus_do_not_count(tree, board, foreign, own):
    """Mesa's package brings one for each GPU that it knows."""
    roots = tree(board)
    icds = roots.usr / "share/vulkan/icd.d"
    icds.mkdir(parents=True)
    for name in foreign:
        (icds / name).touch()
    row = rows_of(roots)["litert:gpu"]
    assert row.reason == "no Vulkan driver for it"
    assert not any(one.startswith("Vulkan: ") for one in row.evidence)
    (icds / own).touch()
    row = rows_of(roots)["litert:gpu"]
    assert row.usable
    assert f"Vulkan: {own.partition('_icd')[0]}" in row.evidence


def test_any_vulkan_driver_may_be_for_a_gpu_that_is_not_known(tree):
    roots = tree("raspberry-pi-5")
    link = roots.sys / "class/drm/renderD128/device/driver"
    link.unlink()
    link.symlink_to("../../bus/platform/drivers/of-next-year")
    icds = roots.usr / "share/vulkan/icd.d"
    icds.mkdir(parents=True)
    assert rows_of(roots)["litert:gpu"].remedy == "sudo apt install mesa-vulkan-drivers"
    (icds / "next_year_icd.json").touch()
    assert rows_of(roots)["litert:gpu"].usable
    link.unlink()
    link.symlink_to("../../bus/platform/drivers/vc4-drm")
    row = rows_of(roots)["litert:gpu"]
    assert (row.reason, row.remedy) == ("nobody has made a Vulkan driver for it", None)


@pytest.mark.parametrize("board", ["jetson-nano", "jetson-orin-nano", "jetson-agx-orin"])
def test_nvidias_vulkan_driver_is_not_mesas(tree, board):
    roots = tree(board)
    row = rows_of(roots)["litert:gpu"]
    assert (row.reason or "").startswith("no Vulkan driver for it: nvidia_icd.json")
    assert row.remedy == "sudo apt install nvidia-jetpack"
    icds = roots.etc / "vulkan/icd.d"
    icds.mkdir(parents=True)
    (icds / "nvidia_icd.json").touch()
    assert rows_of(roots)["litert:gpu"].usable


def test_webgpu_is_made_for_x86_64_and_needs_a_vulkan_driver_as_well(tree):
    webgpu = Packages({"onnxruntime-webgpu": "1.27.0"}, providers=("WebGpuExecutionProvider", *CPU_ONLY))
    row = rows_of(tree("raspberry-pi-5"))["onnx:webgpu"]
    assert (row.reason, row.remedy) == ("onnxruntime-webgpu is built for x86-64 only", None)
    roots = tree("intel-n100")
    assert rows_of(roots, webgpu)["onnx:webgpu"].remedy == "sudo apt install mesa-vulkan-drivers"
    icds = roots.usr / "share/vulkan/icd.d"
    icds.mkdir(parents=True)
    (icds / "intel_icd.x86_64.json").touch()
    assert rows_of(roots, webgpu)["onnx:webgpu"].usable


def test_tensorrt_needs_its_library_too(tree):
    roots = tree("jetson-orin-nano")
    gpu = Packages({"onnxruntime-gpu": "1.23.0"}, providers=("TensorrtExecutionProvider", *CPU_ONLY))
    row = rows_of(roots, gpu)["onnx:tensorrt"]
    assert (row.reason, row.remedy) == (
        "TensorRT is not installed (libnvinfer.so.10)",
        "sudo apt install nvidia-jetpack",
    )
    library = roots.usr / "lib/aarch64-linux-gnu/libnvinfer.so.10"
    library.parent.mkdir(parents=True)
    library.touch()
    assert rows_of(roots, gpu)["onnx:tensorrt"].usable


def test_cuda_needs_card_driver_and_provider(tree):
    rows = rows_of(tree("intel-n100"))
    assert "no NVIDIA GPU" in (rows["onnx:cuda"].reason or "")
    roots = tree("jetson-orin-nano")
    row = rows_of(roots)["onnx:cuda"]
    assert row.reason == "onnxruntime has no CUDAExecutionProvider"
    assert "JetPack" in (row.remedy or "")
    gpu = Packages(versions={"onnxruntime-gpu": "1.20"}, providers=("CUDAExecutionProvider", *CPU_ONLY))
    rows = rows_of(roots, gpu)
    assert rows["onnx:cuda"].usable
    assert "onnxruntime-gpu has no TensorrtExecutionProvider" in (rows["onnx:tensorrt"].reason or "")
    (roots.dev / "nvgpu/igpu0/ctrl").unlink()
    row = rows_of(roots, gpu)["onnx:cuda"]
    assert "driver is not loaded" in (row.reason or "")


def test_an_nvidia_card_on_pci_is_seen_without_its_driver(tree):
    roots = tree("intel-nuc")
    card = roots.sys / "bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    for name, value in (("vendor", "0x10de"), ("device", "0x2484"), ("class", "0x030000")):
        (card / name).write_text(value + "\n")
    row = rows_of(roots)["onnx:cuda"]
    assert "PCI 10de:2484 at 0000:01:00.0" in row.evidence
    assert (row.reason or "").startswith("NVIDIA's driver is not loaded: no /dev/nvidia0")


def test_openvinos_gpu_is_an_intel_one_with_its_driver(tree):
    versions = {"openvino": "2026.4.0"}
    assert "no Intel GPU" in (rows_of(tree("raspberry-pi-5"), Packages(versions))["openvino:gpu"].reason or "")
    roots = tree("intel-n100")
    row = rows_of(roots, Packages(versions))["openvino:gpu"]
    assert row.remedy == "sudo apt install intel-opencl-icd"
    vendors = roots.etc / "OpenCL/vendors"
    vendors.mkdir(parents=True)
    (vendors / "intel.icd").touch()
    row = rows_of(roots, Packages(versions))["openvino:gpu"]
    assert row.usable
    assert row.evidence[0].endswith("renderD128 (i915)")


def test_an_intel_npu_is_seen_by_its_node(tree):
    roots = tree("intel-nuc")
    (roots.dev / "accel").mkdir()
    (roots.dev / "accel/accel0").touch()
    driver = roots.sys / "class/accel/accel0/device/driver"
    driver.parent.mkdir(parents=True)
    driver.symlink_to("../../bus/pci/drivers/intel_vpu")
    rows = rows_of(roots, Packages({"openvino": "2026.4.0"}))
    assert rows["openvino:npu"].usable
    assert "no NPU" in (rows["npu"].reason or "")


def test_rockchips_npu_is_shown_and_is_no_gpu(tree):
    rows = rows_of(tree("rock-5b"))
    assert [one.rpartition("/")[2] for one in rows["npu"].evidence] == ["renderD129 (RKNPU)"]
    assert rows["npu"].reason == NOT_DRIVEN
    assert [one.rpartition("/")[2] for one in rows["litert:gpu"].evidence[:1]] == ["renderD128 (panthor)"]
    assert "RKNPU" not in " ".join(rows["litert:gpu"].evidence)


# This machine.


def test_of_this_machine_it_tells_the_truth():
    rows = {row.word: row for row in probe(recognise_board(folders=[SHIPPED]))}
    for word, module in (("litert:cpu", "ai_edge_litert"), ("onnx:cpu", "onnxruntime")):
        pytest.importorskip(module)
        assert rows[word].usable, rows[word]
    assert bool(list(Path("/dev").glob("apex_*"))) == any(
        "/dev/apex_" in one for one in rows["litert:edgetpu:pci"].evidence
    )
    assert bool(list(Path("/dev").glob("dri/renderD*"))) == any("renderD" in one for one in rows["litert:gpu"].evidence)
    assert bool(list(Path("/dev").glob("nvidia[0-9]*"))) == any(
        "/dev/nvidia" in one for one in rows["onnx:cuda"].evidence
    )


def test_a_proof_runs_a_model_and_says_why_it_could_not():
    pytest.importorskip("onnxruntime")
    assert run_a_model("litert:cpu") is None
    assert run_a_model("onnx:cpu") is None
    assert "nonsense" in (run_a_model("nonsense:cpu") or "")


def test_the_packages_of_this_interpreter_are_found():
    installed = Installed()
    assert installed.version("numpy")
    assert installed.version("no-such-package") is None
    pytest.importorskip("onnxruntime")
    assert "CPUExecutionProvider" in installed.onnx_providers()


def test_an_onnxruntime_that_breaks_on_import_offers_nothing(monkeypatch):
    def broken(name: str) -> None:
        raise OSError("libonnxruntime.so: cannot open shared object file")

    monkeypatch.setattr("edgeinfer.delegates.probe.libraries.import_module", broken)
    assert Installed().onnx_providers() == ()
