"""One row per device: what speaks for it, what stands in its way, and the command that mends that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeinfer.access import how_to_join
from edgeinfer.board import Board, Roots
from edgeinfer.board.roots import entries, read_line
from edgeinfer.delegates.probe import hardware
from edgeinfer.delegates.probe.libraries import Installed, Libraries

NOT_DRIVEN = "this version of edgeinfer has no driver for it"

_ONNX_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-webgpu")
_TFLITE_PYTHON_END = (3, 12)
_CORAL_RULE = "".join(
    f'SUBSYSTEM=="usb", ATTRS{{idVendor}}=="{vendor}", ATTRS{{idProduct}}=="{product}", GROUP="plugdev"\\n'
    for vendor, product in (hardware.CORAL_USB_FRESH, hardware.CORAL_USB_LOADED)
)
_APEX_RULE = 'SUBSYSTEM=="apex", MODE="0660", GROUP="apex"\\n'
_RENDER_RULE = 'SUBSYSTEM=="drm", KERNEL=="renderD*", MODE="0660", GROUP="render"\\n'
_ACCEL_RULE = 'SUBSYSTEM=="accel", MODE="0660", GROUP="render"\\n'
_LIBEDGETPU = (
    "sudo apt install ./libedgetpu1-std_*.deb, the file for this system from "
    "https://github.com/feranick/libedgetpu/releases"
)

_GASKET = (
    "sudo apt install ./gasket-dkms_*.deb, from https://github.com/feranick/gasket-driver/releases, "
    "then sudo modprobe apex"
)
_APEX_AGAIN = "sudo modprobe -r apex && sudo modprobe apex; if that does not help, switch the board off and on"
_OF_NVIDIA = hardware.VULKAN_FOR["nvidia"]
# The best first.
_INT8_FEATURES = ("i8mm", "asimddp", "avx512_vnni", "avx_vnni", "avx2", "asimd", "sse4_1")


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """reason: all that is missing, None where usable. remedy: the command for the first of it, or None."""

    word: str
    usable: bool
    evidence: tuple[str, ...]
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """For and against one device. Problems come in the order in which they are to be mended."""

    word: str
    evidence: list[str] = field(default_factory=list)
    problems: list[tuple[str, str | None]] = field(default_factory=list)

    def speaks(self, *evidence: str) -> None:
        self.evidence.extend(evidence)

    def lacks(self, reason: str, remedy: str | None = None) -> None:
        self.problems.append((reason, remedy))


@dataclass(frozen=True, slots=True)
class _Machine:
    """All that the cases are judged by, looked up once. onnx: the packages of ONNX Runtime, with their versions."""

    board: Board
    roots: Roots
    libraries: Libraries
    onnx: tuple[tuple[str, str], ...]
    providers: tuple[str, ...]
    usb: Sequence[hardware.UsbDevice]
    pci: Sequence[hardware.PciDevice]
    render: Sequence[hardware.Node]
    accel: Sequence[hardware.Node]

    @property
    def is_tegra(self) -> bool:
        return any(name.startswith("nvidia,tegra") for name in self.board.compatible)


def probe(
    board: Board,
    roots: Roots | None = None,
    libraries: Libraries | None = None,
    *,
    prove: Callable[[str], str | None] | None = None,
) -> tuple[DeviceRow, ...]:
    """Every device, usable or not. Opens none and runs no model, unless `prove` does.

    prove: runs a model on the device of that word, and gives the reason where it could not.
    """
    machine = _look(board, roots or Roots(), libraries or Installed())
    return tuple(_judge(word, case, machine, prove) for word, case in _CASES.items())


def _look(board: Board, roots: Roots, libraries: Libraries) -> _Machine:
    versions = ((package, libraries.version(package)) for package in _ONNX_PACKAGES)
    installed = tuple((package, found) for package, found in versions if found is not None)
    return _Machine(
        board=board,
        roots=roots,
        libraries=libraries,
        onnx=installed,
        providers=libraries.onnx_providers() if installed else (),
        usb=hardware.usb_devices(roots),
        pci=hardware.pci_devices(roots),
        render=hardware.render_nodes(roots),
        accel=hardware.accel_nodes(roots),
    )


def _judge(
    word: str,
    judge: Callable[[_Case, _Machine], None],
    machine: _Machine,
    prove: Callable[[str], str | None] | None,
) -> DeviceRow:
    case = _Case(word)
    judge(case, machine)
    if not case.problems and prove is not None:
        failed = prove(word)
        if failed is None:
            case.speaks("ran a model just now")
        else:
            case.lacks(failed)
    if not case.problems:
        return DeviceRow(word, True, tuple(case.evidence))
    reason = "; ".join(reason for reason, _ in case.problems)
    # Where the hardware is missing, no package helps.
    _, remedy = case.problems[0]
    return DeviceRow(word, False, tuple(case.evidence), reason, remedy)


# The CPU.


def _litert_cpu(case: _Case, machine: _Machine) -> None:
    _is_64_bit(case, machine)
    _package(case, machine, "ai-edge-litert", "pip install ai-edge-litert")
    _cores(case, machine)


def _tflite_cpu(case: _Case, machine: _Machine) -> None:
    _is_64_bit(case, machine)
    libraries = machine.libraries
    installs = libraries.python < _TFLITE_PYTHON_END
    remedy = "pip install 'edgeinfer[tflite]'" if installs else None
    if _package(case, machine, "tflite-runtime", remedy):
        numpy = libraries.version("numpy") or "0"
        case.speaks(f"numpy {numpy}")
        if not numpy.startswith(("0.", "1.")):
            # It imports, and fails with SystemError when an interpreter is made.
            case.lacks(f"tflite-runtime does not run with numpy {numpy}, only with numpy 1", remedy)
    elif not installs:
        case.lacks(f"there is none for Python {libraries.python[0]}.{libraries.python[1]}")
    _cores(case, machine)


def _onnx_cpu(case: _Case, machine: _Machine) -> None:
    _is_64_bit(case, machine)
    _onnx_provider(case, machine, "CPUExecutionProvider", "onnxruntime")
    _cores(case, machine)


def _openvino_cpu(case: _Case, machine: _Machine) -> None:
    _is_64_bit(case, machine)
    _openvino(case, machine)
    _cores(case, machine)


def _is_64_bit(case: _Case, machine: _Machine) -> None:
    architecture = machine.board.architecture
    if architecture not in ("aarch64", "x86_64"):
        case.lacks(f"the system is {architecture}, and needs to be a 64-bit one (aarch64 or x86_64)")


def _cores(case: _Case, machine: _Machine) -> None:
    board = machine.board
    case.speaks(f"{board.cores} core{'s' if board.cores > 1 else ''}")
    best = next((feature for feature in _INT8_FEATURES if feature in board.features), None)
    if best is not None:
        case.speaks(f"int8 by {best}")


# The Edge TPU.


def _edgetpu_usb(case: _Case, machine: _Machine) -> None:
    corals = [one for one in machine.usb if one.ids in (hardware.CORAL_USB_FRESH, hardware.CORAL_USB_LOADED)]
    for coral in corals:
        state = "loaded" if coral.ids == hardware.CORAL_USB_LOADED else "not loaded yet"
        speed = f", {coral.mbit_s} Mbit/s" if coral.mbit_s else ""
        case.speaks(f"USB {':'.join(coral.ids)} at {coral.where} ({state}{speed})")
        if coral.has_failed:
            case.lacks(f"the Edge TPU at {coral.where} does not answer", _usb_again(coral.where))
    if not corals:
        case.lacks("no Edge TPU on USB (1a6e:089a or 18d1:9302)")
    _libedgetpu(case, machine, is_wanted=bool(corals))
    _open_to_us(case, [coral.node for coral in corals], _CORAL_RULE, "60-libedgetpu1-std")


def _usb_again(port: str) -> str:
    """As if it were pulled out and plugged in."""
    driver = "/sys/bus/usb/drivers/usb"
    return f"echo {port} | sudo tee {driver}/unbind && sleep 1 && echo {port} | sudo tee {driver}/bind"


def _edgetpu_pci(case: _Case, machine: _Machine) -> None:
    corals = [one for one in machine.pci if one.ids == hardware.GOOGLE_CORAL_PCI]
    nodes = hardware.apex_nodes(machine.roots)
    case.speaks(*(f"PCI 1ac1:089a at {coral.where}" for coral in corals), *map(str, nodes))
    if not corals and not nodes:
        case.lacks("no Edge TPU on PCIe (1ac1:089a)")
    elif not nodes:
        case.lacks(
            "its driver (gasket, apex) is not loaded: no /dev/apex_0",
            _GASKET,
        )
    for node in nodes:
        status = read_line(machine.roots.sys / "class/apex" / node.name / "status")
        if status not in ("", "ALIVE"):
            case.lacks(f"{node} does not answer (its driver says {status})", _APEX_AGAIN)
    _libedgetpu(case, machine, is_wanted=bool(corals or nodes))
    _open_to_us(case, nodes, _APEX_RULE, "65-apex")


def _libedgetpu(case: _Case, machine: _Machine, *, is_wanted: bool) -> None:
    library = hardware.shared_library(machine.roots, "libedgetpu.so.1")
    version = hardware.libedgetpu_version(machine.roots)
    if library is not None:
        case.speaks(f"{library}, {version}" if version else str(library))
    if not is_wanted:
        return
    if library is None:
        case.lacks("libedgetpu.so.1 is not installed", _LIBEDGETPU)
    elif version and "tf" not in version.lower():
        # It carries no mark of the TensorFlow that it was built for: Google's own, of 2021 or before.
        case.lacks(f"libedgetpu {version} is too old, and crashes with ai-edge-litert", _LIBEDGETPU)
    _package(case, machine, "ai-edge-litert", "pip install ai-edge-litert")


# GPUs.


def _litert_gpu(case: _Case, machine: _Machine) -> None:
    _vulkan_gpu(case, machine)
    _package(case, machine, "ai-edge-litert", "pip install ai-edge-litert")
    _open_to_us(case, [node.path for node in _gpus(machine)], _RENDER_RULE, "65-render")


def _vulkan_gpu(case: _Case, machine: _Machine) -> None:
    """A GPU, and among all the Vulkan drivers that a package brings one for it."""
    nodes, nvidia = _gpus(machine), hardware.nvidia_nodes(machine.roots)
    wanted = {_vulkan_names(node, nvidia) for node in nodes} | ({_OF_NVIDIA} if nvidia else set())
    installed, software = hardware.vulkan_drivers(machine.roots)
    fitting = [name for name in installed if any(names is None or name in names for names in wanted)]
    case.speaks(*(_named(node) for node in nodes), *map(str, nvidia))
    for name, drivers in (("Vulkan", fitting), ("Vulkan on the CPU", software)):
        if drivers:
            case.speaks(f"{name}: {' '.join(drivers)}")
    if not wanted:
        case.lacks("no GPU: no /dev/dri/renderD* and no NVIDIA node")
    elif wanted == {()}:
        case.lacks("nobody has made a Vulkan driver for it")
    elif not fitting and wanted <= {_OF_NVIDIA, ()}:
        case.lacks("no Vulkan driver for it: nvidia_icd.json comes with NVIDIA's driver", _nvidia_driver(machine))
    elif not fitting:
        case.lacks("no Vulkan driver for it", "sudo apt install mesa-vulkan-drivers")


def _vulkan_names(node: hardware.Node, nvidia: Sequence[Path]) -> tuple[str, ...] | None:
    """The Vulkan drivers that may be for a node; None where its kernel's driver is not known here: any may be."""
    return hardware.VULKAN_FOR.get(node.driver, _OF_NVIDIA if nvidia else None)


