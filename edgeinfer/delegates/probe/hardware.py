"""What is plugged in and soldered on, by the kernel's word: USB, PCI, device nodes, and who may use them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.access import group_of
from edgeinfer.board.roots import Roots, entries, printable, read_bytes, read_line

NVIDIA = "0x10de"
INTEL = "0x8086"
GOOGLE_CORAL_PCI = ("0x1ac1", "0x089a")
HAILO_PCI = ("0x1e60", "0x2864")
# Before its first load a USB accelerator is a bare Global Unichip part, afterwards a Google one.
CORAL_USB_FRESH = ("1a6e", "089a")
CORAL_USB_LOADED = ("18d1", "9302")

# By the kernel's driver of a GPU the names of Vulkan's for it; there is none for those at the end.
VULKAN_FOR = {
    "amdgpu": ("radeon", "amd"),
    "asahi": ("asahi",),
    "i915": ("intel", "intel_hasvk"),
    "nouveau": ("nouveau",),
    "nvidia": ("nvidia",),
    "panfrost": ("panfrost",),
    "panthor": ("panfrost",),
    "v3d": ("broadcom",),
    "virtio_gpu": ("virtio", "gfxstream_vk"),
    "xe": ("intel",),
    "etnaviv": (),
    "lima": (),
    "vc4": (),
    "vc4-drm": (),
}
_DPKG_BYTES_MAX = 32 << 20
_SOFTWARE_VULKAN = ("lvp", "vk_swiftshader")


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """where: the port, as in `2-1`. node: what a program opens. mbit_s: the speed that was agreed on.

    has_failed: the kernel could not wake it up.
    """

    ids: tuple[str, str]
    where: str
    node: Path
    mbit_s: str
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class PciDevice:
    """driver: the kernel's, "" where none took it."""

    ids: tuple[str, str]
    where: str
    kind: str
    driver: str


@dataclass(frozen=True, slots=True)
class Node:
    """A file in /dev. driver: the kernel's, "" where it does not say."""

    path: Path
    driver: str
    vendor: str


def usb_devices(roots: Roots) -> list[UsbDevice]:
    found = []
    for folder in entries(roots.sys / "bus/usb/devices"):
        ids = (read_line(folder / "idVendor").lower(), read_line(folder / "idProduct").lower())
        if all(ids):
            bus, number = (read_line(folder / name)[:6] for name in ("busnum", "devnum"))
            node = roots.dev / "bus/usb" / bus.zfill(3) / number.zfill(3)
            has_failed = read_line(folder / "power/runtime_status") == "error"
            found.append(UsbDevice(ids, folder.name, node, read_line(folder / "speed"), has_failed))
    return found


def pci_devices(roots: Roots) -> list[PciDevice]:
    found = []
    for folder in entries(roots.sys / "bus/pci/devices"):
        ids = (read_line(folder / "vendor").lower(), read_line(folder / "device").lower())
        if all(ids):
            found.append(PciDevice(ids, folder.name, read_line(folder / "class").lower(), _link(folder / "driver")))
    return found


def render_nodes(roots: Roots) -> list[Node]:
    """GPUs, and NPUs whose driver calls itself a GPU."""
    return [_node(path, roots.sys / "class/drm") for path in entries(roots.dev / "dri", "renderD*")]


def accel_nodes(roots: Roots) -> list[Node]:
    return [_node(path, roots.sys / "class/accel") for path in entries(roots.dev / "accel", "accel[0-9]*")]


def apex_nodes(roots: Roots) -> list[Path]:
    return entries(roots.dev, "apex_[0-9]*")


def hailo_nodes(roots: Roots) -> list[Path]:
    return entries(roots.dev, "hailo[0-9]*")


def nvidia_nodes(roots: Roots) -> list[Path]:
    """The GPU's own node; a Tegra has one of its host's instead."""
    return [
        *entries(roots.dev, "nvidia[0-9]*"),
        *entries(roots.dev, "nvhost-gpu"),
        *entries(roots.dev / "nvgpu/igpu0", "ctrl"),
    ]


def vulkan_drivers(roots: Roots) -> tuple[list[str], list[str]]:
    """Names of the Vulkan drivers that are installed: for hardware, whether it is here or not, and for the CPU."""
    folders = (roots.usr / "share/vulkan/icd.d", roots.etc / "vulkan/icd.d")
    names = [path.name.partition("_icd")[0] for folder in folders for path in entries(folder, "*.json")]
    software = [name for name in names if name in _SOFTWARE_VULKAN]
    return [name for name in names if name not in software], software


def shared_library(roots: Roots, name: str) -> Path | None:
    """`libname.so.1` in the system's folders, without loading it."""
    folders = [roots.usr / "lib", roots.usr / "lib64", roots.usr / "local/lib"]
    folders += entries(roots.usr / "lib", "*-linux-gnu*")
    return next((path for folder in folders for path in entries(folder, name)), None)


def libedgetpu_version(roots: Roots) -> str:
    """Of Debian's package, "" where it was not installed as one."""
    status = read_bytes(roots.var / "lib/dpkg/status", _DPKG_BYTES_MAX)
    found = re.search(rb"^Package: libedgetpu1-(?:std|max)\n(?:.+\n)*?Version: (\S{1,80})$", status, re.MULTILINE)
    return "" if found is None else printable(found[1])


def refused_by(nodes: Sequence[Path]) -> tuple[Path, str] | None:
    """The first node that this user may not read and write, with its group; None where all are open."""
    for node in nodes:
        if not os.access(node, os.R_OK | os.W_OK):
            return node, group_of(node)
    return None


def _node(path: Path, classes: Path) -> Node:
    device = classes / path.name / "device"
    return Node(path, _link(device / "driver"), read_line(device / "vendor").lower())


def _link(path: Path) -> str:
    """The name that a link of the kernel points at."""
    try:
        return path.readlink().name
    except OSError:
        return ""