def _onnx_cuda(case: _Case, machine: _Machine) -> None:
    _nvidia(case, machine)
    _onnx_provider(case, machine, "CUDAExecutionProvider", "onnxruntime-gpu")


def _onnx_tensorrt(case: _Case, machine: _Machine) -> None:
    _nvidia(case, machine)
    libraries = (hardware.shared_library(machine.roots, f"libnvinfer.so.{number}") for number in (10, 8))
    library = next((found for found in libraries if found is not None), None)
    if library is not None:
        case.speaks(str(library))
    else:
        remedy = "sudo apt install nvidia-jetpack" if machine.is_tegra else None
        case.lacks("TensorRT is not installed (libnvinfer.so.10)", remedy)
    _onnx_provider(case, machine, "TensorrtExecutionProvider", "onnxruntime-gpu")


def _nvidia(case: _Case, machine: _Machine) -> None:
    cards = [one for one in machine.pci if one.ids[0] == hardware.NVIDIA and one.kind.startswith("0x03")]
    nodes = hardware.nvidia_nodes(machine.roots)
    case.speaks(*(f"PCI {_ids(card)} at {card.where}" for card in cards), *map(str, nodes))
    if machine.is_tegra:
        case.speaks("a Tegra by the device tree")
    if not cards and not nodes and not machine.is_tegra:
        case.lacks("no NVIDIA GPU (PCI vendor 10de, /dev/nvidia0)")
    elif not nodes and machine.is_tegra:
        case.lacks("NVIDIA's driver is not loaded: no /dev/nvhost-gpu", _nvidia_driver(machine))
    elif not nodes:
        case.lacks("NVIDIA's driver is not loaded: no /dev/nvidia0", _nvidia_driver(machine))
    _open_to_us(case, nodes, "", "")


def _nvidia_driver(machine: _Machine) -> str:
    if machine.is_tegra:
        return "sudo apt install nvidia-jetpack"
    return "sudo ubuntu-drivers install, or on Debian sudo apt install nvidia-driver"


def _onnx_openvino(case: _Case, machine: _Machine) -> None:
    if machine.board.architecture != "x86_64":
        case.lacks("onnxruntime-openvino is built for x86-64 only")
        return
    _onnx_provider(case, machine, "OpenVINOExecutionProvider", "onnxruntime-openvino")


def _onnx_webgpu(case: _Case, machine: _Machine) -> None:
    if machine.board.architecture != "x86_64":
        case.lacks("onnxruntime-webgpu is built for x86-64 only")
        return
    _vulkan_gpu(case, machine)
    _onnx_provider(case, machine, "WebGpuExecutionProvider", "onnxruntime-webgpu")
    _open_to_us(case, [node.path for node in _gpus(machine)], _RENDER_RULE, "65-render")


def _openvino_gpu(case: _Case, machine: _Machine) -> None:
    nodes = [node for node in machine.render if node.vendor == hardware.INTEL]
    case.speaks(*(_named(node) for node in nodes))
    if not nodes:
        case.lacks("no Intel GPU (/dev/dri/renderD* with PCI vendor 8086)")
    else:
        runtime = hardware.shared_library(machine.roots, "libigdrcl.so") or next(
            (path for path in entries(machine.roots.etc / "OpenCL/vendors", "intel*.icd")), None
        )
        if runtime is None:
            case.lacks("Intel's OpenCL driver is not installed", "sudo apt install intel-opencl-icd")
        else:
            case.speaks(str(runtime))
    _openvino(case, machine)
    _open_to_us(case, [node.path for node in nodes], _RENDER_RULE, "65-render")


# NPUs.


def _openvino_npu(case: _Case, machine: _Machine) -> None:
    nodes = [node for node in machine.accel if node.driver == "intel_vpu"]
    chips = [one for one in machine.pci if one.ids[0] == hardware.INTEL and one.kind.startswith("0x1200")]
    case.speaks(*(f"PCI {_ids(chip)} at {chip.where}" for chip in chips), *(_named(node) for node in nodes))
    if not nodes and not chips:
        case.lacks("no Intel NPU (/dev/accel/accel* of the driver intel_vpu)")
    elif not nodes:
        case.lacks("its driver is not loaded: no /dev/accel/accel*", "sudo modprobe intel_vpu")
    _openvino(case, machine)
    _open_to_us(case, [node.path for node in nodes], _ACCEL_RULE, "65-accel")


def _npu(case: _Case, machine: _Machine) -> None:
    """Whatever computes networks and is none of the above."""
    rockchip = [node for node in machine.render if node.driver.lower() == "rknpu"]
    others = [node for node in machine.accel if node.driver != "intel_vpu"]
    hailo = [f"PCI {_ids(one)} at {one.where}" for one in machine.pci if one.ids == hardware.HAILO_PCI]
    found = (
        [_named(node) for node in (*rockchip, *others)] + hailo + list(map(str, hardware.hailo_nodes(machine.roots)))
    )
    case.speaks(*found)
    if not found:
        case.lacks("no NPU that its kernel shows (/dev/accel/accel*, rknpu, Hailo)")
    else:
        case.lacks(NOT_DRIVEN)


# Shared.


def _gpus(machine: _Machine) -> list[hardware.Node]:
    return [node for node in machine.render if node.driver.lower() != "rknpu"]


def _named(node: hardware.Node) -> str:
    return f"{node.path} ({node.driver})" if node.driver else str(node.path)


def _ids(device: hardware.PciDevice) -> str:
    return ":".join(part.removeprefix("0x") for part in device.ids)


def _package(case: _Case, machine: _Machine, package: str, remedy: str | None) -> bool:
    found = machine.libraries.version(package)
    if found is None:
        case.lacks(f"{package} is not installed", remedy)
        return False
    case.speaks(f"{package} {found}")
    return True


def _openvino(case: _Case, machine: _Machine) -> None:
    _package(case, machine, "openvino", "pip install 'openvino>=2025.4,<2027'")


def _onnx_provider(case: _Case, machine: _Machine, provider: str, package: str) -> None:
    # CUDA's own libraries come with pip only when they are asked for.
    wanted = f"'{package}[cuda,cudnn]'" if package == "onnxruntime-gpu" else package
    if not machine.onnx:
        case.lacks("onnxruntime is not installed", f"pip install {wanted}")
        return
    case.speaks(*(f"{name} {version}" for name, version in machine.onnx))
    names = " ".join(name for name, _ in machine.onnx)
    if provider in machine.providers:
        case.speaks(provider)
    elif not machine.providers:
        case.lacks(f"{names} does not load", f"pip install --force-reinstall {names}")
    else:
        if machine.is_tegra and package == "onnxruntime-gpu":
            wanted = "onnxruntime-gpu, the wheel for the installed JetPack from https://pypi.jetson-ai-lab.io"
        # All put their files into the same folder, so that only one may be there.
        case.lacks(f"{names} has no {provider}", f"pip uninstall --yes {names} && pip install {wanted}")


def _open_to_us(case: _Case, nodes: Sequence[Path], rule: str, file: str) -> None:
    refused = hardware.refused_by(nodes)
    if refused is None:
        return
    node, group = refused
    if not node.exists():
        case.lacks(f"there is no {node}: in a container it must be passed in", None)
    elif group:
        case.lacks(f"{node} is closed to this user (group {group})", how_to_join(group))
    elif rule:
        path = f"/etc/udev/rules.d/{file}.rules"
        reload = "sudo udevadm control --reload && sudo udevadm trigger"
        case.lacks(f"{node} is closed to this user", f"printf '{rule}' | sudo tee {path} && {reload}")
    else:
        case.lacks(f"{node} is closed to this user", f"sudo chmod a+rw {node}")


_CASES: dict[str, Callable[[_Case, _Machine], None]] = {
    "litert:cpu": _litert_cpu,
    "tflite:cpu": _tflite_cpu,
    "onnx:cpu": _onnx_cpu,
    "litert:edgetpu:usb": _edgetpu_usb,
    "litert:edgetpu:pci": _edgetpu_pci,
    "litert:gpu": _litert_gpu,
    "onnx:cuda": _onnx_cuda,
    "onnx:tensorrt": _onnx_tensorrt,
    "onnx:openvino": _onnx_openvino,
    "onnx:webgpu": _onnx_webgpu,
    "openvino:cpu": _openvino_cpu,
    "openvino:gpu": _openvino_gpu,
    "openvino:npu": _openvino_npu,
    "npu": _npu,
}
